"""An application that sends mail: a person signs up, and confirms the address with a code or a link."""

import secrets
import smtplib
from email.message import EmailMessage


class Accounts:
    """The accounts of a shop."""

    def __init__(self, smtp_host: str, smtp_port: int) -> None:
        self.smtp = (smtp_host, smtp_port)
        self.codes: dict[str, str] = {}

    def sign_up(self, address: str) -> None:
        """Send a code to a new address; an address that is known gets none."""
        if address in self.codes:
            return
        code = self.codes[address] = f"{secrets.randbelow(1_000_000):06}"
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = "shop@example.org", address, "Welcome"
        message.set_content(f"Your code is {code}, or open https://shop.example/confirm?code={code}.")
        with smtplib.SMTP(*self.smtp, timeout=10) as smtp:
            smtp.send_message(message)
