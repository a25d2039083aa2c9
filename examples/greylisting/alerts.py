"""An application that sends mail which must not get lost: an alert of a monitor."""

import smtplib
from email.message import EmailMessage


def alert(text: str, *, to: str, smtp_host: str, smtp_port: int) -> None:
    """Hand an alert to the relay, which keeps it until the recipient's server takes it."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "monitor@example.org", to, f"Alert: {text}"
    message.set_content(f"{text}\nhttps://monitor.example/alerts\n")
    with smtplib.SMTP(smtp_host, smtp_port, timeout=10) as smtp:
        smtp.send_message(message)
