from __future__ import annotations

import random
from collections import Counter
from typing import Any, cast

import pytest

from sidecar.clusters.balancing import Balancing, LeastRequest, RingHash, Weighted, make_picker, points_of
from sidecar.clusters.endpoint import Endpoint
from sidecar.clusters.picker import Picker, RoundRobin, untried
from sidecar.proxy.call import Call
from sidecar.proxy.selectors import compile_selector


class Place:
    """As much of an endpoint as a picker sees."""

    def __init__(self, address: str, load: int = 0) -> None:
        self.address = address
        self.load = load


class Caller:
    """As much of a call as a key is taken from."""

    def __init__(self, session: str | None = None) -> None:
        self._session = session

    def metadata_text(self, name: bytes) -> str | None:
        return self._session


def places(count: int) -> tuple[Endpoint, ...]:
    return cast("tuple[Endpoint, ...]", tuple(Place(f"10.0.0.{i}:1") for i in range(count)))


def caller(session: str | None = None) -> Call:
    return cast("Call", Caller(session))


def shares(picker: Picker, picks: int = 10_000) -> dict[str, float]:
    found = Counter(_picked(picker).address for _ in range(picks))
    return {address: 100 * count / picks for address, count in found.items()}


def _picked(picker: Picker, **how: Any) -> Endpoint:
    picked = picker.pick(caller(), **how)
    assert picked is not None
    return picked


def test_in_turn() -> None:
    endpoints = places(3)
    picker = RoundRobin(endpoints, 1)
    assert [_picked(picker) for _ in range(4)] == [endpoints[1], endpoints[2], endpoints[0], endpoints[1]]


@pytest.mark.parametrize(
    "make",
    [
        lambda endpoints: RoundRobin(endpoints),
        lambda endpoints: LeastRequest(endpoints, random.Random(1)),
        lambda endpoints: Weighted(endpoints, [1.0] * len(endpoints)),
        lambda endpoints: RingHash(endpoints, compile_selector("metadata.x-session")),
    ],
    ids=["round_robin", "least_request", "weighted", "ring_hash"],
)
class TestEveryRule:
    def test_nothing_to_pick_from(self, make: Any) -> None:
        assert make(()).pick(caller("a")) is None
        assert make(()).pick(caller("a"), (object(),)) is None

    def test_another_than_what_was_tried(self, make: Any) -> None:
        endpoints = places(3)
        picker = make(endpoints)
        for session in "abcdefghij":
            for tried in (endpoints[:1], endpoints[:2], endpoints[1:], list(endpoints[::2])):
                assert picker.pick(caller(session), tried) not in tried

    def test_the_same_again_where_all_were_tried(self, make: Any) -> None:
        endpoints = places(2)
        assert make(endpoints).pick(caller("a"), endpoints) in endpoints
        only = places(1)
        assert make(only).pick(caller("a"), only) is only[0]

    def test_all_get_their_share(self, make: Any) -> None:
        picker = make(places(4))
        found = Counter(picker.pick(caller(f"s{i}")).address for i in range(10_000))
        assert len(found) == 4
        # A ring of 160 places each is uneven by some percent; the others are not.
        slack = 600 if isinstance(picker, RingHash) else 150
        assert all(abs(count - 2500) < slack for count in found.values()), found


def test_untried_keeps_the_order() -> None:
    endpoints = places(3)
    assert untried(endpoints, [endpoints[1]]) == (endpoints[0], endpoints[2])


@pytest.mark.parametrize("weights", [(50, 50), (90, 10), (99, 1), (25, 25, 50), (1, 0.1), (0.3, 1, 1)])
@pytest.mark.parametrize("start", [0.0, 0.4711, 0.999999])
def test_weights_hold_within_one_point(weights: tuple[float, ...], start: float) -> None:
    endpoints = places(len(weights))
    found = shares(Weighted(endpoints, weights, start))
    for endpoint, weight in zip(endpoints, weights, strict=True):
        assert found.get(endpoint.address, 0) == pytest.approx(100 * weight / sum(weights), abs=1)


def test_weights_hold_for_few_rpcs_too() -> None:
    endpoints = places(2)
    for seed in range(20):
        picker = Weighted(endpoints, (90, 10), random.Random(seed).random())
        found = Counter(_picked(picker).address for _ in range(50))
        assert 4 <= found[endpoints[1].address] <= 6


