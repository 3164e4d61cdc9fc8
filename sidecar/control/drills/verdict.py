"""Whether a drill was passed: what callers saw before, during and after it, held against what each drill promises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.control.drills.figures import INJECTED
from sidecar.proxy.rejection import Kind, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.control.drills.figures import Figures

_NOISE = 1.0
"""Percentage points that a share may differ for no reason."""
_EXPECTED = {
    "agent-crash": Kind.EXECUTION,
    "store-loss": Kind.STORE,
    "cert-expiry": Kind.IDENTITY,
    "partition": Kind.EXECUTION,
    "latency": Kind.DRILL,
    "errors": Kind.DRILL,
}
"""Of which kind our own reasons may be that a drill gives callers; all others count against it."""


@dataclass(frozen=True, slots=True)
class Demands:
    """What must hold. `is_callers`: the figures are those of the callers' sidecar, behind which retries stand."""

    drill: str
    is_callers: bool = False
    min_success: float | None = None
    """Percent; None = 99 where a drill leaves RPCs alone or is survived by retries, else nothing is asked."""
    max_latency: float | None = None
    """p99 while it lasts, in seconds; None = twice the former one, and 1 s, and what the drill itself adds."""
    added_latency: float = 0.0
    recover_within: float = 30.0
    min_rpcs: int = 20


@dataclass(frozen=True, slots=True)
class Seen:
    """The three whiles of a drill. `hits`: how often the disturbance was felt, if the drill counts it itself."""

    before: Figures
    during: Figures
    after: Figures
    injected: Figures
    """What the disturbed sidecar itself counted while it lasted."""
    hits: int | None
    ended: str
    recovered_after: float | None
    """Seconds from its end until callers saw what they had seen before; None = they did not in time."""


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    holds: bool
    said: str


def judge(demands: Demands, seen: Seen) -> list[Check]:
    """Every check, in order; the drill is passed if all hold."""
    return [
        _traffic(demands, seen),
        _was_felt(demands, seen),
        Check("it ran its time", seen.ended == "its time is over", seen.ended or "it still runs"),
        *_success(demands, seen),
        *_reasons(demands, seen),
        *_latency(demands, seen),
        Check("no defect", seen.injected.defects == 0, f"{seen.injected.defects:g} exceptions that should not be"),
        Check(
            "recovered",
            seen.recovered_after is not None,
            f"not within {demands.recover_within:g} s"
            if seen.recovered_after is None
            else f"{seen.recovered_after:.1f} s after its end (at most {demands.recover_within:g} s)",
        ),
    ]


def _traffic(demands: Demands, seen: Seen) -> Check:
    counts = (seen.before.total, seen.during.total, seen.after.total)
    enough = min(counts[0], counts[2]) > 0 and counts[1] >= demands.min_rpcs
    said = f"{counts[0]} RPCs before, {counts[1]} during (at least {demands.min_rpcs}), {counts[2]} after"
    return Check("enough to judge", enough, said)


def _was_felt(demands: Demands, seen: Seen) -> Check:
    if demands.drill in {"latency", "errors"}:
        return Check("faults were injected", seen.injected.faults > 0, f"{seen.injected.faults:g} times")
    if demands.drill == "agent-crash":
        return Check("the agent was started again", seen.injected.agent_starts > 0, f"{seen.injected.agent_starts:g}×")
    if demands.drill == "cert-expiry":
        refused = seen.injected.of_reason("IDENTITY_UNUSABLE")
        return Check("expired certificates were refused", refused > 0, f"{refused} RPCs")
    return Check("it was felt", bool(seen.hits), f"{seen.hits or 0} times refused")


def _success(demands: Demands, seen: Seen) -> Iterator[Check]:
    if demands.drill == "cert-expiry" and not demands.is_callers:
        served = sum(count for (code, _, _), count in seen.during.rpcs.items() if code == "OK")
        # What had passed before it began may still end well.
        most = max(5, seen.during.total // 50)
        yield Check("nobody with an expired certificate is served", served <= most, f"{served} RPCs (at most {most})")
        return
    least = demands.min_success
    if least is None and demands.drill in {"latency", "errors"}:
        least = 99.0
    if least is None:
        return
    without = frozenset() if demands.is_callers else frozenset({INJECTED})
    share = seen.during.success(without=without)
    of = "all" if demands.is_callers or demands.drill != "errors" else "those that were let be"
    said = "none to judge by" if share is None else f"{share:.2f} % of {of} (at least {least:g} %)"
    yield Check("callers are served", share is not None and share >= least, said)


def _reasons(demands: Demands, seen: Seen) -> Iterator[Check]:
    total, before = seen.during.total, seen.before
    if not total:
        return
    known = {reason for _, _, reason in before.rpcs}
    expected = known | {each.name for each in Reason if each.kind is _EXPECTED[demands.drill]}
    if not demands.is_callers:
        strange = sorted(
            {
                f"{code} {reason}"
                for code, origin, reason in seen.during.rpcs
                if code != "OK" and origin == "sidecar" and reason not in expected
            }
        )
        yield Check("refusals say why", not strange, ", ".join(strange) or "only what this drill explains")
    if demands.drill == "errors" and demands.is_callers:
        return
    former = 100.0 * before.by_agent() / before.total if before.total else 0.0
    share = 100.0 * seen.during.by_agent() / total
    yield Check(
        "the agent fails no more than before",
        # Behind another sidecar its refusals look like an agent's word; there success says it all.
        demands.is_callers or share <= former + _NOISE,
        f"{share:.2f} % of the RPCs, {former:.2f} % before",
    )


def _latency(demands: Demands, seen: Seen) -> Iterator[Check]:
    former, p99 = seen.before.quantile(0.99), seen.during.quantile(0.99)
    if p99 is None:
        return
    most = demands.max_latency
    if most is None:
        most = 2 * (former or 0.0) + 1.0 + 2 * demands.added_latency
    yield Check("nobody waits long", p99 <= most, f"p99 ≤ {p99:g} s (at most {most:g} s)")


def is_well(before: Figures, now: Figures) -> bool:
    """Do callers see what they saw before the drill?"""
    then, share = before.success(), now.success()
    return (
        share is not None and now.total >= min(5, before.total) and share >= (100.0 if then is None else then) - _NOISE
    )
