"""A bed in a test before its start, and after its end."""

from pathlib import Path

import pytest

from orchestrator.bed.model import Bed
from orchestrator.errors import InvalidInput
from orchestrator.plan import make_plan
from orchestrator.testing import MailBed


def built(bed: MailBed) -> Bed:
    return bed._bed


def test_a_bed_is_changed_before_its_start() -> None:
    bed = built(
        MailBed(name="shop")
        .with_domains("shop.example", "other.example")
        .with_relay(main_cf={"message_size_limit": 1000}, users={"app": "secret"})
        .with_rule("defer", to="*@other.example", times=2)
        .with_rule("reject", sender="spam@*")
        .with_network()
    )
    relay, inbox = bed.nodes["relay"].settings, bed.nodes["inbox"].settings
    assert (bed.name, bed.domain_names, bed.guests) == ("shop", ["shop.example", "other.example"], True)
    assert relay["main_cf"]["message_size_limit"] == 1000
    assert relay["main_cf"]["smtp_mx_session_limit"] == 1
    assert relay["users"] == {"testbed": "testbed", "app": "secret"}
    assert inbox["rules"] == [
        {"then": "defer", "to": "*@other.example", "times": 2},
        {"then": "reject", "from": "spam@*"},
    ]
    make_plan(bed, cpus=1)


def test_domains_are_names_or_a_number() -> None:
    assert built(MailBed().with_domains(3)).domain_names == ["d0.test", "d1.test", "d2.test"]
    assert built(MailBed().with_domains("one.example")).domain_names == ["one.example"]
    with pytest.raises(InvalidInput, match="domains"):
        MailBed().with_domains()


def test_tls_gives_a_relay_users_if_it_has_none(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(
        "{name: own, domains: [a.example], nodes: {dns: {service: bind}, relay: {service: postfix},"
        " inbox: {service: inbox}}}"
    )
    assert built(MailBed(file).with_tls()).nodes["relay"].settings["users"] == {"testbed": "testbed"}
    assert built(MailBed(file).with_relay(users={"a": "b"}).with_tls()).nodes["relay"].settings["users"] == {"a": "b"}


def test_a_bed_that_is_not_up_says_so() -> None:
    bed = MailBed()
    for use in (lambda: bed.relay, lambda: bed.inbox, lambda: bed.dns, bed.begin, bed.get_connection_url):
        with pytest.raises(InvalidInput, match="it was not started"):
            use()
    bed.stop()
    bed.stop()


def test_an_invalid_change_names_the_value() -> None:
    with pytest.raises(InvalidInput, match="one of"):
        MailBed("no-such-bed")
    with pytest.raises(InvalidInput, match=r"domains"):
        MailBed().with_domains("not a domain")
    with pytest.raises(InvalidInput, match="role"):
        MailBed(Bed(name="x", nodes={"dns": {"service": "bind"}})).with_relay()  # type: ignore[dict-item]