def test_of_two_the_one_with_less_to_do() -> None:
    busy, idle = cast("tuple[Endpoint, ...]", (Place("a:1", 9), Place("b:1", 1)))
    picker = LeastRequest((busy, idle), random.Random(3))
    assert {_picked(picker) for _ in range(50)} == {idle}


def test_power_of_two_spreads_better_than_chance() -> None:
    endpoints = places(10)
    picker = LeastRequest(endpoints, random.Random(5))
    for _ in range(10_000):
        _picked(picker).load += 1
    loads = [each.load for each in endpoints]
    assert max(loads) - min(loads) <= 10, loads


def test_the_busiest_of_three_is_never_picked() -> None:
    endpoints = cast("tuple[Endpoint, ...]", (Place("a:1", 0), Place("b:1", 0), Place("c:1", 1)))
    picker = LeastRequest(endpoints, random.Random(5))
    assert endpoints[2] not in {_picked(picker) for _ in range(1000)}


def test_a_weight_stands_for_so_much_less_to_do() -> None:
    old, new = cast("tuple[Endpoint, ...]", (Place("a:1", 3), Place("b:1", 0)))
    picker = LeastRequest((old, new), random.Random(3), (1.0, 0.2))
    # (3 + 1) / 1 against (0 + 1) / 0.2
    assert {_picked(picker) for _ in range(50)} == {old}
    old.load = 5
    assert {_picked(picker) for _ in range(50)} == {new}


def test_the_same_seed_picks_the_same() -> None:
    endpoints = places(7)
    one, other = (LeastRequest(endpoints, random.Random(11)) for _ in range(2))
    assert [_picked(one).address for _ in range(100)] == [_picked(other).address for _ in range(100)]


class TestRing:
    select = staticmethod(compile_selector("metadata.x-session"))

    def owners(self, endpoints: tuple[Endpoint, ...]) -> dict[str, str]:
        picker = RingHash(endpoints, self.select)
        picked = {f"session-{i}": picker.pick(caller(f"session-{i}")) for i in range(2000)}
        return {session: each.address for session, each in picked.items() if each is not None}

    def test_a_key_stays(self) -> None:
        endpoints = places(5)
        assert self.owners(endpoints) == self.owners(tuple(reversed(endpoints)))

    def test_only_the_keys_of_the_one_that_left_move(self) -> None:
        endpoints = places(5)
        before, after = self.owners(endpoints), self.owners(endpoints[1:])
        moved = {session for session in before if before[session] != after[session]}
        assert moved == {session for session, address in before.items() if address == endpoints[0].address}

    def test_one_that_comes_takes_about_its_share(self) -> None:
        endpoints = places(6)
        before, after = self.owners(endpoints[:5]), self.owners(endpoints)
        moved = [session for session in before if before[session] != after[session]]
        assert all(after[session] == endpoints[5].address for session in moved)
        assert 200 < len(moved) < 500

    def test_a_retry_goes_to_the_next_on_the_ring_and_always_to_that(self) -> None:
        endpoints = places(5)
        picker = RingHash(endpoints, self.select)
        first = picker.pick(caller("a"))
        assert {picker.pick(caller("a"), [first]) for _ in range(5)} == {picker.pick(caller("a"), [first])}

    def test_calls_without_the_key_are_spread(self) -> None:
        assert set(shares(RingHash(places(4), self.select)).values()) == {25.0}

    def test_places_are_the_same_everywhere(self) -> None:
        assert len(set(points_of("10.0.0.1:1"))) == 160
        assert points_of("10.0.0.1:1")[0] == 1131170244054457532


@pytest.mark.parametrize(
    ("rule", "weights", "kind"),
    [
        (Balancing(), None, RoundRobin),
        (Balancing(), (1.0, 0.5), Weighted),
        (Balancing("least_request"), (1.0, 0.5), LeastRequest),
        (Balancing("ring_hash", "identity"), (1.0, 0.5), RingHash),
    ],
)
def test_the_picker_of_each_rule(rule: Balancing, weights: Any, kind: type) -> None:
    assert type(make_picker(rule, places(2), random.Random(1), weights, points_of)) is kind
