from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from sidecar.rollout.sequential import evidence, is_hopeless


def test_what_fails_everything_is_hopeless_within_its_first_rpcs() -> None:
    first = next(total for total in range(1, 100) if is_hopeless(total, total, 0.01))
    assert first <= 20


def test_a_few_failures_at_the_start_are_no_verdict() -> None:
    assert not any(is_hopeless(total, total, 0.01) for total in range(1, 10))


def test_where_stable_fails_as_much_nothing_is_hopeless_soon() -> None:
    assert not is_hopeless(50, 100, 0.5)
    assert not is_hopeless(100, 100, 1.0), "behind both of them something is broken"


def test_a_candidate_that_is_as_good_as_demanded_is_hardly_ever_given_up() -> None:
    rng = random.Random(3)
    given_up = 0
    for _ in range(300):
        failed = 0
        for total in range(1, 1001):
            failed += rng.random() < 0.05
            # Looked at after every single RPC.
            if is_hopeless(failed, total, 0.05):
                given_up += 1
                break
    assert given_up == 0


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.floats(0, 1))
def test_more_failures_are_more_evidence(failed: int, fine: int, tolerated: float) -> None:
    total = failed + fine
    assert evidence(failed + 1, total + 1, tolerated) > evidence(failed, total, tolerated)
    assert evidence(failed, total + 1, tolerated) < evidence(failed, total, tolerated)
