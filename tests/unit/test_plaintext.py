"""Text of others on a terminal, and numbers of others in JSON."""

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import strict_json
from orchestrator.plaintext import pass_on, plain


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@settings(max_examples=200)
@given(st.text(st.characters(codec="utf-8")))
def test_nothing_of_a_plain_text_acts_on_a_terminal(text: str) -> None:
    shown = plain(text)
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert plain(shown) == shown
    assert [c for c in text if plain(c) == c] == [c for c in text if c.isprintable() or c == "\n"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("a\rb\tc\nd", "a\\x0db\\x09c\nd"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\U000e0001", "\\U000e0001"),
        ("grüße, 世界", "grüße, 世界"),
    ],
)
def test_control_characters_become_visible(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_what_a_node_said_is_plain_on_a_terminal_and_as_it_was_in_a_pipe() -> None:
    text, terminal, pipe = "a\tb\x1b[31m\r\n", Terminal(), io.StringIO()
    pass_on(text, terminal)
    pass_on(text, pipe)
    assert (terminal.getvalue(), pipe.getvalue()) == ("a\tb\\x1b[31m\\x0d\n", text)


@pytest.mark.parametrize("word", ["1e999", "-1e999", "NaN", "Infinity", "-Infinity"])
def test_a_number_that_is_not_finite_is_no_json(word: str) -> None:
    with pytest.raises(json.JSONDecodeError, match="is not a finite number"):
        strict_json.loads(f'{{"a": [{word}]}}')
    with pytest.raises(ValueError, match="not JSON compliant"):
        strict_json.dumps([float(word.replace("Infinity", "inf"))])


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_finite_number_comes_back(number: float) -> None:
    assert strict_json.loads(strict_json.dumps(number)) == number
