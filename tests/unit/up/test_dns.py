"""Changes of DNS records, before they reach a shell of a node."""

import pytest

from orchestrator.errors import InvalidInput
from orchestrator.up.dns import changes


def test_records_are_replaced_in_canonical_words() -> None:
    assert changes("example.com", "mx", ["10 mx.example.com.", "20 b.example.com."], 60) == [
        "update delete example.com. MX",
        "update add example.com. 60 IN MX 10 mx.example.com.",
        "update add example.com. 60 IN MX 20 b.example.com.",
        "send",
        "prereq yxrrset example.com. IN MX 10 mx.example.com.",
        "prereq yxrrset example.com. IN MX 20 b.example.com.",
    ]
    assert changes("a b.example.com", "TXT", [], 60) == [
        r"update delete a\032b.example.com. TXT",
        "send",
        r"prereq nxrrset a\032b.example.com. IN TXT",
    ]


@pytest.mark.parametrize(
    ("name", "kind", "data"),
    [
        ("example.com", "NOSUCH", "x"),
        ("example.com", "MX", "ten"),
        ("x" * 64 + ".com", "TXT", "x"),
        ("example.com", "TXT", '"a"\nsend'),
        ("example.com", "TXT", '"a" \x1b'),
    ],
)
def test_what_is_no_record_is_refused(name: str, kind: str, data: str) -> None:
    with pytest.raises(InvalidInput):
        changes(name, kind, [data], 60)
