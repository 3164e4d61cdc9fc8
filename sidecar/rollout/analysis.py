"""Judges a candidate by what its RPCs came to: absolute bounds, and comparison with stable. Pure: counts in, a report out.

A bound says how many RPCs may be bad: 1 % for `success_rate: {min: 99}`, 1 % above `latency_p99`, 50 % above `latency_p50`. A check
passes when no larger share was bad. It fails when more were bad than chance explains (a binomial test, one in twenty); what lies between
is inconclusive, and more RPCs are waited for: 1 failure in 50 is 2 %, and no proof of more than 1 %.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sidecar.clusters.tally import Counts, above, quantile
from sidecar.grpc_wire.status import StatusCode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sidecar.rollout.config import AnalysisConfig, RatingsConfig

_CHANCE = 0.05


class Verdict(enum.Enum):
    """What a check, or all of them together, says."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Check:
    """One bound: how many of how many RPCs were bad, and what share may be (0 to 1)."""

    name: str
    verdict: Verdict
    bad: int
    total: int
    allowed: float
    text: str

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "verdict": self.verdict.value,
            "bad": self.bad,
            "rpcs": self.total,
            "allowed_percent": round(self.allowed * 100, 3),
            "text": self.text,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """The verdict on a candidate, with the checks and figures that it follows from."""

    verdict: Verdict
    checks: tuple[Check, ...]
    candidate: Mapping[str, Any]
    stable: Mapping[str, Any]

    @property
    def text(self) -> str:
        """What decided, in a line."""
        deciding = [each for each in self.checks if each.verdict is self.verdict] or list(self.checks)
        return "; ".join(each.text for each in deciding)

    def as_dict(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict.value,
            "checks": [each.as_dict() for each in self.checks],
            "candidate": dict(self.candidate),
            "stable": dict(self.stable),
        }


def judge(config: AnalysisConfig, candidate: Counts, stable: Counts) -> Report:
    """What `candidate` is worth, by the bounds of `config`, beside `stable`."""
    failures = failure_codes(config)
    figures = (summary(candidate, failures), summary(stable, failures))
    seen = candidate.total + sum(candidate.waiting.values())
    if seen < config.min_rpcs:
        text = f"{seen} RPCs, and {config.min_rpcs} are needed"
        check = Check("min_rpcs", Verdict.INCONCLUSIVE, 0, seen, 0.0, text)
        return Report(Verdict.INCONCLUSIVE, (check,), *figures)
    checks = (*_absolute(config, candidate, failures), *_relative(config, candidate, stable, failures))
    verdicts = {each.verdict for each in checks}
    verdict = (
        Verdict.FAIL
        if Verdict.FAIL in verdicts
        else Verdict.INCONCLUSIVE
        if Verdict.INCONCLUSIVE in verdicts or not checks
        else Verdict.PASS
    )
    return Report(verdict, checks, *figures)


def failure_codes(config: AnalysisConfig) -> frozenset[StatusCode]:
    return frozenset(StatusCode[name] for name in config.failure_codes)


def tolerated(config: AnalysisConfig, stable: Counts) -> float:
    """What share of failures (0 to 1) is no reason to give a candidate up."""
    shares = [1 - config.success_rate.min / 100] if config.success_rate is not None else []
    failed, total = stable.count(failure_codes(config)), stable.total
    if total >= config.min_rpcs:
        shares.append(failed / total)
    return max(shares, default=0.05)


def _absolute(config: AnalysisConfig, candidate: Counts, failures: frozenset[StatusCode]) -> Iterator[Check]:
    total = candidate.total
    if config.success_rate is not None:
        least = config.success_rate.min
        yield _rate("success_rate", candidate.count(failures), total, 1 - least / 100, f"at least {least:g} % must")
    for name, limit, share in (("latency_p50", config.latency_p50, 0.5), ("latency_p99", config.latency_p99, 0.01)):
        if limit is not None:
            yield _slow(name, candidate.latency, candidate.waiting, limit.max, share)
    if config.first_message_p99 is not None:
        limit = config.first_message_p99
        yield _slow("first_message_p99", candidate.first_message, {}, limit.max, 0.01)
    if config.aborted_streams is not None:
        most = config.aborted_streams.max
        text = f"{candidate.aborted} of {total} RPCs ended without a status ({most:g} % may)"
        yield _check("aborted_streams", candidate.aborted, total, most / 100, text)
    if config.ratings is not None:
        yield _rated(config.ratings, candidate)


def _relative(
    config: AnalysisConfig, candidate: Counts, stable: Counts, failures: frozenset[StatusCode]
) -> Iterator[Check]:
    bounds = config.compare_to_stable
    if bounds is None:
        return
    total, reference = candidate.total, stable.total
    if reference < config.min_rpcs:
        text = f"stable has answered {reference} RPCs, and {config.min_rpcs} are needed to compare"
        yield Check("compare_to_stable", Verdict.INCONCLUSIVE, 0, reference, 0.0, text)
        return
    if bounds.success_rate_drop is not None:
        allowed = min(1.0, stable.count(failures) / reference + bounds.success_rate_drop / 100)
        yield _rate(
            "success_rate_drop",
            candidate.count(failures),
            total,
            allowed,
            f"stable has {_percent(reference - stable.count(failures), reference)}, "
            f"{bounds.success_rate_drop:g} points less are allowed; ",
        )
    if bounds.refused_rise is not None:
        refused, at_stable = _refused(candidate, failures), _refused(stable, failures)
        allowed = min(1.0, at_stable / reference + bounds.refused_rise / 100)
        text = (
            f"{_percent(refused, total)} were refused as the caller's fault, {_percent(at_stable, reference)} by stable"
        )
        yield _check("refused_rise", refused, total, allowed, text)
    for name, ratio, share in (
        ("latency_p50_ratio", bounds.latency_p50_ratio, 0.5),
        ("latency_p99_ratio", bounds.latency_p99_ratio, 0.01),
    ):
        if ratio is not None and (known := quantile(stable.latency, 1 - share)) is not None:
            limit = max(known * ratio, known + bounds.latency_slack)
            yield _slow(name, candidate.latency, candidate.waiting, limit, share, reference=known)
    ratio = bounds.first_message_p99_ratio
    if ratio is not None and (known := quantile(stable.first_message, 0.99)) is not None:
        limit = max(known * ratio, known + bounds.latency_slack)
        yield _slow("first_message_p99_ratio", candidate.first_message, {}, limit, 0.01, reference=known)


