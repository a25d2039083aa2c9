"""Sends generated messages with one client of SMTP, one connection each.

::

    python3 -m tests.integration.clients.send SEED COUNT CLIENT HOST PORT

To ``localhost``, even numbers go by STARTTLS and AUTH. Prints a JSON line for each message that was not accepted.
"""

import asyncio
import smtplib
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import aiosmtplib

from tests.integration.clients.letters import Letter, letters
from tests.integration.clients.tap import tell

AUTHORITY = "/testbed/ca.pem"
USER, PASSWORD = "any", "password"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where to send, and how."""

    host: str
    port: int
    secure: bool


def options(letter: Letter) -> list[str]:
    """Return the parameters of MAIL that a message needs."""
    return ["BODY=8BITMIME", *(["SMTPUTF8"] if letter.utf8 else [])]


def stuffed(octets: bytes) -> bytes:
    """Return what stands between DATA's reply and the next one (RFC 5321, 4.5.2)."""
    return b"\r\n".join(b"." + line if line[:1] == b"." else line for line in octets.split(b"\r\n"))


def with_smtplib(letter: Letter, to: Server) -> None:
    """Send with the standard library."""
    with smtplib.SMTP(to.host, to.port, timeout=60) as smtp:
        if to.secure:
            smtp.starttls(context=ssl.create_default_context(cafile=AUTHORITY))
            smtp.login(USER, PASSWORD)
        smtp.sendmail(letter.sender, letter.recipients, letter.octets, options(letter))


def with_aiosmtplib(letter: Letter, to: Server) -> None:
    """Send with aiosmtplib."""

    async def send() -> None:
        trust = ssl.create_default_context(cafile=AUTHORITY)
        client = aiosmtplib.SMTP(hostname=to.host, port=to.port, start_tls=to.secure, tls_context=trust, timeout=60)
        async with client:
            if to.secure:
                await client.login(USER, PASSWORD)
            await client.sendmail(letter.sender, letter.recipients, letter.octets, mail_options=options(letter))

    asyncio.run(send())


def with_swaks(letter: Letter, to: Server) -> None:
    """Send with swaks; alternate PLAIN and LOGIN."""
    mechanism = ("PLAIN", "LOGIN")[letter.number // 2 % 2]
    secure = ("--tls", "--tls-verify", "--tls-ca-path", AUTHORITY, "--auth", mechanism, "-au", USER, "-ap", PASSWORD)
    raw = letter.kind == "bare"  # it would make CRLF of bare line feeds
    with tempfile.NamedTemporaryFile() as file:
        file.write((stuffed(letter.octets) if raw else letter.octets) + b".")
        file.flush()
        _run(
            *("swaks", "--silent", "2", "--server", to.host, "--port", str(to.port), *(secure if to.secure else ())),
            *("--from", letter.sender, "--to", ",".join(letter.recipients), "--data", f"@{file.name}"),
            *(("--no-data-fixup",) if raw else ()),
        )


def with_msmtp(letter: Letter, to: Server) -> None:
    """Send with msmtp."""
    login = ("--auth=plain", f"--user={USER}", f"--passwordeval=echo {PASSWORD}")
    secure = ("--tls=on", "--tls-starttls=on", f"--tls-trust-file={AUTHORITY}", *login)
    _run(
        *("msmtp", f"--host={to.host}", f"--port={to.port}", *(secure if to.secure else ("--tls=off",))),
        *(
            "--set-from-header=off",
            "--set-date-header=off",
            "--set-msgid-header=off",
            f"--from={letter.sender}",
            "--",
            *letter.recipients,
        ),
        octets=letter.octets,
    )


def _run(*command: str, octets: bytes = b"") -> None:
    done = subprocess.run(command, input=octets, capture_output=True, check=False)
    if done.returncode:
        raise OSError(f"{command[0]} ended with {done.returncode}: {(done.stderr + done.stdout)[-500:].decode()}")


def with_a_socket(letter: Letter, to: Server) -> None:
    """Send what no client changes."""
    with socket.create_connection((to.host, to.port), timeout=60) as connection, connection.makefile("rb") as replies:

        def command(octets: bytes, good: bytes) -> None:
            connection.sendall(octets)
            while (reply := replies.readline())[3:4] == b"-":
                pass
            if not reply.startswith(good):
                raise OSError(reply.decode())

        command(b"", b"220")
        command(b"EHLO client.test\r\n", b"250")
        command(f"MAIL FROM:<{letter.sender}> {' '.join(options(letter))}\r\n".encode(), b"250")
        for recipient in letter.recipients:
            command(f"RCPT TO:<{recipient}>\r\n".encode(), b"250")
        command(b"DATA\r\n", b"354")
        command(stuffed(letter.octets) + b".\r\n", b"250")
        command(b"QUIT\r\n", b"221")


CLIENTS: dict[str, Callable[[Letter, Server], None]] = {
    "smtplib": with_smtplib,
    "aiosmtplib": with_aiosmtplib,
    "swaks": with_swaks,
    "msmtp": with_msmtp,
    "socket": with_a_socket,
}

if __name__ == "__main__":
    seed, count, name, host, port = sys.argv[1:]
    for each in letters(int(seed), int(count)):
        secure = host == "localhost" and name != "socket" and each.number % 2 == 0
        try:
            CLIENTS[name](each, Server(host=host, port=int(port), secure=secure))
        except (OSError, ValueError, smtplib.SMTPException) as error:
            tell({"number": each.number, "kind": each.kind, "error": str(error)})
