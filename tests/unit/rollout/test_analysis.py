from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.clusters.tally import NOTHING, Counts, bucket_of
from sidecar.grpc_wire.status import StatusCode
from sidecar.rollout.analysis import Verdict, by_chance, judge, tolerated
from sidecar.rollout.config import AnalysisConfig


def config(**more: Any) -> AnalysisConfig:
    return AnalysisConfig.model_validate({"success_rate": None, "compare_to_stable": None, **more}, strict=False)


def counts(
    ok: int = 0,
    latency: float = 0.01,
    slow: Mapping[float, int] | None = None,
    waiting: Mapping[float, int] | None = None,
    aborted: int = 0,
    first_message: Mapping[float, int] | None = None,
    **codes: int,
) -> Counts:
    spread = {bucket_of(latency): ok + sum(codes.values()) - sum((slow or {}).values())}
    for seconds, number in (slow or {}).items():
        spread[bucket_of(seconds)] = spread.get(bucket_of(seconds), 0) + number
    return Counts(
        {StatusCode.OK: ok, **{StatusCode[name]: number for name, number in codes.items()}},
        aborted,
        spread,
        {bucket_of(seconds): number for seconds, number in (first_message or {}).items()},
        {bucket_of(seconds): number for seconds, number in (waiting or {}).items()},
    )


def verdict(config: AnalysisConfig, candidate: Counts, stable: Counts = NOTHING) -> str:
    return judge(config, candidate, stable).verdict.value


def test_too_few_rpcs_are_neither_good_nor_bad() -> None:
    rules = config(success_rate={"min": 99}, min_rpcs=50)
    assert verdict(rules, counts(ok=49)) == "inconclusive"
    assert verdict(rules, counts(INTERNAL=49)) == "inconclusive"
    assert verdict(rules, counts(ok=50)) == "pass"
    assert verdict(rules, counts(INTERNAL=50)) == "fail"


def test_a_failure_that_chance_explains_is_no_verdict() -> None:
    rules = config(success_rate={"min": 99})
    assert verdict(rules, counts(ok=49, INTERNAL=1)) == "inconclusive", "2 %, and no proof of more than 1 %"
    assert verdict(rules, counts(ok=990, INTERNAL=10)) == "pass"
    assert verdict(rules, counts(ok=950, INTERNAL=50)) == "fail"


def test_the_fault_of_callers_is_no_failure() -> None:
    rules = config(success_rate={"min": 99})
    assert verdict(rules, counts(ok=10, INVALID_ARGUMENT=90)) == "pass"
    assert verdict(rules, counts(ok=10, UNIMPLEMENTED=90)) == "fail", "a method that the candidate has lost"
    assert verdict(config(success_rate={"min": 99}, failure_codes=("NOT_FOUND",)), counts(INTERNAL=90)) == "pass"


def test_more_refusals_than_stable_gives() -> None:
    rules = config(compare_to_stable={"refused_rise": 5})
    stable = counts(ok=900, NOT_FOUND=100)
    assert verdict(rules, counts(ok=86, NOT_FOUND=14), stable) == "pass"
    assert verdict(rules, counts(ok=50, NOT_FOUND=50), stable) == "fail"


def test_latency_is_bounded_by_quantile() -> None:
    rules = config(latency_p99={"max": 0.1}, latency_p50={"max": 0.05})
    assert verdict(rules, counts(ok=1000, slow={1.0: 10})) == "pass"
    assert verdict(rules, counts(ok=1000, slow={1.0: 40})) == "fail"
    assert verdict(rules, counts(ok=1000, latency=0.07)) == "fail", "p50"


def test_latency_beside_stable() -> None:
    rules = config(compare_to_stable={"latency_p99_ratio": 1.5})
    stable = counts(ok=1000, latency=0.1)
    assert verdict(rules, counts(ok=100, latency=0.14), stable) == "pass"
    assert verdict(rules, counts(ok=100, latency=0.3), stable) == "fail"
    tiny = counts(ok=1000, latency=0.001)
    assert verdict(rules, counts(ok=100, latency=0.003), tiny) == "pass", "below the noise of machines"


def test_one_that_hangs_is_slow_before_anything_ends() -> None:
    rules = config(compare_to_stable={"latency_p99_ratio": 1.5}, min_rpcs=20)
    stable = counts(ok=1000, latency=0.1)
    assert verdict(rules, counts(waiting={5.0: 20}), stable) == "fail"
    assert verdict(rules, counts(ok=20, latency=0.1, waiting={0.05: 20}), stable) == "pass", "they only just came"


