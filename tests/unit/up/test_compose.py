"""The Compose files of the built-in beds: what is committed is what the generator makes."""

import shlex
from pathlib import Path

import pytest
import yaml
from cryptography.x509 import load_pem_x509_certificate

from orchestrator.bed import builtin
from orchestrator.bed.addressing import V4
from orchestrator.bed.model import parse_bed
from orchestrator.bed.wiring import AUTHORITY, CERTIFICATE
from orchestrator.up import compose
from orchestrator.up.bringup import container_spec
from tests.unit.cli import test_errors as test_cli_errors
from tests.unit.cli.test_errors import Command

testbed = test_cli_errors.testbed

FOLDER = Path(__file__).parents[3] / "compose"
DOMAINS = 16


@pytest.mark.parametrize("name", builtin.names())
def test_the_committed_files_are_what_the_plan_says(name: str) -> None:
    made = compose.files(
        compose.compose_plan(builtin.bed(name, domains=DOMAINS), cpus=2),
        ["testbed", "plan", name, "--domains", str(DOMAINS)],
    )
    there = {str(p.relative_to(FOLDER / name)): p for p in (FOLDER / name).rglob("*") if p.is_file()}
    there = {path: file for path, file in there.items() if file.suffix != ".pem"}  # not in git
    again = f"testbed plan {name} --domains {DOMAINS} --format compose --files compose/{name}"
    assert sorted(there) == sorted(made), again
    assert [path for path, content in made.items() if there[path].read_bytes() != content] == [], again
    scripts = {path for path, content in made.items() if content.startswith(b"#!")}
    assert {path for path, file in there.items() if file.stat().st_mode & 0o111} == scripts


def test_a_service_is_the_container_that_the_engine_gets() -> None:
    limits = {"cpus": 1.5, "cpuset": "0", "memory_mb": 256, "nofile": 4096, "pids": 100}
    bed = parse_bed({"name": "x", "nodes": {"dns": {"service": "bind", "limits": limits}}}, "bed")
    plan = compose.compose_plan(bed, cpus=2)
    whole = yaml.safe_load(compose.render(plan, ["testbed"]))
    dns = whole["services"]["dns"]
    assert {"cpus": 1.5, "cpuset": "0", "mem_limit": 256 << 20, "pids_limit": 100}.items() <= dns.items()
    assert dns["ulimits"] == {"nofile": 4096}
    spec = container_spec(plan.nodes[0], "control", "lab")
    assert dns["cap_drop"] == ["ALL"]
    assert (dns["cap_add"], dns["sysctls"]) == (list(spec.capabilities), spec.sysctls)
    assert dns["ports"] == ["127.0.0.1::53/udp", "127.0.0.1::53/tcp"]
    assert dns["networks"]["lab"] == {"ipv4_address": str(plan.nodes[0].v4)}
    assert whole["networks"]["lab"]["driver"] == "macvlan"
    assert "${TESTBED_PARENT:?" in whole["networks"]["lab"]["driver_opts"]["parent"]
    assert {mount["target"] for mount in dns["volumes"]} == {*plan.nodes[0].files, CERTIFICATE, AUTHORITY}


def test_each_node_gets_a_certificate_of_one_authority() -> None:
    made = compose.certificates(compose.compose_plan(builtin.bed("mail"), cpus=2))
    assert sorted(made) == [
        f"{node}{path}" for node in ("dns", "gate", "inbox", "relay") for path in (AUTHORITY, CERTIFICATE)
    ]
    (authority,) = {made[path] for path in made if path.endswith(AUTHORITY)}
    ca = load_pem_x509_certificate(authority)
    for node in ("dns", "inbox"):
        load_pem_x509_certificate(made[f"{node}{CERTIFICATE}"]).verify_directly_issued_by(ca)


def test_a_bed_takes_the_far_end_of_the_range_or_what_its_author_chose() -> None:
    nodes = {"dns": {"service": "bind"}}
    free = compose.compose_plan(parse_bed({"name": "x", "nodes": nodes}, "bed"), cpus=1)
    assert free.subnet.broadcast_address == V4.broadcast_address
    chosen = {"name": "x", "nodes": nodes, "subnet": "198.18.4.0/24", "parent": "eth0"}
    plan = compose.compose_plan(parse_bed(chosen, "bed"), cpus=1)
    assert str(plan.subnet) == "198.18.4.0/24"
    assert "parent: eth0\n" in compose.render(plan, ["testbed"])


def test_the_header_names_the_command_as_it_was_given(testbed: Command, tmp_path: Path) -> None:
    own = tmp_path / "my bed.yaml"
    own.write_text("name: other\ndomains: 2\nnodes: {dns: {service: bind}}\n", encoding="utf-8")
    for words in (
        ("relay",),
        ("./my bed.yaml", "--domains", "3", "--parent", "eth0", "--families", "v4", "--cpus", "4"),
    ):
        out = testbed("plan", *words, "--format", "compose").out
        named = shlex.split(out.splitlines()[0].split("`")[1])
        assert named == ["testbed", "plan", *words, "--format", "compose", "--files", "FOLDER"]
        assert testbed(*named[1:-2]).out == out


def test_a_line_break_in_the_name_of_a_bed_file_stays_in_the_comment(testbed: Command, tmp_path: Path) -> None:
    (tmp_path / "a\nb: c.yaml").write_text("name: x\nnodes: {dns: {service: bind}}\n", encoding="utf-8")
    assert set(yaml.safe_load(testbed("plan", "./a\nb: c.yaml", "--format", "compose").out)) == {"services", "networks"}
