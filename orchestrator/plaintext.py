"""Untrusted text made safe for a terminal: control characters become visible."""

from typing import IO

LAYOUT = "\n\t"
"""Control characters that are safe to print."""


def plain(text: object, keep: str = "\n") -> str:
    r"""Return text with each unprintable character escaped as ``\xNN``, ``\uNNNN`` or ``\UNNNNNNNN``.

    Unprintable are control characters (C0, C1) and format characters that reorder a line (Unicode categories Other and
    Separator, as for str.isprintable), but not the space and the characters of ``keep``.
    """
    return "".join(c if c.isprintable() or c in keep else _visible(ord(c)) for c in str(text))


def pass_on(text: str, stream: IO[str]) -> None:
    """Print a node's output: made safe on a terminal; unchanged into a pipe or a file, as ls(1) does."""
    stream.write(plain(text, LAYOUT) if stream.isatty() else text)
    stream.flush()


def _visible(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