def test_streams_by_their_first_message_and_by_how_they_end() -> None:
    rules = config(first_message_p99={"max": 0.5}, aborted_streams={"max": 1})
    assert verdict(rules, counts(ok=100, first_message={0.2: 100})) == "pass"
    assert verdict(rules, counts(ok=100, first_message={2.0: 100})) == "fail"
    assert verdict(rules, counts(ok=50, UNAVAILABLE=50, aborted=50)) == "fail"


def test_without_enough_of_stable_there_is_nothing_to_compare_with() -> None:
    rules = config(compare_to_stable={"success_rate_drop": 1})
    report = judge(rules, counts(ok=100), counts(ok=10))
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "to compare" in report.text


def test_a_report_says_what_decided() -> None:
    report = judge(config(success_rate={"min": 99}), counts(ok=50, INTERNAL=50), NOTHING)
    assert report.text == "success_rate: 50.00 % of 100 RPCs went well; at least 99 % must"
    shown = report.as_dict()
    assert shown["checks"][0]["bad"] == 50
    assert shown["candidate"]["codes"] == {"OK": 50, "INTERNAL": 50}


def test_what_stable_fails_is_tolerated() -> None:
    rules = config(success_rate={"min": 99}, min_rpcs=10)
    assert tolerated(rules, NOTHING) == pytest.approx(0.01)
    assert tolerated(rules, counts(ok=50, INTERNAL=50)) == 0.5


@pytest.mark.parametrize(
    ("bad", "total", "share", "expected"),
    [(1, 1, 0.5, 0.5), (3, 50, 0.01, 0.01382), (1, 50, 0.01, 0.39499), (5, 10, 0.5, 0.62305), (0, 10, 0.1, 1.0)],
)
def test_the_binomial_tail(bad: int, total: int, share: float, expected: float) -> None:
    assert by_chance(bad, total, share) == pytest.approx(expected, abs=1e-5)


@given(st.integers(1, 5000), st.data(), st.floats(0, 1))
def test_chance_is_a_probability_and_falls(total: int, data: st.DataObject, share: float) -> None:
    bad = data.draw(st.integers(0, total))
    found = by_chance(bad, total, share)
    assert 0 <= found <= 1
    assert by_chance(bad + 1, total, share) <= found + 1e-9


_COUNTS = st.builds(
    lambda ok, failed, late: counts(ok=ok + late, slow={1.0: late}, INTERNAL=failed),
    st.integers(0, 2000),
    st.integers(0, 2000),
    st.integers(0, 500),
)


@given(_COUNTS, _COUNTS)
def test_no_counts_are_beyond_judgement(candidate: Counts, stable: Counts) -> None:
    report = judge(AnalysisConfig(), candidate, stable)
    assert report.text
    if candidate.total < 50:
        assert report.verdict is Verdict.INCONCLUSIVE


def rated(*scores: int) -> Counts:
    spread = {score: scores.count(score) for score in set(scores)}
    return Counts({StatusCode.OK: 100}, latency={bucket_of(0.01): 100}, ratings=spread)


def test_what_callers_think_of_the_work() -> None:
    rules = config(ratings={"max_poor": 20, "min_ratings": 5})
    assert verdict(rules, rated(1, 1, 1, 1)) == "pass", "nobody has to rate"
    assert verdict(rules, rated(5, 4, 3, 5, 2)) == "pass"
    assert verdict(rules, rated(5, 4, 3, 2, 2)) == "inconclusive", "two in five, and no proof of more than one in five"
    assert verdict(rules, rated(1, 1, 1, 2, 5)) == "fail"
    report = judge(rules, rated(1, 1, 1, 2, 5), NOTHING)
    assert "4 of 5 ratings are 2 or less (20 % may)" in report.text
    assert report.candidate["ratings"] == {"1": 3, "2": 1, "5": 1}


def test_ratings_are_told_to_other_sidecars_and_earlier_ones_tell_none() -> None:
    found = rated(1, 5, 5)
    assert Counts.of(found.as_dict()) == found
    assert (found + found).ratings == {1: 2, 5: 4}
    assert (found + found - found).ratings == {1: 1, 5: 2}
    told = {name: value for name, value in found.as_dict().items() if name != "ratings"}
    assert Counts.of(told).ratings == {}
