"""What holds for every service, whichever there are."""

import re

import pytest

from orchestrator import beds, images, services, wiring
from orchestrator.model import Bed, Strict, parse_bed
from orchestrator.plan import NodePlan, Plan, make_plan


def _plan() -> Plan:
    return make_plan(beds.bed("relay", domains=5), cpus=4)


@pytest.mark.parametrize("name", services.known())
def test_it_names_a_role_an_image_that_exists_and_settings_that_have_defaults(name: str) -> None:
    kind = services.service(name)
    assert kind.role in services.Role
    assert kind.image in images.catalogue()
    assert issubclass(kind.settings, Strict)
    kind.settings()


@pytest.mark.parametrize("node", _plan().nodes, ids=lambda node: str(node.service))
def test_what_it_renders_is_complete(node: NodePlan) -> None:
    assert node.command == (f"{wiring.DIRECTORY}/enter",)
    assert all(path.startswith("/") and ".." not in path for path in node.files)
    assert node.fds > 0
    assert node.memory_mb > 0
    assert all(re.fullmatch(r"\d+/(tcp|udp)", port) for port in node.publish)


def test_every_rendered_file_checks_itself() -> None:
    for node in _plan().nodes:
        services.verify(node.service, node.files)


def test_the_schema_of_a_bed_accepts_the_built_in_beds_and_lists_every_service() -> None:
    schema = services.schema()
    assert schema["$defs"]["Node"]["properties"]["service"]["enum"] == list(services.known())
    assert {rule["if"]["properties"]["service"]["const"] for rule in schema["$defs"]["Node"]["allOf"]} == set(
        services.known()
    )


def test_release_and_settings_of_a_bed_file_reach_the_rendered_files() -> None:
    relay = {"service": "postfix", "settings": {"main_cf": {"default_process_limit": 7, "smtputf8_enable": True}}}
    bed: Bed = parse_bed({"name": "x", "domains": 1, "nodes": {"relay": relay}}, "bed")
    main_cf = make_plan(bed, cpus=1).nodes[0].files["/etc/postfix/main.cf"].decode()
    assert re.findall(r"^default_process_limit = .*", main_cf, re.MULTILINE) == ["default_process_limit = 7"]
    assert re.findall(r"^smtputf8_enable = .*", main_cf, re.MULTILINE) == ["smtputf8_enable = yes"]
