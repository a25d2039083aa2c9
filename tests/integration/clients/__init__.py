"""Programs of tests/integration/test_mail_clients.py that run in a container beside the inbox."""
