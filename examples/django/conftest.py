import os

import django
import pytest
from django.test import Client, override_settings

os.environ["DJANGO_SETTINGS_MODULE"] = "settings"  # pytest-django does these two lines
django.setup()


@pytest.fixture(autouse=True)
def _real_mail(mail_bed):
    """Send mail to the bed: Django's own test runner and pytest-django set a backend that keeps it in memory."""
    smtp = "django.core.mail.backends.smtp.EmailBackend"
    with override_settings(EMAIL_BACKEND=smtp, EMAIL_HOST=mail_bed.relay.host, EMAIL_PORT=mail_bed.relay.port):
        yield


@pytest.fixture
def client():
    return Client(headers={"host": "shop.example"})
