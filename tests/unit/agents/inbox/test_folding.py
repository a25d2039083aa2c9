"""Folding: equal for a reader is equal as a string."""

import time

import pytest

from orchestrator.agents.inbox.folding import fold, fold_address


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("CAFÉ", "cafe"),
        ("cafe\u0301", "Café"),
        ("STRASSE", "straße"),
        ("ÜBER", "über"),
        ("ПРИВЕТ", "привет"),
        ("ﬁle", "FILE"),
        ("ΣΊΣΥΦΟΣ", "Σίσυφος"),
    ],
)
def test_neither_case_nor_accents_count(one: str, other: str) -> None:
    assert fold(one) == fold(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Bob@D1.TEST", "bob@d1.test"),
        ("JOSÉ@d1.test", "josé@d1.test"),
        ("bob@bücher.example", "bob@xn--bcher-kva.example"),
        ("bob@BÜCHER.Example", "bob@XN--BCHER-KVA.example"),
        ("bob@bu\u0308cher\u3002example", "bob@bücher.example"),
        ("bob@faß.example", "bob@xn--fa-hia.example"),
        ("bob@i❤.example", "bob@xn--i-7iq.example"),
        ("*@*.bücher.example", "*@*.xn--bcher-kva.example"),
    ],
)
def test_both_forms_of_a_domain_are_one_name(one: str, other: str) -> None:
    assert fold_address(one) == fold_address(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("bob@bücher.example", "bob@bucher.example"),
        ("bob@faß.example", "bob@fass.example"),
        ("josé@d1.test", "jose@d1.test"),
    ],
)
def test_an_accent_makes_another_address(one: str, other: str) -> None:
    assert fold_address(one) != fold_address(other)


@pytest.mark.parametrize(
    "address", ["", "<>", "*", "bob@[198.18.0.1]", "bob@[ipv6:2001:2::1]", "a@xn--", "a@xn--\x80.b", "a@xn--99999999"]
)
def test_what_is_no_name_of_a_domain_stays(address: str) -> None:
    assert fold_address(address) == address


def test_a_run_of_combining_marks_takes_no_time() -> None:
    start = time.process_time()
    assert fold("x" + "\u05b0" * 500_000 + "\u0591" * 500_000)[0] == "x"
    fold_address("\u05b0" * 4000 + "\u0591" * 4000 + "@" + "ü" * 8000)
    assert time.process_time() - start < 2  # NFKD of the whole text takes hours