def _rate(name: str, failed: int, total: int, allowed: float, rule: str) -> Check:
    return _check(name, failed, total, allowed, f"{_percent(total - failed, total)} of {total} RPCs went well; {rule}")


def _rated(bound: RatingsConfig, candidate: Counts) -> Check:
    total = sum(candidate.ratings.values())
    poor = sum(number for score, number in candidate.ratings.items() if score <= bound.poor)
    allowed = bound.max_poor / 100
    if total < bound.min_ratings:
        # Nobody has to rate: what callers do not say must not hold a rollout up.
        text = f"ratings: {total}, and {bound.min_ratings} are needed to judge by them"
        return Check("ratings", Verdict.PASS, poor, total, allowed, text)
    text = f"{poor} of {total} ratings are {bound.poor} or less ({bound.max_poor:g} % may)"
    return _check("ratings", poor, total, allowed, text)


def _slow(
    name: str,
    spread: Mapping[int, int],
    waiting: Mapping[int, int],
    limit: float,
    share: float,
    *,
    reference: float | None = None,
) -> Check:
    """At most `share` of the RPCs may take longer than `limit`; one that has waited longer already counts."""
    overdue = above(waiting, limit)
    slow, total = above(spread, limit) + overdue, sum(spread.values()) + overdue
    known = "" if reference is None else f" (stable's is {_ms(reference)})"
    quantity = quantile(spread, 1 - share)
    found = "none has ended" if quantity is None else _ms(quantity)
    text = f"p{100 - share * 100:g} is {found}, {_ms(limit)} are allowed{known}; {slow} of {total} RPCs took longer"
    if not total:
        # Nothing of the kind: unary RPCs where streams are judged, or the other way round.
        return Check(name, Verdict.PASS, 0, 0, share, f"{name}: no such RPC")
    return _check(name, slow, total, share, text)


def _check(name: str, bad: int, total: int, allowed: float, text: str) -> Check:
    if total == 0:
        return Check(name, Verdict.INCONCLUSIVE, bad, total, allowed, f"{name}: no RPC has ended")
    if bad <= allowed * total + 1e-9:
        verdict = Verdict.PASS
    else:
        verdict = Verdict.FAIL if by_chance(bad, total, allowed) < _CHANCE else Verdict.INCONCLUSIVE
    return Check(name, verdict, bad, total, allowed, f"{name}: {text}")


def by_chance(bad: int, total: int, share: float) -> float:
    """How probable it is that `bad` or more of `total` are bad where `share` (0 to 1) of all are."""
    if bad <= 0 or share >= 1:
        return 1.0
    if share <= 0 or bad > total:
        return 0.0
    if bad <= share * total:
        # Below the mean the other tail is the short one.
        return 1.0 - _tail(total - bad + 1, total, 1 - share)
    return _tail(bad, total, share)


def _tail(least: int, total: int, share: float) -> float:
    """P(X >= least), X binomial, `least` above the mean: terms fall from the first on."""
    if least > total:
        return 0.0
    term = math.exp(
        math.lgamma(total + 1)
        - math.lgamma(least + 1)
        - math.lgamma(total - least + 1)
        + least * math.log(share)
        + (total - least) * math.log1p(-share)
    )
    found = 0.0
    odds = share / (1 - share)
    for k in range(least, total + 1):
        found += term
        if term < found * 1e-12:
            break
        term *= (total - k) / (k + 1) * odds
    return min(1.0, found)


def summary(counts: Counts, failures: frozenset[StatusCode]) -> dict[str, Any]:
    """The figures of one version, as logs, webhooks and pages show them; latencies in seconds."""
    total, failed = counts.total, counts.count(failures)
    return {
        "rpcs": total,
        "success_rate": round(100 * (total - failed) / total, 3) if total else None,
        "refused": _refused(counts, failures),
        "aborted": counts.aborted,
        "waiting": sum(counts.waiting.values()),
        "latency_p50": _rounded(quantile(counts.latency, 0.5)),
        "latency_p99": _rounded(quantile(counts.latency, 0.99)),
        "first_message_p99": _rounded(quantile(counts.first_message, 0.99)),
        "ratings": {str(score): number for score, number in sorted(counts.ratings.items())},
        "codes": {code.name: number for code, number in sorted(counts.codes.items()) if number},
    }


def _refused(counts: Counts, failures: frozenset[StatusCode]) -> int:
    """RPCs that ended with the caller's fault: neither OK nor a failure."""
    return counts.total - counts.count(failures) - counts.codes.get(StatusCode.OK, 0)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def _percent(part: int, total: int) -> str:
    return f"{100 * part / total:.2f} %" if total else "none"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
