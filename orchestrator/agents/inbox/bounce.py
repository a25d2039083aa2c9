"""Delivery status notifications of an inbox (RFC 3464), sent from ``<>`` through the bed's relay."""

import asyncio
from collections.abc import Callable, Collection
from email import policy
from email.message import EmailMessage, Message
from email.mime.base import MIMEBase
from email.utils import formatdate, make_msgid
from typing import Any

import aiosmtplib

from orchestrator.agents.inbox.folding import fold_address

HOST = "sink.test"
_PORT = 25
_TIMEOUT_S = 60.0
MOST = 4096
"""Maximum number of waiting notifications; further notifications are not sent, but recorded."""
CONNECTIONS = 4
"""Maximum number of concurrent connections to the relay."""
_QUOTED = 16 * 1024
"""Maximum octets that a notification quotes of a message's header section."""
_TEXT = """\
This is the mail system of {host}.

Your message could not be delivered to

    {recipient}

because a rule of this inbox says so.
"""


class Bouncer:
    """Sends notifications when they are due; ``record`` is called with the outcome of each."""

    def __init__(
        self, relay: str | None, domains: Collection[str], record: Callable[[str, dict[str, Any]], None]
    ) -> None:
        self._relay, self._domains, self._record = relay, frozenset(map(fold_address, domains)), record
        self._tasks: dict[asyncio.Task[None], dict[str, Any]] = {}
        self.taken = 0
        """Notifications that were ordered."""
        self._connections = asyncio.Semaphore(CONNECTIONS)

    def refuses(self, sender: str) -> bool:
        """Return whether no notification can go to this sender: the domain is outside the bed, or there is no relay."""
        return self._relay is None or (bool(sender) and fold_address(sender).rpartition("@")[2] not in self._domains)

    def due(self, sender: str, recipient: str, head: bytes, seconds: float) -> None:
        """Send a notification ``seconds`` later; a message from ``<>`` causes no notification (RFC 5321, 4.5.5)."""
        if not sender:
            return
        facts: dict[str, Any] = {"sender": sender, "recipient": recipient}
        if len(self._tasks) >= MOST:
            self._record("bounce", {**facts, "error": f"{MOST} notifications wait, the limit"})
            return
        self.taken += 1
        task = asyncio.ensure_future(self._send(facts, head, seconds))
        self._tasks[task] = facts
        task.add_done_callback(self._tasks.pop)

    @property
    def waiting(self) -> list[dict[str, Any]]:
        """``sender`` and ``recipient`` of each message whose notification the relay has not yet accepted."""
        return list(self._tasks.values())

    async def _send(self, facts: dict[str, Any], head: bytes, seconds: float) -> None:
        await asyncio.sleep(seconds)
        sender, recipient = facts["sender"], facts["recipient"]
        try:
            relay = aiosmtplib.SMTP(hostname=self._relay, port=_PORT, start_tls=False, timeout=_TIMEOUT_S)
            async with self._connections, relay as smtp:
                options = [] if (sender + recipient).isascii() else ["SMTPUTF8"]
                await smtp.sendmail("", [sender], notification(sender, recipient, head), mail_options=options)
        except Exception as error:  # noqa: BLE001  the message is untrusted: any error is recorded
            self._record("bounce", {**facts, "error": str(error)})
        else:
            self._record("bounce", facts)


def header_section(message: bytes) -> bytes:
    """Return the part of a message's header section that a notification quotes."""
    return message[:_QUOTED].partition(b"\r\n\r\n")[0]


def notification(sender: str, recipient: str, head: bytes) -> bytes:
    """Return a notification that a message was not delivered: text, machine-readable part, header section."""
    whole = EmailMessage()
    whole["From"] = f"Mail Delivery System <MAILER-DAEMON@{HOST}>"
    whole["To"] = sender
    whole["Subject"] = "Undelivered Mail Returned to Sender"
    whole["Date"], whole["Message-ID"], whole["Auto-Submitted"] = formatdate(), make_msgid(domain=HOST), "auto-replied"
    text = EmailMessage()
    text.set_content(_TEXT.format(host=HOST, recipient=recipient))
    status = MIMEBase("message", "delivery-status")
    status.attach(_fields({"Reporting-MTA": f"dns; {HOST}"}))
    status.attach(
        _fields(
            {
                "Final-Recipient": f"rfc822; {recipient}",
                "Action": "failed",
                "Status": "5.0.0",
                "Diagnostic-Code": "smtp; 550 5.0.0 a rule of this inbox bounces it",
            }
        )
    )
    quoted = MIMEBase("text", "rfc822-headers")
    fields = head.decode("utf-8", "replace").replace("\r\n", "\n") + "\n"
    quoted.set_payload(fields, "us-ascii" if fields.isascii() else "utf-8")
    whole.make_mixed()
    whole.set_type("multipart/report")
    whole.set_param("report-type", "delivery-status")
    for part in (text, status, quoted):
        del part["MIME-Version"]
        whole.attach(part)  # type: ignore[arg-type]  # any part of the standard library's
    return whole.as_bytes(policy=policy.SMTPUTF8)


def _fields(pairs: dict[str, str]) -> Message:
    fields = Message()
    for name, value in pairs.items():
        fields[name] = value
    return fields
