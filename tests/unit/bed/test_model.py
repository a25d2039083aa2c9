"""What a bed file may say, and what it says back."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.bed import builtin
from orchestrator.bed.model import parse_bed, read_bed
from orchestrator.errors import ExitCode, InvalidInput

NODES = {"dns": {"service": "bind"}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"nodse": {}}, "nodse"),
        ({"domains": ["a b.test"]}, "a b.test"),
        ({"domains": ["a;b.test"]}, "a;b.test"),
        ({"domains": ["a\n.test"]}, "domains"),
        ({"domains": ["2.0.192.in-addr.arpa"]}, "outside .arpa"),
        ({"domains": ["a.test", "a.test"]}, "repeated"),
        ({"domains": []}, "0 names"),
        ({"domains": 0}, "greater than or equal to 1"),
        ({"domains": 10_000_000}, "less than or equal to 65536"),
        ({"nodes": {"dns": {"service": "bind", "addresses": 0}}}, "addresses"),
        ({"nodes": {"dns": {"service": "bind", "release": "potato"}}}, "potato"),
        ({"nodes": {"dns": {"service": "bind", "limits": {"cpuset": "0; reboot"}}}}, "cpuset"),
        ({"nodes": {"$(reboot)": {"service": "bind"}}}, "reboot"),
        ({"nodes": {}}, "nodes"),
        ({"parent": "eth0; reboot"}, "parent"),
    ],
)
def test_bad_input_is_named(change: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_bed({"name": "x", "nodes": NODES, **change}, "bed")
    assert said in caught.value.found
    assert caught.value.exit_code == ExitCode.USAGE


@given(st.text(max_size=40))
def test_no_name_with_a_separator_is_a_domain(text: str) -> None:
    try:
        bed = parse_bed({"name": "x", "nodes": NODES, "domains": [text + ".test"]}, "bed")
    except InvalidInput:
        return
    assert set(bed.domain_names[0]) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.")


def test_the_built_in_beds_are_beds() -> None:
    assert builtin.bed("relay").domains == 2560
    assert {node.service for node in builtin.bed("relay").nodes.values()} == {
        "bind",
        "blackhole",
        "postfix",
        "smtp-load",
    }


def test_a_file_that_is_no_yaml_or_not_there_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "bed.yaml"
    broken.write_text("name: [", encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"bed\.yaml"):
        read_bed(broken)
    with pytest.raises(InvalidInput, match="No such file"):
        read_bed(tmp_path / "none.yaml")
    with pytest.raises(InvalidInput, match="choose one of mail, relay"):
        builtin.bed("relai")
