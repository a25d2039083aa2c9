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
    assert SERVICE.queue.length("") == 0
    assert SERVICE.queue.length('{"queue_name": "active"}\n{"queue_name": "deferred"}\n') == 2
