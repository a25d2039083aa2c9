"""Generated messages: the same seed gives the same octets in the test and in the container of the clients."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

HUGE_B = 25_000_000
MANY = 100
LONG_B = 10_000
_WORDS = (b"mail", b"relay", b"inbox", b"=20", b"From", b"\t", b"--boundary", b"'\"", b"&lt;")


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One message and its envelope. ``octets`` are not dot-stuffed, and end with CRLF unless there are none."""

    number: int
    kind: str
    sender: str
    recipients: tuple[str, ...]
    octets: bytes

    @property
    def utf8(self) -> bool:
        """Whether its envelope needs SMTPUTF8."""
        return not all(address.isascii() for address in (self.sender, *self.recipients))


def letters(seed: int, count: int) -> Iterator[Letter]:
    """Yield ``count`` messages, one kind after the other; of 100 or more messages one has 25 MB."""
    random = Random(seed)
    kinds = list(_KINDS)
    for number in range(count):
        huge = number == 99
        kind = "huge" if huge else kinds[number % len(kinds)]
        recipients = [f"r{i}.{number}@example.com" for i in range(MANY if kind == "recipients" else 1)]
        sender = f"s{number}@example.org"
        if kind == "smtputf8":
            sender, recipients = f"añ{number}@bücher.example.org", [f"用户{number}@例え.example.com", *recipients]
        octets = b"" if kind == "empty" else _header(number, kind) + b"\r\n".join(_KINDS.get(kind, _huge)(random))
        yield Letter(number=number, kind=kind, sender=sender, recipients=tuple(recipients), octets=octets)


def _header(number: int, kind: str) -> bytes:
    more = {
        "eight-bit": b"X-Raw: \xe4\xf6\xfc \xff\x80\r\n",
        "smtputf8": "X-Word: grüße 用户\r\n".encode(),
        "nul": b"X-Nul: a\0b\r\n",
        "long": b"X-Long: " + b"w" * LONG_B + b"\r\n",
        "folded": b"X-Folded: one\r\n\ttwo\r\n  three  \r\n",
    }
    return b"Subject: %b %d\r\n%b\r\n" % (kind.encode(), number, more.get(kind, b""))


def _words(random: Random) -> bytes:
    return b" ".join(random.choice(_WORDS) for _ in range(random.randrange(12)))


def _plain(random: Random) -> list[bytes]:
    return [*(_words(random) for _ in range(random.randrange(30))), b""]


def _eight_bit(random: Random) -> list[bytes]:
    octets = bytes(range(0x80, 0x100))
    return [*(bytes(random.choice(octets) for _ in range(random.randrange(70))) for _ in range(20)), b""]


def _utf8(random: Random) -> list[bytes]:
    return ["".join(random.choice("aäß€用🙂") for _ in range(30)).encode() for _ in range(9)] + [b""]


def _nul(random: Random) -> list[bytes]:
    return [b"\0", b"a\0b", *(b"\0" * random.randrange(3) + _words(random) for _ in range(9)), b"\0.", b".\0", b""]


def _dots(random: Random) -> list[bytes]:
    return [b".", b"..", b"...", *(b"." * random.randrange(4) + _words(random) for _ in range(20)), b".", b".", b""]


def _long(random: Random) -> list[bytes]:
    return [*(random.choice((b".", b"x", b"\xe9")) * random.randrange(LONG_B, LONG_B + 99) for _ in range(5)), b""]


def _huge(random: Random) -> list[bytes]:
    block = [random.choice((b"", b".", b"\xe9")) + b"%0*d" % (random.randrange(20, 80), i) for i in range(1000)]
    size = sum(len(line) + 2 for line in block)
    return [*(block * (HUGE_B // size + 1)), b""]


def _bare(random: Random) -> list[bytes]:
    ends = (b"\n", b"\r", b"\n\n", b"\n.\n", b"\r.\r", b"\r\r", b"\n.", b"\r.")
    return [*(b"a" + random.choice(ends) + b"b" + _words(random) for _ in range(20)), b"a\n.", b".\rb", b""]


_KINDS: dict[str, Callable[[Random], list[bytes]]] = {
    "plain": _plain,
    "eight-bit": _eight_bit,
    "smtputf8": _utf8,
    "nul": _nul,
    "dots": _dots,
    "long": _long,
    "recipients": _plain,
    "folded": _plain,
    "bare": _bare,
    "empty": _plain,  # left out
}
