"""What holds for every service, whichever there are."""

import re
from typing import Any

import pytest

from orchestrator import services
from orchestrator.bed import wiring
from orchestrator.bed.model import Bed, Strict, parse_bed
from orchestrator.hosts import images
from orchestrator.plan import NodePlan, make_plan

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "bind": [
        {"listen": "lab", "listen_v6": "none", "workers": 3},
        {"listen": "all", "max_sockets": 4096},
        {"resolver": True, "update": True},
        {"recursion": True},
    ],
    "blackhole": [
        {"data_delay_ms": 1.5, "max_size": 1024},
        {"rules": [{"on": "mail", "then": "reset", "every": 3}]},
        {"rules": [{"to": "*@d3.test", "then": "defer", "times": 2}], "tls": True},
    ],
    "dns-gate": [{"rules": [{"name": "*.d1.test", "type": "MX", "times": 2}]}],
    "inbox": [
        {"max_size": 4096, "max_messages": 10, "max_stored_mb": 1, "users": {"ann": "secret"}},
        {"require_auth": True, "timeout_s": 5},
        {"require_tls": True},
        {"rules": [{"to": "*@d1.test", "then": "defer"}]},
    ],
    "postfix": [
        {"log_to": "dns"},
        {"main_cf": {"default_process_limit": 7, "smtputf8_enable": True, "smtpd_banner": "x"}},
        {"users": {"ann@example.com": "a secret"}},
    ],
    "smtp-load": [{"recipients": ["anna", "b.c@d1.test"]}],
    "bhm": [{"threads": 1}, {"threads": 1000}],
}
"""Settings of each service that render something else than its defaults do."""
CASES = [
    (name, release, settings)
    for name, kind in services.known().items()
    for release in images.RELEASES
    if kind.image in images.names(release)
    for settings in ({}, *VARIANTS.get(name, []))
]


def _node(name: str, release: str, settings: dict[str, Any]) -> NodePlan:
    """Work out a node of this service, beside a name server of the bed."""
    nodes = {"dns": {"service": "bind"}, "it": {"service": name, "release": release, "settings": settings}}
    return make_plan(parse_bed({"name": "x", "domains": 5, "nodes": nodes}, "bed"), cpus=4).named("it")


@pytest.mark.parametrize("name", services.known())
def test_it_names_a_role_an_image_that_exists_and_settings_that_have_defaults(name: str) -> None:
    kind = services.service(name)
    assert kind.role in services.Role
    assert kind.image in images.catalogue()
    assert issubclass(kind.settings, Strict)
    kind.settings()


@pytest.mark.parametrize(("name", "release", "settings"), CASES, ids=str)
def test_what_it_renders_is_complete_and_checks_itself(name: str, release: str, settings: dict[str, Any]) -> None:
    node = _node(name, release, settings)
    assert node.command == (f"{wiring.DIRECTORY}/enter",)
    assert node.files[node.command[0]].startswith(b"#!")
    assert all(path.startswith("/") and ".." not in path for path in node.files)
    assert node.fds > 0
    assert node.memory_mb > 0
    assert all(re.fullmatch(r"\d+/(tcp|udp)", port) for port in node.publish)
    services.service(name).verify(node.files)


@pytest.mark.parametrize("name", services.known())
def test_every_setting_of_it_has_a_variant_that_renders_something_else(name: str) -> None:
    variants = VARIANTS.get(name, [])
    assert {field for settings in variants for field in settings} == set(services.service(name).settings.model_fields)
    plain = _node(name, images.DEFAULT_RELEASE, {})
    for settings in variants:
        assert _node(name, images.DEFAULT_RELEASE, settings) != plain


def test_the_schema_of_a_bed_accepts_the_built_in_beds_and_lists_every_service() -> None:
    schema = services.schema()
    assert schema["$defs"]["NodeSpec"]["properties"]["service"]["enum"] == list(services.known())
    assert {rule["if"]["properties"]["service"]["const"] for rule in schema["$defs"]["NodeSpec"]["allOf"]} == set(
        services.known()
    )


def test_release_and_settings_of_a_bed_file_reach_the_rendered_files() -> None:
    relay = {"service": "postfix", "settings": {"main_cf": {"default_process_limit": 7, "smtputf8_enable": True}}}
    bed: Bed = parse_bed({"name": "x", "domains": 1, "nodes": {"relay": relay}}, "bed")
    main_cf = make_plan(bed, cpus=1).nodes[0].files["/etc/postfix/main.cf"].decode()
    assert re.findall(r"^default_process_limit = .*", main_cf, re.MULTILINE) == ["default_process_limit = 7"]
    assert re.findall(r"^smtputf8_enable = .*", main_cf, re.MULTILINE) == ["smtputf8_enable = yes"]
