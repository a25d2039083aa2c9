"""Mail that the test itself sends."""

import mimetypes
import smtplib
from collections.abc import Mapping, Sequence
from email.message import EmailMessage
from email.utils import formatdate, make_msgid

_REPLY_S = 30.0
"""Time limit of each reply of the relay."""


def send(host: str, port: int, message: EmailMessage | bytes, sender: str, recipients: Sequence[str]) -> None:
    """Send a message to a relay. ``sender`` and ``recipients`` are the envelope's.

    Raises:
        smtplib.SMTPException: the relay refused the message.
    """
    with smtplib.SMTP(host, port, timeout=_REPLY_S) as smtp:
        if isinstance(message, bytes):
            smtp.sendmail(sender, recipients, message)
        else:
            smtp.send_message(message, sender, recipients)


def compose(to: Sequence[str], sender: str, subject: str, text: str, attachments: Mapping[str, bytes]) -> EmailMessage:
    """Return a message with Date and Message-ID; ``attachments``: file name -> content."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = sender or "MAILER-DAEMON", ", ".join(to), subject
    message["Date"], message["Message-ID"] = formatdate(), make_msgid(domain="testbed.test")
    message.set_content(text)
    for name, content in attachments.items():
        kind, packed = mimetypes.guess_type(name)
        maintype, subtype = (kind or "application/octet-stream").split("/")
        if packed or maintype in {"message", "multipart"}:  # compressed content, or a type that forbids base64
            maintype, subtype = "application", "octet-stream"
        message.add_attachment(content, maintype=maintype, subtype=subtype, filename=name)
    return message
