"""What a bed file and a user's own files may say of Postfix, and what the bed makes of it."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.bed import user_files
from orchestrator.bed.model import parse_bed
from orchestrator.plan import NodePlan, make_plan
from orchestrator.services import postfix_config
from orchestrator.services.postfix import SERVICE, Settings
from orchestrator.services.postfix_config import MAIN, MASTER

GATEWAY = Path(__file__).parents[2] / "integration" / "gateway"


def _relay(settings: dict[str, Any] | None = None, files: dict[str, str] | None = None) -> NodePlan:
    relay = {"service": "postfix", "settings": settings or {}, "files": files or {}}
    return make_plan(parse_bed({"name": "x", "domains": 4, "nodes": {"relay": relay}}, "bed"), cpus=2).named("relay")


def _running(node: NodePlan) -> dict[str, str]:
    return postfix_config.parameters(node.files[MAIN].decode())


@pytest.mark.parametrize(
    "override",
    [{"x\ny": "1"}, {"default_process_limit": "1\nmailbox_command = sh"}, {"a b": "1"}, {"a": "\x00"}, {"a=b": "1"}],
)
def test_what_would_break_the_format_of_main_cf_is_refused(override: dict[str, str | int | bool]) -> None:
    with pytest.raises(ValidationError):
        Settings(main_cf=override)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("smtpd_banner", "$myhostname ESMTP ${mail_name}"),
        ("smtpd_recipient_restrictions", "permit_mynetworks, check_policy_service unix:private/policy"),
        ("relayhost", "[192.0.2.1]:587"),
        ("relay_recipient_maps", "hash:/etc/postfix/recipients"),
        ("smtp-amavis_destination_concurrency_limit", "2"),
        ("smtp_tls_security_level", "may"),
    ],
)
def test_a_value_of_a_real_main_cf_is_taken_as_it_is(name: str, value: str) -> None:
    node = _relay({"main_cf": {name: value}})
    assert _running(node)[name] == value
    assert node.changes == ()


def test_what_can_lead_mail_away_is_named_and_not_forbidden() -> None:
    given = {"relayhost": "[a.test]", "transport_maps": "hash:/t", "default_transport": "smtp", "content_filter": ""}
    assert _relay({"main_cf": given}).detours == ("relayhost = [a.test]", "transport_maps = hash:/t")


def test_what_the_bed_measures_with_cannot_be_set_otherwise() -> None:
    node = _relay({"main_cf": {"maillog_file": "/etc/passwd", "queue_directory": "/q", "inet_interfaces": "localhost"}})
    running = _running(node)
    assert running["maillog_file"] == "/dev/stdout"
    assert running["queue_directory"] == "/var/spool/postfix"
    assert running["inet_interfaces"] == "198.18.0.2, 2001:2::c612:2"
    assert {change.setting: change.old for change in node.changes} == {
        "maillog_file": "/etc/passwd", "queue_directory": "/q", "inet_interfaces": "localhost"
    }  # fmt: skip


def test_a_main_cf_of_the_users_own_stands_as_it_is_but_for_what_is_named() -> None:
    files = user_files.read_tree(GATEWAY)
    node = _relay({"main_cf": {"smtpd_error_sleep_time": "0"}}, files)
    theirs, running = postfix_config.parameters(files[MAIN]), _running(node)
    named = {change.setting for change in node.changes if not change.setting.startswith(MASTER)}
    assert named == {"maillog_file", "delay_logging_resolution_limit", "inet_interfaces", "smtp_bind_address"}
    assert {n: running.get(n) for n in theirs.keys() - named} == {n: theirs[n] for n in theirs.keys() - named}
    assert running.keys() - theirs.keys() == {"delay_logging_resolution_limit", "smtpd_error_sleep_time"}
    assert "smtp_bind_address" not in running
    assert node.files["/etc/postfix/recipients"] == files["/etc/postfix/recipients"].encode()
    assert node.files["/usr/local/lib/policy/policy.pl"].startswith(b"#!")
    assert node.detours == ("header_checks = pcre:/etc/postfix/header_checks.pcre",)


def test_a_master_cf_of_the_users_own_runs_without_chroot_and_writes_the_log() -> None:
    node = _relay(files=user_files.read_tree(GATEWAY))
    running = node.files[MASTER].decode()
    assert [line.split()[4] for line in running.splitlines() if line[:1].isalpha()] == ["n"] * 23
    assert running.count("postlogd\n") == 1
    assert "user=nobody argv=/usr/local/lib/policy/policy.pl" in running
    assert [change.new for change in node.changes if change.setting.startswith(MASTER)] == ["n", "postlogd"]


def test_parameters_are_read_as_postfix_reads_them() -> None:
    text = "a = 1,\n# not this\n   2\n\n  # nor this\n\t3\nb=x\n a = 9\nb = y\n#c = 1\nd =\n"
    assert postfix_config.parameters(text) == {"a": "1, 2 3", "b": "y", "d": ""}
    assert postfix_config.parameters(postfix_config.without(text, frozenset({"b"}))) == {"a": "1, 2 3", "d": ""}


def test_an_option_of_master_cf_that_leads_mail_away_or_hides_the_log_is_named() -> None:
    text = "smtp inet n - n - - smtpd\n  -o content_filter=scan:[::1]:10024\n  -o syslog_name=mx-in\n"
    text += "  -o { smtpd_milters = inet:localhost:8891 }\npostlog unix-dgram n - n - 1 postlogd\n"
    running, changes, detours = postfix_config.master(text, frozenset())
    assert detours == [
        f"{MASTER} smtp/inet: content_filter = scan:[::1]:10024",
        f"{MASTER} smtp/inet: smtpd_milters = inet:localhost:8891",
    ]
    assert [(change.old, change.new) for change in changes] == [("mx-in", "postfix/mx-in")]
    assert "-o syslog_name=postfix/mx-in\n" in running


def test_of_two_services_that_differ_in_their_address_one_runs_and_the_other_is_named() -> None:
    text = "10.1.2.3:smtp inet n - n - - smtpd\n10.1.2.4:smtp inet n - n - - smtpd\n  -o smtpd_banner=two\n"
    text += "postlog unix-dgram n - n - 1 postlogd\n"
    running, changes, _ = postfix_config.master(text, frozenset())
    assert [line for line in running.splitlines() if " inet " in line and not line.startswith("#")] == [
        "smtp inet n - n - - smtpd"
    ]
    assert "#testbed#   -o smtpd_banner=two" in running
    assert [(change.setting, change.new) for change in changes] == [
        (f"{MASTER} 10.1.2.3:smtp/inet", "smtp"), (f"{MASTER} 10.1.2.4:smtp/inet", None)
    ]  # fmt: skip


def test_the_actions_of_lookup_tables_that_lead_mail_away_are_named() -> None:
    table = "# REDIRECT none@d0.test\n192.0.2.7 FILTER smtp:[198.18.0.9]\nd3.test\tredirect  x@d1.test\nd4.test OK\n"
    table += "d5.test 550 we FILTER spam here\n/^To: .* x/i REDIRECT y@d2.test\n"
    node = _relay(files={"/etc/postfix/access": table, MAIN: "smtpd_client_restrictions = check_client_access x\n"})
    assert node.detours == (
        "/etc/postfix/access: FILTER smtp:[198.18.0.9]", "/etc/postfix/access: redirect x@d1.test",
        "/etc/postfix/access: REDIRECT y@d2.test",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "running"),
    [
        ("postfix-slow", "postfix/postfix-slow"),
        ("mx", "postfix/mx"),
        ("postfix", "postfix"),
        ("postfix/mx", "postfix/mx"),
        ("postfix/$service_name", "postfix/$service_name"),
    ],
)
@pytest.mark.parametrize("option", ["-o syslog_name={}", "-o {{syslog_name={}}}", "-o {{ syslog_name = {} }}"])
def test_every_service_logs_under_the_name_that_is_read(option: str, name: str, running: str) -> None:
    text = "smtp inet n - n - - smtpd\n  {}\n"
    rendered, changes, _ = postfix_config.master(text.format(option.format(name)), frozenset())
    assert rendered.startswith(text.format(option.format(running)))
    assert [c.old for c in changes if "syslog_name" in c.setting] == [name] * (name != running)


@pytest.mark.parametrize(
    ("option", "name", "old"),
    [
        ("-o smtp_bind_address=10.1.2.3", "smtp_bind_address", "10.1.2.3"),
        ("-o { smtp_bind_address6 = 2001:db8::1 }", "smtp_bind_address6", "2001:db8::1"),
        ("-o inet_interfaces=10.1.2.3", "inet_interfaces", "10.1.2.3"),
        ("-o maillog_file=/var/log/mail.log", "maillog_file", "/var/log/mail.log"),
        ("-o maillog_file=", "maillog_file", ""),
        ("-o queue_directory=/q", "queue_directory", "/q"),
        ("-o delay_logging_resolution_limit=2", "delay_logging_resolution_limit", "2"),
        ("-o info_log_address_format=internal", "info_log_address_format", "internal"),
        ("-o\n  smtp_bind_address=10.1.2.3", "smtp_bind_address", "10.1.2.3"),
    ],
)
def test_an_option_of_master_cf_that_the_bed_must_have_otherwise_is_left_out_and_named(
    option: str, name: str, old: str
) -> None:
    text = f"smtp unix - - n - - smtp\n  -o a=b {option} -o c=d\n  -o e=f\n{postfix_config.POSTLOG}\n"
    running, changes, _ = postfix_config.master(text, frozenset())
    assert running.split() == text.replace(option, "").split()
    assert [(c.setting, c.old, c.new) for c in changes] == [(f"{MASTER} smtp/unix {name}", old, None)]


@pytest.mark.parametrize(
    "option",
    ["inet_interfaces=all", "smtp_bind_address=", "maillog_file=/dev/stdout", "smtp_bind_address=198.18.0.2"],
)
def test_an_option_of_master_cf_that_suits_the_bed_stands(option: str) -> None:
    text = f"smtp unix - - n - - smtp -o {option}\n{postfix_config.POSTLOG}\n"
    assert postfix_config.master(text, frozenset({"198.18.0.2"})) == (text, [], [])


@pytest.mark.parametrize(
    ("service", "running"),
    [
        ("10.1.2.3:smtp", "smtp"),
        ("[2001:db8::1]:25", "25"),
        ("mx.example.com:submission", "submission"),
        ("198.18.0.2:smtp", "198.18.0.2:smtp"),
        ("[2001:2::c612:2]:smtp", "[2001:2::c612:2]:smtp"),
        ("127.0.0.1:10025", "127.0.0.1:10025"),
        ("localhost:10025", "localhost:10025"),
        ("[::1]:10025", "[::1]:10025"),
        ("0.0.0.0:smtp", "0.0.0.0:smtp"),
        ("smtp", "smtp"),
    ],
)
def test_a_service_at_an_address_that_the_node_does_not_have_listens_at_those_of_the_node(
    service: str, running: str
) -> None:
    node = _relay(files={MASTER: f"{service} inet n - n - - smtpd\n{postfix_config.POSTLOG}\n"})
    assert node.files[MASTER].decode().splitlines()[0] == f"{running} inet n - n - - smtpd"
    named = [(service, running)] if service != running else []
    assert [(change.old, change.new) for change in node.changes] == named


def test_an_address_format_that_hides_attempts_is_changed_and_named() -> None:
    node = _relay({"main_cf": {"info_log_address_format": "internal"}})
    assert _running(node)["info_log_address_format"] == "external"
    assert [change.setting for change in node.changes] == ["info_log_address_format"]


def test_a_way_past_the_mx_records_is_named() -> None:
    past = {"disable_dns_lookups": "yes", "smtp_host_lookup": "native", "smtp_dns_support_level": "disabled"}
    assert _relay({"main_cf": past}).detours == tuple(f"{name} = {value}" for name, value in past.items())
    straight = {"disable_dns_lookups": "no", "smtp_host_lookup": "dns", "smtp_dns_support_level": "dnssec"}
    assert _relay({"main_cf": straight}).detours == ()


def test_what_belongs_to_the_package_is_left_out_of_a_copied_folder() -> None:
    node = _relay(files={"/etc/postfix/postfix-script": "#!/bin/sh\n", "/etc/postfix/dynamicmaps.cf": "x\n"})
    assert not {"/etc/postfix/postfix-script", "/etc/postfix/dynamicmaps.cf"} & node.files.keys()
    assert [change.new for change in node.changes] == [None, None]


def test_the_ready_line_is_the_one_that_master_prints() -> None:
    line = "Nov 23 02:08:55 relay postfix/master[1]: daemon started -- version 3.7.11, configuration /etc/postfix"
    assert SERVICE.ready.search(line)


def test_a_message_that_moves_while_the_queue_is_listed_counts_once() -> None:
    assert SERVICE.queue.length("") == 0
    assert SERVICE.queue.length("A1\nB2\nA1\n") == 2
