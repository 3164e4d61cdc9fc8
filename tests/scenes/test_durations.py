"""How long an RPC took is measured to its end, also when its caller says nothing more after asking."""

from __future__ import annotations

from sidecar.policies.metrics import Metrics, NoConfig
from sidecar.telemetry import names
from tests.scenes.script import finish, silent
from tests.support.scene import Scene


def test_the_time_of_an_answer_counts() -> None:
    scene = Scene(on_agent=silent, policies=lambda runtime: [Metrics(NoConfig(), runtime)])
    scene.call(path="/test.Service/Slow")
    scene.advance(0.3)
    finish(scene.agent, b"")
    scene.run()
    (histogram,) = scene.metrics.histograms(names.RPC_SECONDS).values()
    assert round(histogram.sum, 9) == 0.3
