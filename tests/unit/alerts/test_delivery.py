"""What a receiver is told, and when: grouped, not too often, again while it lasts, again when it got lost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sidecar.alerts.alert import Alert
from sidecar.alerts.delivery import Delivery, NotDelivered, Pace
from sidecar.runtime import Runtime
from sidecar.telemetry import names
from tests.support.alerts import Hands, Inbox, fake_runtime
from tests.support.clock import FakeClock


def firing(name: str, severity: str = "critical") -> Alert:
    return Alert(
        key=f"sidecar/node/{name}",
        name=name,
        severity=severity,
        summary=f"{name} is wrong",
        rule="",
        labels=(),
        value=1.0,
        node="node",
        began=1.0,
    )


def ended(name: str) -> Alert:
    return replace(firing(name), ended=2.0)


class Desk:
    """One delivery, its sender and its hand, and the time."""

    def __init__(
        self, pace: Pace | None = None, *, batch: int = 50, severities: tuple[str, ...] = ("critical",)
    ) -> None:
        self.clock = FakeClock()
        self.runtime: Runtime = fake_runtime(self.clock)
        self.inbox = Inbox(batch)
        self.hands = Hands()
        self.pace = pace or Pace()
        self.delivery = self.make(severities)

    def make(self, severities: tuple[str, ...] = ("critical",)) -> Delivery:
        return Delivery("oncall", self.inbox, severities, self.pace, self.runtime, self.hands.take)

    def tell(self, *alerts: Alert) -> None:
        self.delivery.tell(alerts)

    def counted(self, result: str) -> float:
        return self.runtime.metrics.samples(names.ALERT_NOTIFICATIONS)["oncall", result]


# ── grouping and pace ──


def test_what_comes_together_goes_in_one_message() -> None:
    desk = Desk()
    desk.tell(firing("a"))
    desk.clock.advance(5)
    desk.tell(firing("b"), firing("c"))
    assert desk.inbox.messages == []
    desk.clock.advance(5)
    assert desk.inbox.said == [["firing a", "firing b", "firing c"]]


def test_the_next_message_waits_for_its_turn() -> None:
    desk = Desk()
    desk.tell(firing("a"))
    desk.clock.advance(10)
    desk.tell(firing("b"))
    desk.clock.advance(59)
    assert len(desk.inbox.messages) == 1
    desk.tell(ended("a"))
    desk.clock.advance(1)
    assert desk.inbox.said[1:] == [["firing b", "resolved a"]]


def test_an_alert_that_ended_before_anybody_was_told_is_no_news() -> None:
    desk = Desk()
    desk.tell(firing("a"))
    desk.tell(ended("a"))
    desk.clock.advance(100)
    assert desk.inbox.messages == []


def test_only_the_severities_that_are_wanted() -> None:
    desk = Desk(severities=("warning",))
    desk.tell(firing("a"), firing("b", "warning"))
    desk.clock.advance(10)
    assert desk.inbox.said == [["firing b"]]


def test_what_lasts_is_told_again_after_a_while_only() -> None:
    desk = Desk(Pace(0, 0, 3600))
    alert = firing("a")
    desk.tell(alert)
    desk.clock.advance(1)
    for _ in range(3600 // 5):
        desk.clock.advance(5)
        desk.delivery.remind([alert])
    desk.clock.advance(1)
    assert desk.inbox.said == [["firing a"], ["firing a"]]


def test_a_storm_is_one_message_a_minute() -> None:
    """A hundred alerts that come and go all the time."""
    desk = Desk()
    for i in range(600):
        desk.tell(*((ended if i % 7 == 6 else firing)(f"a{n}") for n in range(100)))
        desk.clock.advance(1)
    assert len(desk.inbox.messages) <= 600 / 60 * 2 + 1, "and each of them 50 alerts at most, so two"
    assert max(map(len, desk.inbox.messages)) == 50


def test_one_event_for_each_alert_where_there_is_no_grouping() -> None:
    desk = Desk(batch=1)
    desk.tell(firing("a"), firing("b"))
    desk.clock.advance(10)
    assert desk.inbox.said == [["firing a"], ["firing b"]]


# ── receivers that fail ──


def test_it_is_tried_again_later_and_later() -> None:
    desk = Desk(Pace(0, 0, 3600))
    desk.inbox.error = OSError(111, "Connection refused")
    desk.tell(firing("a"))
    tries = []
    for _ in range(3000):
        before = desk.inbox.tries
        desk.clock.advance(1)
        if desk.inbox.tries > before:
            tries.append(desk.clock.monotonic() - 1000)
    gaps = [b - a for a, b in zip(tries, tries[1:], strict=False)]
    assert 10 < len(tries) < 25
    assert max(gaps) <= 300 * 1.2 + 1
    assert gaps[:6] == sorted(gaps[:6])
    assert desk.delivery.view()["problem"] == "Connection refused"
    desk.inbox.error = None
    desk.clock.advance(400)
    assert desk.inbox.said == [["firing a"]]
    assert desk.delivery.view()["problem"] is None
    assert (desk.counted("failed"), desk.counted("sent")) == (desk.inbox.tries - 1, 1)


def test_a_receiver_that_was_away_gets_the_state_of_now() -> None:
    desk = Desk(Pace(0, 0, 3600))
    desk.tell(firing("a"), firing("b"))
    desk.clock.advance(1)
    desk.inbox.error = OSError(111, "Connection refused")
    for i in range(100):
        desk.tell(firing(f"n{i}"))
        desk.clock.advance(1)
        desk.tell(ended(f"n{i}"))
    desk.tell(ended("a"))
    desk.inbox.error = None
    desk.clock.advance(1000)
    told = [each for message in desk.inbox.said[1:] for each in message]
    assert "resolved a" in told
    assert not any(each.startswith("firing") for each in told)


def test_what_waits_is_bounded() -> None:
    desk = Desk(Pace(0, 0, 3600))
    desk.inbox.error = OSError(111, "Connection refused")
    for i in range(2000):
        desk.tell(firing(f"n{i}"))
    assert desk.delivery.view()["owed"] <= 500
    assert desk.counted("dropped") == 1500


def test_a_word_of_the_receiver_on_when_to_come_again() -> None:
    desk = Desk(Pace(0, 0, 3600))
    desk.inbox.error = NotDelivered("HTTP status 429", retry_after=120)
    desk.tell(firing("a"))
    desk.clock.advance(119)
    assert desk.inbox.tries == 1
    desk.clock.advance(2)
    assert desk.inbox.tries == 2


def test_what_will_never_be_taken_is_not_sent_again_until_it_is_due() -> None:
    desk = Desk(Pace(0, 0, 3600))
    alert = firing("a")
    desk.inbox.error = NotDelivered("HTTP status 400", is_final=True)
    desk.tell(alert)
    for _ in range(700):
        desk.clock.advance(5)
        desk.delivery.remind([alert])
    assert desk.inbox.tries == 1
    assert desk.counted("refused") == 1
    for _ in range(30):
        desk.clock.advance(5)
        desk.delivery.remind([alert])
    assert desk.inbox.tries == 2


def test_one_that_does_not_answer_is_not_asked_twice_at_a_time() -> None:
    desk = Desk(Pace(0, 0, 60))
    desk.hands.is_held = True
    desk.tell(firing("a"))
    desk.clock.advance(1)
    for i in range(100):
        desk.tell(firing(f"n{i}"))
        desk.delivery.remind([firing("a")])
        desk.clock.advance(60)
    assert len(desk.hands.waiting) == 1
    desk.hands.let_go()
    desk.clock.advance(60)
    assert sum(map(len, desk.inbox.messages)) == 102, "a, a again, and the hundred"


def test_an_end_that_comes_while_the_beginning_is_under_way_is_told() -> None:
    desk = Desk(Pace(0, 0, 3600))
    desk.hands.is_held = True
    desk.tell(firing("a"))
    desk.clock.advance(1)
    desk.tell(ended("a"))
    desk.hands.let_go()
    desk.clock.advance(1)
    assert desk.inbox.said == [["firing a"], ["resolved a"]]


def test_an_end_is_told_where_the_beginning_may_have_arrived() -> None:
    """No answer in time: it may have been taken all the same."""
    desk = Desk(Pace(0, 0, 3600))
    desk.inbox.error = NotDelivered("no answer in time")
    desk.tell(firing("a"))
    desk.clock.advance(1)
    desk.tell(ended("a"))
    desk.inbox.error = None
    desk.clock.advance(10)
    assert desk.inbox.said == [["resolved a"]]


def test_after_its_end_the_same_is_news_again() -> None:
    desk = Desk(Pace(0, 0, 3600))
    for alert in (firing("a"), ended("a"), firing("a")):
        desk.tell(alert)
        desk.clock.advance(1)
    assert desk.inbox.said == [["firing a"], ["resolved a"], ["firing a"]]


def test_of_several_events_those_that_did_not_arrive_are_sent_again() -> None:
    desk = Desk(Pace(0, 0, 3600), batch=1)
    desk.tell(firing("a"), firing("b"), firing("c"))
    desk.hands.is_held = True
    desk.clock.advance(0)
    job, done = desk.hands.waiting.popleft()
    job()
    done(None)
    desk.hands.waiting.clear()
    done(OSError(111, "Connection refused"))
    desk.hands.is_held = False
    desk.clock.advance(5)
    assert sorted(each for message in desk.inbox.said for each in message) == ["firing a", "firing b", "firing c"]


def test_an_unknown_error_is_told_without_its_text() -> None:
    desk = Desk(Pace(0, 0, 3600))
    desk.inbox.error = ValueError("unknown url type: 'secret'")
    desk.tell(firing("a"))
    desk.clock.advance(1)
    assert desk.delivery.view()["problem"] == "ValueError"


# ── reload and end ──


def test_who_was_told_what_survives_a_reload() -> None:
    desk = Desk(Pace(0, 0, 3600))
    desk.tell(firing("a"))
    desk.clock.advance(1)
    desk.inbox.error = OSError(111, "Connection refused")
    desk.tell(firing("b"))
    desk.clock.advance(1)
    desk.inbox.error = None
    former, desk.delivery = desk.delivery, desk.make()
    desk.delivery.inherit(former)
    desk.tell(ended("a"))
    desk.clock.advance(10)
    assert sorted(desk.inbox.said[1]) == ["firing b", "resolved a"]
    assert len(desk.clock.timers) == 0


@pytest.mark.parametrize("batch", [1, 50])
def test_last_words(batch: int) -> None:
    desk = Desk(batch=batch)
    desk.tell(firing("a"), firing("b"))
    say = desk.delivery.last_words()
    assert say is not None
    desk.clock.advance(1000)
    assert desk.inbox.messages == [], "nothing goes by itself any more"
    say()
    assert sorted(each for message in desk.inbox.said for each in message) == ["firing a", "firing b"]
    assert Desk().delivery.last_words() is None
