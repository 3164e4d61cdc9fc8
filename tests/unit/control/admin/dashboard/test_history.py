"""Samples of the counters: rates, shares and quantiles, with a clock that is moved by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.control.admin.dashboard.history import INTERVAL, KEPT, History, Totals, difference, quantile
from sidecar.control.process import State
from sidecar.grpc_wire.status import StatusCode
from sidecar.policies.metrics import Metrics, NoConfig
from sidecar.proxy.rejection import Reason
from tests.scenes.script import echo, finish
from tests.support.scene import Scene
from tests.support.wire import ScriptedStream


def watched(**more: Any) -> tuple[Scene, History, Any]:
    scene = Scene(policies=lambda runtime: [Metrics(NoConfig(), runtime)], **more)
    process = SimpleNamespace(runtime=scene.runtime, generation=None, state=State.READY, active_calls=0, listeners={})
    history = History(process)  # type: ignore[arg-type]  # what it reads of a process
    history.start()
    return scene, history, process


def test_rates_of_a_route() -> None:
    scene, history, _ = watched(on_agent=echo)
    scene.call()
    assert history.route("inbound", "all").rate == 0, "nothing was sampled yet"
    scene.advance(INTERVAL)
    for _ in range(6):
        scene.call()
    scene.advance(INTERVAL)
    assert history.samples == 2
    assert [point.rate for point in history.points] == pytest.approx([1 / 3, 2])
    assert history.route("inbound", "all").rate == pytest.approx(7 / (2 * INTERVAL))
    assert history.route("inbound", "other").success is None
    assert history.whole().success == 1
    assert list(history.sparks["inbound", "all"]) == pytest.approx([1 / 3, 2])


def test_now_is_the_last_five_samples() -> None:
    scene, history, _ = watched(on_agent=echo)
    scene.call()
    for _ in range(5):
        scene.advance(INTERVAL)
    assert history.whole().rate == pytest.approx(1 / (5 * INTERVAL))
    scene.advance(INTERVAL)
    assert history.whole().rate == 0
    assert history.seconds == pytest.approx(5 * INTERVAL)


@pytest.mark.parametrize(
    ("code", "failed"),
    [(StatusCode.OK, 0), (StatusCode.NOT_FOUND, 0), (StatusCode.UNAVAILABLE, 1), (StatusCode.INTERNAL, 1)],
)
def test_what_the_agent_answers(code: StatusCode, failed: int) -> None:
    def answer(stream: ScriptedStream, event: str) -> None:
        if event == "end":
            finish(stream, trailers=(("grpc-status", str(int(code))),))

    scene, history, _ = watched(on_agent=answer)
    scene.call()
    scene.advance(INTERVAL)
    found = history.whole()
    assert (found.failed * INTERVAL, found.refused) == (pytest.approx(failed), 0)
    assert found.success == 1 - failed


@pytest.mark.parametrize(
    ("reason", "failed", "refused"),
    [
        (Reason.RATE_LIMITED, 0, 1),
        (Reason.DENIED_BY_RULE, 0, 1),
        (Reason.NO_ROUTE, 0, 1),
        (Reason.OVERLOADED, 1, 0),
        (Reason.UPSTREAM_LOST, 1, 0),
    ],
)
def test_what_we_answer(reason: Reason, failed: int, refused: int) -> None:
    scene, history, _ = watched(on_agent=echo)
    scene.cluster.refusal = reason.reject("no")
    scene.call()
    scene.advance(INTERVAL)
    found = history.whole()
    assert (found.failed * INTERVAL, found.refused * INTERVAL) == pytest.approx((failed, refused))


def test_it_ends_with_the_process_and_keeps_fifteen_minutes() -> None:
    scene, history, process = watched(on_agent=echo)
    for _ in range(KEPT + 10):
        scene.advance(INTERVAL)
    assert len(history.points) == KEPT
    assert history.samples == KEPT + 10
    process.state = State.STOPPED
    scene.advance(INTERVAL)
    scene.advance(INTERVAL)
    assert history.samples == KEPT + 10


def test_counts_that_fall_count_as_none() -> None:
    before, after = [Totals(10, 4, 3, [5, 5])], [Totals(2, 1, 1, [2, 0])]
    found = difference(before, after, 1)
    assert (found.rate, found.failed, found.refused, found.success, found.p50) == (0, 0, 0, None, None)


@pytest.mark.parametrize(
    ("counts", "share", "value"),
    [
        ([0, 0, 0], 0.5, None),
        ([10, 0, 0], 0.5, 0.5),
        ([10, 10, 0], 0.75, 1.5),
        ([0, 4, 0], 1.0, 2.0),
        ([0, 0, 4], 0.99, 2.0),
    ],
)
def test_quantiles_are_those_of_prometheus(counts: list[int], share: float, value: float | None) -> None:
    assert quantile((1.0, 2.0), counts, share) == value
