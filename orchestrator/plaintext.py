"""Untrusted text made safe for a terminal: control characters become visible."""

from typing import IO

LAYOUT = "\n\t"
"""Control characters that only lay text out."""


def plain(text: object, keep: str = "\n") -> str:
    r"""Return text with every character that cannot be printed as ``\xNN``, ``\uNNNN`` or ``\UNNNNNNNN``.

    That is all of C0, C1 and the formats that reorder a line (Unicode categories Other and Separator, str.isprintable),
    but the space and the characters of ``keep``.
    """
    return "".join(c if c.isprintable() or c in keep else _visible(ord(c)) for c in str(text))


def pass_on(text: str, stream: IO[str]) -> None:
    """Print what a node said: plain on a terminal; as it is, as ls(1) does, into a pipe or a file."""
    stream.write(plain(text, LAYOUT) if stream.isatty() else text)
    stream.flush()


def _visible(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
