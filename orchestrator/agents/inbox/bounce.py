"""Delivery status notifications of an inbox (RFC 3464), sent from ``<>`` through the bed's relay."""

import asyncio
from collections.abc import Callable, Collection
from email import policy
from email.message import EmailMessage, Message
from email.mime.base import MIMEBase
from email.utils import formatdate, make_msgid
from typing import Any

import aiosmtplib

from orchestrator.agents.inbox.head import LIMIT

HOST = "sink.test"
_TIMEOUT_S = 60.0
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
        self._relay, self._domains, self._record = relay, frozenset(domains), record
        self._tasks: set[asyncio.Task[None]] = set()

    def refuses(self, sender: str) -> bool:
        """Return whether a notification for this sender would leave the bed, or cannot be sent."""
        return self._relay is None or (bool(sender) and sender.rpartition("@")[2].lower() not in self._domains)

    def due(self, sender: str, recipient: str, message: bytes, seconds: float) -> None:
        """Send a notification ``seconds`` later; none about a message from ``<>`` (RFC 5321, 4.5.5)."""
        if sender:
            task = asyncio.ensure_future(self._send(sender, recipient, message, seconds))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _send(self, sender: str, recipient: str, message: bytes, seconds: float) -> None:
        await asyncio.sleep(seconds)
        facts: dict[str, Any] = {"sender": sender, "recipient": recipient}
        try:
            async with aiosmtplib.SMTP(hostname=self._relay, port=25, start_tls=False, timeout=_TIMEOUT_S) as smtp:
                await smtp.sendmail("", [sender], notification(sender, recipient, message))
        except (OSError, aiosmtplib.SMTPException) as error:
            self._record("bounce", {**facts, "error": str(error)})
        else:
            self._record("bounce", facts)


def notification(sender: str, recipient: str, message: bytes) -> bytes:
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
    head = MIMEBase("text", "rfc822-headers", charset="utf-8")
    head.set_payload(message[:LIMIT].partition(b"\r\n\r\n")[0].decode("utf-8", "replace").replace("\r\n", "\n") + "\n")
    whole.make_mixed()
    whole.set_type("multipart/report")
    whole.set_param("report-type", "delivery-status")
    for part in (text, status, head):
        del part["MIME-Version"]
        whole.attach(part)  # type: ignore[arg-type]  # any part of the standard library's
    return whole.as_bytes(policy=policy.SMTPUTF8)


def _fields(pairs: dict[str, str]) -> Message:
    fields = Message()
    for name, value in pairs.items():
        fields[name] = value
    return fields
