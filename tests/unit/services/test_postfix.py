"""What a bed file and a user's own files may say of Postfix, and what the bed makes of it."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator import services
from orchestrator.bed import user_files
from orchestrator.bed.model import Families, parse_bed
from orchestrator.errors import InvalidInput
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


def test_only_a_relay_with_users_offers_submission() -> None:
    plain, relay = _relay(), _relay({"users": {"ann@example.com": "a secret"}})
    assert (plain.publish, relay.publish) == (("25/tcp",), ("25/tcp", "465/tcp", "587/tcp"))
    assert "permit_sasl_authenticated" not in plain.files[MASTER].decode()
    assert relay.files[MASTER].decode().count("permit_sasl_authenticated,reject") == 2
    assert _running(plain)["smtpd_tls_security_level"] == "none"
    assert relay.files["/etc/postfix/sasl/users"] == b"ann@example.com\na secret\n"
    assert b'-- "$user"' in relay.files["/testbed/enter"]  # a name that begins with a dash is no option


@pytest.mark.parametrize("users", [{"": "x"}, {"ann": ""}, {"ann\nbob": "x"}, {"ann": "x\ny"}, {"ann": "x\n"}])
def test_names_and_passwords_of_users_have_one_line(users: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Settings(users=users)


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
    policy = "smtpd_recipient_restrictions = check_policy_service unix:private/policy"
    assert node.detours == (policy, "header_checks = pcre:/etc/postfix/header_checks.pcre")


def test_a_master_cf_of_the_users_own_runs_without_chroot_and_writes_the_log() -> None:
    node = _relay(files=user_files.read_tree(GATEWAY))
    running = node.files[MASTER].decode()
    assert [line.split()[4] for line in running.splitlines() if line[:1].isalnum()] == ["n"] * 24
    assert running.count("postlogd\n") == 1
    assert "user=nobody argv=/usr/local/lib/policy/policy.pl" in running
    assert [change.new for change in node.changes if change.setting.startswith(MASTER)] == [
        "198.18.0.2:smtp", "n", "postlogd"
    ]  # fmt: skip


def test_parameters_are_read_as_postfix_reads_them() -> None:
    text = "a = 1,\n# not this\n   2\n\n  # nor this\n\t3\nb=x\n a = 9\nb = y\n#c = 1\nd =\n"
    assert postfix_config.parameters(text) == {"a": "1, 2 3", "b": "y", "d": ""}
    assert postfix_config.parameters(postfix_config.without(text, frozenset({"b"}))) == {"a": "1, 2 3", "d": ""}


def test_an_option_of_master_cf_that_leads_mail_away_or_hides_the_log_is_named() -> None:
    text = "smtp inet n - n - - smtpd\n  -o content_filter=scan:[::1]:10024\n  -o syslog_name=mx-in\n"
    text += "  -o { smtpd_milters = inet:localhost:8891 }\npostlog unix-dgram n - n - 1 postlogd\n"
    running, changes, detours = postfix_config.master(text, (), {})
    assert detours == [
        f"{MASTER} smtp/inet: content_filter = scan:[::1]:10024",
        f"{MASTER} smtp/inet: smtpd_milters = inet:localhost:8891",
    ]
    assert [(change.old, change.new) for change in changes] == [("mx-in", "postfix/mx-in")]
    assert "-o syslog_name=postfix/mx-in\n" in running


def test_the_actions_of_lookup_tables_that_lead_mail_away_are_named() -> None:
    table = "# REDIRECT none@d0.test\n192.0.2.7 FILTER smtp:[198.18.0.9]\nd3.test\tredirect  x@d1.test\nd4.test OK\n"
    table += "d5.test 550 we FILTER spam here\n/^To: .* x/i REDIRECT y@d2.test\n"
    node = _relay(files={"/etc/postfix/access": table, MAIN: "smtpd_client_restrictions = check_client_access x\n"})
    assert node.detours == (
        "/etc/postfix/access: FILTER smtp:[198.18.0.9]", "/etc/postfix/access: redirect x@d1.test",
        "/etc/postfix/access: REDIRECT y@d2.test",
    )  # fmt: skip


def test_the_actions_beyond_those_that_are_named_are_counted() -> None:
    entries = [f"d{n}.test FILTER x:d{n}.test\n" for n in range(22)]
    assert len(_relay(files={"/t": "".join(entries[:20])}).detours) == 20
    assert _relay(files={"/t": "".join(entries)}).detours[20:] == ("2 more actions of lookup tables",)


@pytest.mark.parametrize(
    ("entry", "action"),
    [
        ("b.test\n# of old\n  filter smtp:[c.test]\n", "filter smtp:[c.test]"),
        ("!/^a b$/i REDIRECT x@c.test\n", "REDIRECT x@c.test"),
        ("|^/a| bcc x@c.test\n", "bcc x@c.test"),
        ("10.0.0.0/8 check_policy_service unix:private/p\n", "check_policy_service unix:private/p"),
        ('"a b"@c.test FILTER smtp:[d.test]\n', "FILTER smtp:[d.test]"),
        ("/x y/ 550 filter x\n", None),
        ("a.test REJECT no FILTER here\n", None),
        ("a.test 550 5.7.1 see check_policy_service unix:p\n", None),
        ("a.test permit_mynetworks, check_policy_service inet:[::1]:31\n", "check_policy_service inet:[::1]:31"),
        ("a.test reject_unauth_destination, FILTER smtp:[b.test]\n", "FILTER smtp:[b.test]"),
        ("a.test permit_mynetworks, check_client_access mysql:/m\n", "check_client_access mysql:/m"),
        ("a.test permit_mynetworks, check_client_access hash:/t\n", None),
    ],
)
def test_an_entry_is_read_as_postfix_reads_it(entry: str, action: str | None) -> None:
    assert postfix_config.table_detours({"/t": entry}) == ([f"/t: {action}"] if action else [])


@pytest.mark.parametrize(
    ("value", "away"),
    [
        ("check_helo_access inline:{ {a.test = FILTER x:y} }, reject", "inline:{ {a.test = FILTER x:y} }"),
        ("check_helo_access static:{redirect a@b.test}", "static:{redirect a@b.test}"),
        ("check_helo_access pcre:{{/a{2}/ BCC a@b.test}}", "pcre:{{/a{2}/ BCC a@b.test}}"),
        ("check_policy_service inet:[::1]:10023", "check_policy_service inet:[::1]:10023"),
        ("permit,check_policy_service,unix:private/p", "check_policy_service,unix:private/p"),
        ("check_policy_service { unix:p, timeout=1s }", "check_policy_service { unix:p, timeout=1s }"),
        ("check_client_access proxy:mysql:/t/m", "check_client_access proxy:mysql:/t/m"),
        ("check_client_access { mysql:/t/m, search_order = x }", "check_client_access { mysql:/t/m"),
        ("check_client_access { hash:/t/harmless, search_order = x }", None),
        ("check_helo_access inline:{ a.test=REJECT }, check_client_access cidr:{{10.0.0.0/8 OK}}", None),
        ("check_client_access proxy:hash:/t/harmless, reject_rbl_client a.test=127.0.[0..9].1", None),
    ],
)
def test_a_query_of_a_restriction_that_can_lead_mail_away_is_named(value: str, away: str | None) -> None:
    named = [f"smtpd_client_restrictions = {away}"] if away else []
    assert _relay({"main_cf": {"smtpd_client_restrictions": value}}).detours == tuple(named)
    master = f"smtp inet n - n - - smtpd\n  -o {{ smtpd_client_restrictions = {value} }}\n"
    detours = _relay(files={MASTER: master}).detours
    assert detours == tuple(f"{MASTER} smtp/inet: {one}" for one in named)


def test_every_action_of_an_entry_is_named() -> None:
    table = "a.test check_policy_service unix:p, permit_mynetworks, check_policy_service unix:q\n"
    assert postfix_config.table_detours({"/t": table}) == [
        "/t: check_policy_service unix:p",
        "/t: check_policy_service unix:q",
    ]


@pytest.mark.parametrize("reference", ["$m", "${m}", "$(m)"])
def test_parameters_in_values_are_expanded_before_the_search(reference: str) -> None:
    text = f"m = $kind:/etc/x\nkind = mysql\nsmtpd_recipient_restrictions = check_recipient_access {reference}\n"
    query = "check_recipient_access mysql:/etc/x"
    assert _relay(files={MAIN: text}).detours == (f"smtpd_recipient_restrictions = {query}",)
    master = "smtp inet n - n - - smtpd -o smtpd_client_restrictions=$mua\n"
    main = f"mua = check_client_access {reference}\nm = mysql:/etc/x\n"
    named = (f"{MASTER} smtp/inet: smtpd_client_restrictions = check_client_access mysql:/etc/x",)
    assert set(named) <= set(_relay(files={MAIN: main, MASTER: master}).detours)
    assert _relay(files={MAIN: f"m = smtp\ndefault_transport = {reference}\n"}).detours == ()


def test_references_in_a_circle_or_without_end_are_expanded_to_a_bound() -> None:
    circle = {"a": "$b", "b": "$a", "smtpd_client_restrictions": "check_client_access $a"}
    assert postfix_config.detours(circle) == []
    doubling = {f"p{n}": f"$p{n + 1} " * 1000 for n in range(9)} | {"p9": "x" * 1000}
    assert postfix_config.detours(doubling) == []


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
    rendered, changes, _ = postfix_config.master(text.format(option.format(name)), (), {})
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
    running, changes, _ = postfix_config.master(text, (), {})
    assert running.split() == text.replace(option, "").split()
    assert [(c.setting, c.old, c.new) for c in changes] == [(f"{MASTER} smtp/unix {name}", old, None)]


@pytest.mark.parametrize(
    "option",
    ["inet_interfaces=all", "smtp_bind_address=", "maillog_file=/dev/stdout", "smtp_bind_address=198.18.0.2"],
)
def test_an_option_of_master_cf_that_suits_the_bed_stands(option: str) -> None:
    text = f"smtp unix - - n - - smtp -o {option}\n{postfix_config.POSTLOG}\n"
    assert postfix_config.master(text, ("198.18.0.2",), {}) == (text, [], [])


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


@pytest.mark.parametrize(
    ("given", "running"),
    [
        (["127.0.0.1:smtp", "10.1.2.3:25"], ["127.0.0.1:smtp", "198.18.0.2:25"]),
        (["10.1.2.3:smtp", "[2001:db8::1]:smtp"], ["198.18.0.2:smtp", "[2001:2::c612:2]:smtp"]),
        (["10.1.2.3:smtp", "10.1.2.3:submission"], ["smtp", "submission"]),
    ],
)
def test_services_of_one_port_listen_at_an_address_of_the_node_each(given: list[str], running: list[str]) -> None:
    node = _relay(files={MASTER: "".join(f"{service} inet n - n - - smtpd\n" for service in given)})
    assert [line.split()[0] for line in node.files[MASTER].decode().splitlines()[:2]] == running


def test_two_services_of_one_port_need_two_addresses() -> None:
    text = "10.1.2.3:smtp inet n - n - - smtpd\n10.1.2.4:25 inet n - n - - smtpd\n"
    running, changes, _ = postfix_config.master(text, ("198.18.0.2", "198.18.64.0"), {})
    assert [line.split()[0] for line in running.splitlines()[:2]] == ["198.18.0.2:smtp", "198.18.64.0:25"]
    assert [change.old for change in changes[:2]] == ["10.1.2.3:smtp", "10.1.2.4:25"]
    for first in ("10.1.2.3:smtp", "smtp", "0.0.0.0:smtp"):
        for names in ([first, "10.1.2.4:25"], ["10.1.2.4:25", first]):
            with pytest.raises(InvalidInput, match=f"found {', '.join(names)}"):
                _relay(files={MASTER: "".join(f"{name} inet n - n - - smtpd\n" for name in names)})


@pytest.mark.parametrize(
    ("interfaces", "given", "running"),
    [
        ("203.0.113.6", ["smtp", "203.0.113.5:smtp"], ["smtp", "198.18.0.4:smtp"]),
        ("203.0.113.6", ["203.0.113.5:25", "smtp"], ["198.18.0.4:25", "smtp"]),
        ("203.0.113.6", ["smtp", "[2001:db8::1]:smtp"], ["smtp", "[2001:2::c612:4]:smtp"]),
        ("203.0.113.6", ["0.0.0.0:smtp", "203.0.113.5:smtp"], ["0.0.0.0:smtp", "198.18.0.4:smtp"]),
        ("203.0.113.6", ["[::]:smtp", "203.0.113.5:smtp"], ["[::]:smtp", "198.18.0.2:smtp"]),
        ("loopback-only", ["smtp", "203.0.113.5:smtp"], ["127.0.0.1:smtp", "198.18.0.2:smtp"]),
        ("127.0.0.1, [::1]", ["smtp", "203.0.113.5:smtp"], ["127.0.0.1:smtp", "198.18.0.2:smtp"]),
        ("loopback-only", ["smtp", "203.0.113.5:submission"], ["smtp", "submission"]),
    ],
)
def test_a_service_without_an_address_leaves_the_further_addresses_to_others(
    interfaces: str, given: list[str], running: list[str]
) -> None:
    files = {MASTER: "".join(f"{name} inet n - n - - smtpd\n" for name in given)}
    relay = {"service": "postfix", "files": files | {MAIN: f"inet_interfaces = {interfaces}\n"}, "addresses": 2}
    node = make_plan(parse_bed({"name": "x", "domains": 4, "nodes": {"relay": relay}}, "bed"), cpus=2).named("relay")
    assert [line.split()[0] for line in node.files[MASTER].decode().splitlines()[:2]] == running
    assert {c.old: c.new for c in node.changes if c.setting.endswith("/inet")} == {
        old: new for old, new in zip(given, running, strict=True) if old != new
    }
    assert _running(node)["inet_interfaces"] == "198.18.0.2, 2001:2::c612:2"


@pytest.mark.parametrize(
    ("services_of_a_port", "addresses"),
    [
        (["203.0.113.5:25", "203.0.113.6:smtp", "203.0.113.5:submission"], {"both": 2, "v4": 2, "v6": 2}),
        (["smtp", "203.0.113.5:25", "203.0.113.6:25"], {"both": 3, "v4": 3, "v6": 3}),
        (["203.0.113.5:25", "[2001:db8::1]:25"], {"both": 1, "v4": 2, "v6": 2}),
        (["0.0.0.0:25", "203.0.113.5:25"], {"both": 2, "v4": 2, "v6": 1}),
        (["203.0.113.5:25", "127.0.0.1:25", "[::1]:25"], {"both": 1, "v4": 1, "v6": 1}),
        (["0.0.0.0:25", "[2001:db8::1]:25", "[2001:db8::2]:25"], {"both": 2, "v4": 3, "v6": 2}),
    ],
)
def test_the_addresses_that_files_need_are_enough(services_of_a_port: list[str], addresses: dict[str, int]) -> None:
    files = {MASTER: "".join(f"{name} inet n - n - - smtpd\n" for name in services_of_a_port)}
    for families, number in addresses.items():
        assert services.service("postfix").addresses(files, Families(families)) == number
        relay = {"service": "postfix", "files": files, "addresses": number}
        bed = {"name": "x", "domains": 4, "families": families, "nodes": {"relay": relay}}
        make_plan(parse_bed(bed, "bed"), cpus=2)
    assert services.service("postfix").addresses({}, Families.BOTH) == 1
    assert services.service("bind").addresses(files, Families.BOTH) == 1


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


@pytest.mark.parametrize(
    ("families", "address"), [("both", "198.18.0.3"), ("v4", "198.18.0.3"), ("v6", "2001:2::c612:3")]
)
def test_a_copy_of_the_log_goes_to_the_address_of_a_node(families: str, address: str) -> None:
    nodes = {"relay": {"service": "postfix", "settings": {"log_to": "box"}}, "box": {"service": "inbox"}}
    plan = make_plan(parse_bed({"name": "x", "families": families, "nodes": nodes}, "bed"), cpus=2)
    (start,) = plan.named("relay").command
    assert f" 'send-log {address} 8026 /var/log/copy'" in plan.named("relay").files[start].decode()
    (start,) = plan.named("box").command
    assert " --log-from relay 198.18.0.2 2001:2::c612:2" in plan.named("box").files[start].decode()


def test_no_copy_of_the_log_is_made_by_default() -> None:
    relay = _relay()
    assert "send-log" not in relay.files[relay.command[0]].decode()


@pytest.mark.parametrize("to", ["relay", "nobody"])
def test_a_copy_of_the_log_goes_to_another_node_of_the_bed(to: str) -> None:
    with pytest.raises(InvalidInput, match="the name of an inbox's node as log_to of node relay"):
        _relay({"log_to": to})
