"""Rules: the first one that matches decides, each counts its hits, and what makes no sense is refused."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator.agents.rules import PASSED, Action, Decision, Moment, Rule, Rules, Transaction

BOB = Transaction(client="198.18.0.2", sender="alice@d0.test", recipient="bob@d1.test")


class Clock:
    """Seconds that the test sets."""

    now = 1000.0

    def __call__(self) -> float:  # noqa: D102
        return self.now


def rules(*texts: dict[str, object], clock: Clock | None = None) -> Rules:
    return Rules([Rule.model_validate(text) for text in texts], clock or Clock())


def hits(of: Rules) -> list[int]:
    return [kept.hits for kept in of.in_force]


def actions(of: Rules, transaction: Transaction = BOB, moment: Moment = Moment.RCPT, count: int = 1) -> list[Action]:
    return [of.decide(moment, transaction).action for _ in range(count)]


def test_the_first_rule_that_matches_decides() -> None:
    them = rules(
        {"to": "*@d3.test", "then": "reject"},
        {"to": "bob@*", "then": "defer", "reply": "451 4.7.1 later"},
        {"then": "reject"},
    )
    assert them.decide(Moment.RCPT, BOB) == Decision(rule=2, action=Action.DEFER, reply="451 4.7.1 later")
    assert them.decide(Moment.MAIL, BOB) is PASSED
    assert hits(them) == [0, 1, 0]


def test_a_rule_is_put_before_the_others_and_removed_by_an_id_that_no_other_rule_gets() -> None:
    them = rules({"then": "reject"})
    added = them.add(Rule.model_validate({"to": "bob@*", "then": "defer", "times": 1}))
    assert actions(them, count=2) == [Action.DEFER, Action.REJECT]
    assert (them.remove(added.id).hits, hits(them)) == (1, [1])
    with pytest.raises(KeyError):
        them.remove(added.id)
    assert them.add(added.rule).id == added.id + 1
    them.replace([added.rule])
    assert [kept.id for kept in them.in_force] == [added.id + 2]


@pytest.mark.parametrize(
    ("pattern", "address", "matches"),
    [
        ("*", "bob@d1.test", True),
        ("*@D1.test", "Bob@d1.TEST", True),
        ("bo?@d1.test", "bob@d1.test", True),
        ("*@d1.test", "bob@d1.test.test", False),
        ("*@[198.18.0.1]", "bob@[198.18.0.1]", True),
        ("*@[198.18.0.1]", "bob@1", False),
        ("*.test", "bob@d1\ntest", False),
    ],
)
def test_patterns_have_stars_and_question_marks_only(pattern: str, address: str, matches: bool) -> None:  # noqa: FBT001
    them = rules({"to": pattern, "then": "reject"})
    assert (actions(them, Transaction(sender="", recipient=address)) == [Action.REJECT]) is matches


def test_the_empty_sender_has_a_pattern() -> None:
    them = rules({"from": "<>", "then": "reject"})
    assert actions(them, Transaction(sender="", recipient="a@b")) == [Action.REJECT]
    assert actions(them) == [Action.ACCEPT]


def test_times_counts_what_was_done_and_then_the_next_rule_decides() -> None:
    them = rules({"to": "bob@*", "then": "defer", "times": 2}, {"then": "reject", "times": 1})
    assert actions(them, count=4) == [Action.DEFER, Action.DEFER, Action.REJECT, Action.ACCEPT]
    assert hits(them) == [2, 1]


def test_every_third_is_reset() -> None:
    them = rules({"from": "*", "on": "data", "then": "reset", "every": 3})
    assert [a is Action.RESET for a in actions(them, moment=Moment.DATA, count=7)] == [False, False, True] * 2 + [False]


def test_greylisting_asks_for_the_same_triple_later() -> None:
    clock = Clock()
    them = rules({"then": "greylist", "delay_s": 5}, clock=clock)
    other = Transaction(client=BOB.client, sender="carol@d0.test", recipient=BOB.recipient)
    assert them.decide(Moment.RCPT, BOB).reply.startswith("450 4.7.1 ")
    clock.now += 4.9
    assert actions(them) == [Action.GREYLIST]
    assert actions(them, other) == [Action.GREYLIST]
    clock.now += 0.2
    assert actions(them) == [Action.ACCEPT]
    assert actions(them, other) == [Action.GREYLIST]
    assert hits(them) == [4]


def test_above_a_rate_it_defers_until_the_minute_is_over() -> None:
    clock = Clock()
    them = rules({"then": "rate", "per_minute": 3, "reply": "421 4.7.0 Slow down"}, clock=clock)
    assert actions(them, count=5) == [Action.ACCEPT] * 3 + [Action.RATE] * 2
    clock.now += 60
    assert actions(them, count=4) == [Action.ACCEPT] * 3 + [Action.RATE]
    assert hits(them) == [3]


@pytest.mark.parametrize(
    ("first", "then"), [({"then": "greylist", "delay_s": 5}, 10), ({"then": "rate", "per_minute": 1}, 60)]
)
def test_what_a_rule_lets_pass_goes_on_to_the_next(first: dict[str, object], then: float) -> None:
    clock = Clock()
    them = rules(first, {"to": "bob@*", "then": "reject"}, clock=clock)
    assert set(actions(them, count=2)) - {Action.REJECT} == {Action(str(first["then"]))}
    clock.now += then
    assert actions(them) == [Action.REJECT]


def test_a_pace_gives_the_turns_of_clients_that_left_to_others() -> None:
    clock = Clock()
    them = rules({"then": "pace", "per_second": 1}, clock=clock)
    waiting = [them.decide(Moment.RCPT, BOB) for _ in range(10)]
    assert [decision.delay_s for decision in waiting] == list(range(10))
    for decision in (waiting[7], waiting[2], waiting[3]):
        decision.give_back()
    clock.now += 2.5  # the turn at 2 s has passed
    assert [them.decide(Moment.RCPT, BOB).delay_s for _ in range(3)] == [0.5, 4.5, 7.5]


@given(st.lists(st.floats(min_value=0, max_value=2), min_size=1, max_size=50), st.integers(1, 20))
def test_a_pace_is_never_passed_and_refuses_nothing(pauses: list[float], per_second: int) -> None:
    clock = Clock()
    them = rules({"then": "pace", "per_second": per_second}, clock=clock)
    answered = []
    for pause in pauses:
        clock.now += pause
        decision = them.decide(Moment.RCPT, BOB)
        assert (decision.action, decision.reply) == (Action.PACE, "")
        answered.append(clock.now + decision.delay_s)
    assert all(b - a >= 1 / per_second - 1e-6 for a, b in pairwise(answered))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ({"then": "explode"}, "accept"),
        ({"then": "defer", "reply": "550 no"}, "begins with 4"),
        ({"then": "reject", "reply": "550 5.7.1 no\r\n250 ok"}, "pattern"),
        ({"then": "reject", "reply": "2.1"}, "pattern"),
        ({"then": "greylist"}, "needs delay_s"),
        ({"then": "pace"}, "needs per_second"),
        ({"then": "defer", "delay_s": 3}, "has no delay_s"),
        ({"then": "drop", "on": "rcpt"}, "needs on: message"),
        ({"then": "drop", "reply": "451 later"}, "has no reply"),
        ({"to": "*@d1.test", "on": "mail", "then": "reject"}, "no recipient is known on mail"),
        ({"from": "*", "on": "ehlo", "then": "reject"}, "no sender is known on ehlo"),
        ({"then": "reject", "whom": "bob"}, "Extra inputs"),
        ({"then": "tarpit", "delay_s": float("inf")}, "finite number"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_reason(text: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Rule.model_validate(text)
