"""An application that sends mail: one issue of a newsletter to each reader."""

import smtplib
from collections.abc import Iterable
from email.message import EmailMessage


def publish(issue: str, readers: Iterable[str], *, sender: str, smtp_host: str, smtp_port: int) -> None:
    """Send an issue to each reader, in one session; failures come back to the sender."""
    with smtplib.SMTP(smtp_host, smtp_port, timeout=10) as smtp:
        for reader in readers:
            message = EmailMessage()
            message["From"], message["To"], message["Subject"] = sender, reader, "News"
            message["List-Unsubscribe"] = f"<https://news.example/leave?address={reader}>"
            message.set_content(issue)
            smtp.send_message(message)
