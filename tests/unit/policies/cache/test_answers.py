from __future__ import annotations

from collections import Counter, OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from sidecar.policies.cache.answers import Answers, Kept


class Dropped(Counter[str]):
    def __call__(self, why: str, count: int) -> None:
        self[why] += count


def kept(method: str = "/p.S/Get", size: int = 10, made: float = 0.0, ttl: float = 100.0) -> Kept:
    return Kept(method, [], bytes(size), [], made=made, expires=made + ttl)


def put(answers: Answers, key: bytes, value: Kept) -> bool:
    return answers.land(answers.begin(key, value.method), value)


def test_it_is_fresh_until_its_time_is_over() -> None:
    dropped = Dropped()
    answers = Answers(10, 10_000, dropped)
    one = kept(ttl=5.0)
    assert put(answers, b"k", one)
    assert answers.find(b"k", 4.9) is one
    assert answers.find(b"k", 5.0) is None
    assert (len(answers), answers.bytes, dropped) == (0, 0, {"expired": 1})


def test_the_longest_unused_goes_first() -> None:
    dropped = Dropped()
    answers = Answers(2, 100_000, dropped)
    for key in (b"a", b"b"):
        put(answers, key, kept())
    assert answers.find(b"a", 0.0)
    put(answers, b"c", kept())
    assert [key for key in (b"a", b"b", b"c") if answers.find(key, 0.0)] == [b"a", b"c"]
    assert dropped == {"full": 1}


def test_one_that_is_larger_than_all_may_be_pushes_nothing_out() -> None:
    answers = Answers(10, 2000, Dropped())
    assert put(answers, b"a", kept(size=100))
    assert not put(answers, b"b", kept(size=2000))
    assert len(answers) == 1


def test_a_flight_lands_once_and_what_is_forgotten_meanwhile_is_not_kept() -> None:
    answers = Answers(10, 10_000, Dropped())
    flight = answers.begin(b"k", "/p.S/Get")
    assert answers.flight(b"k") is flight
    assert answers.forget(lambda method: method == "/p.S/Get", "cleared") == 0
    assert answers.flight(b"k") is None, "who asks now begins another"
    later = answers.begin(b"k", "/p.S/Get")
    assert not answers.land(flight, kept())
    assert answers.find(b"k", 0.0) is None
    assert answers.land(later, kept())
    assert not answers.land(later, kept()), "once"


def test_one_that_is_alone_is_joined_by_nobody() -> None:
    answers = Answers(10, 10_000, Dropped())
    joined = answers.begin(b"k", "/p.S/Get")
    alone = answers.begin(b"k", "/p.S/Get", alone=True)
    assert answers.flight(b"k") is joined
    assert answers.land(alone, kept(made=1.0))
    assert answers.flight(b"k") is joined


def test_only_what_matches_is_forgotten() -> None:
    dropped = Dropped()
    answers = Answers(10, 10_000, dropped)
    put(answers, b"a", kept("/p.S/Get"))
    put(answers, b"b", kept("/p.S/List"))
    assert answers.forget(lambda method: method.endswith("Get"), "invalidated") == 1
    assert (answers.find(b"a", 0.0), dropped) == (None, {"invalidated": 1})
    assert answers.find(b"b", 0.0)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 1500), st.booleans()), max_size=60))
def test_its_bounds_hold_whatever_comes(steps: list[tuple[str, int, bool]]) -> None:
    answers = Answers(4, 4000, Dropped())
    model: OrderedDict[bytes, int] = OrderedDict()
    for name, size, is_look in steps:
        key = name.encode()
        if is_look:
            assert (answers.find(key, 0.0) is not None) == (key in model)
            if key in model:
                model.move_to_end(key)
            continue
        one = kept(size=size)
        put(answers, key, one)
        model.pop(key, None)
        model[key] = one.size
        while len(model) > 4 or sum(model.values()) > 4000:
            model.popitem(last=False)
        assert (len(answers), answers.bytes) == (len(model), sum(model.values()))
