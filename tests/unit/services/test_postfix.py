"""What a bed file may not say of Postfix."""

import pytest
from pydantic import ValidationError

from orchestrator.services.postfix import SERVICE, Settings


@pytest.mark.parametrize(
    "override",
    [
        {"mailbox_command": "/bin/sh"},
        {"smtpd_relay_restrictions_maps": "x"},
        {"header_checks": "pipe:x"},
        {"relayhost": "mail.example.com"},
        {"maillog_file": "/etc/passwd"},
        {"x\ny": "1"},
        {"default_process_limit": "1\nmailbox_command = sh"},
        {"myhostname": "$(reboot)"},
        {"smtp_helo_name": "${mail_name}"},
        {"Default": "1"},
        {"content_filter": "smtp"},
        {"smtp_fallback_relay": "mail.example.com"},
        {"always_bcc": "a@d1.test"},
        {"smtpd_milters": "inet:127.0.0.1:1"},
        {"smtpd_recipient_restrictions": "check_policy_service unix:private/policy"},
        {"smtp_tls_cert_file": "/etc/shadow"},
        {"smtp_helo_name": " folded"},
    ],
)
def test_a_parameter_that_could_break_out_is_refused(override: dict[str, str | int | bool]) -> None:
    with pytest.raises(ValidationError):
        Settings(main_cf=override)


def test_an_ordinary_parameter_is_taken() -> None:
    assert Settings(main_cf={"in_flow_delay": "1s", "smtp_tls_security_level": "may"}).main_cf


def test_the_ready_line_is_the_one_that_master_prints() -> None:
    line = "Nov 23 02:08:55 relay postfix/master[1]: daemon started -- version 3.7.11, configuration /etc/postfix"
    assert SERVICE.ready.search(line)


def test_a_message_that_moves_while_the_queue_is_listed_counts_once() -> None:
    assert SERVICE.queue.length("") == 0
    assert SERVICE.queue.length("A1\nB2\nA1\n") == 2
