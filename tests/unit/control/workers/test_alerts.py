"""The numbers of all workers, as the parent's alerts see them."""

from __future__ import annotations

from sidecar.alerts.config import BUILT_IN
from sidecar.alerts.measures import Measures
from sidecar.control.workers import merge
from sidecar.control.workers.alerts import AllWorkers
from sidecar.telemetry import names
from sidecar.telemetry.exposition import Exposition
from sidecar.telemetry.metrics import Metrics
from tests.support.alerts import Traffic

ERROR_RATE, SLOW = BUILT_IN[0], BUILT_IN[1]


class Worker:
    """One worker's metrics, shown as it shows them."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.traffic = Traffic(self.metrics)

    def page(self) -> str:
        exposition = Exposition(self.metrics)
        return exposition.page(exposition.snapshot(), merge.ACCEPT)[1].decode()


def taken(numbers: AllWorkers, *workers: Worker) -> AllWorkers:
    numbers.take(merge.merge([each.page() for each in workers]))
    return numbers


def test_counters_and_gauges_by_the_labels_of_their_metric() -> None:
    one, two = Worker(), Worker()
    for worker, dropped, state in ((one, 2, 0.0), (two, 3, 2.0)):
        worker.metrics.counter(names.AUDIT_DROPPED, sink="file:a").inc(dropped)
        worker.metrics.gauge(names.BREAKER_STATE, cluster="data", endpoint="e:1").set(state)
        worker.metrics.gauge(names.STORE_UP).set(state)
    numbers = taken(AllWorkers(Metrics()), one, two)
    assert numbers.samples(names.AUDIT_DROPPED) == {("file:a",): 5.0}
    assert numbers.samples(names.BREAKER_STATE) == {("data", "e:1"): 2.0}
    assert numbers.samples(names.STORE_UP) == {(): 0.0}, "lost to one of them is lost"


def test_histograms_are_those_that_were_counted() -> None:
    one, two = Worker(), Worker()
    one.traffic.end(3, seconds=0.002)
    two.traffic.end(2, seconds=60.0)
    (found,) = taken(AllWorkers(Metrics()), one, two).histograms(names.RPC_SECONDS).values()
    expected = [a + b for a, b in zip(one.traffic.histogram.counts, two.traffic.histogram.counts, strict=True)]
    assert found.counts == expected


def test_the_parent_has_numbers_of_its_own() -> None:
    own = Metrics()
    own.counter(names.WORKER_RESTARTS, worker="1").inc()
    assert taken(AllWorkers(own), Worker()).samples(names.WORKER_RESTARTS) == {("1",): 1.0}


def test_it_is_judged_as_one_sidecar_is() -> None:
    """Half of the RPCs of one of two workers fail: a quarter in all."""
    one, two = Worker(), Worker()
    numbers = AllWorkers(Metrics())
    measures = Measures(taken(numbers, one, two))
    measures.adopt([ERROR_RATE, SLOW])
    measures.look(0.0, 0.0)
    one.traffic.end(10)
    one.traffic.end(10, "Unavailable", seconds=6.0)
    two.traffic.end(20)
    taken(numbers, one, two)
    measures.look(5.0, 5.0)
    subject = (("listener", "inbound"),)
    assert measures.values(ERROR_RATE) == {subject: 0.25}
    assert 5.0 < measures.values(SLOW)[subject] < 7.5
    # One has died, and its place is taken by one that begins at nothing.
    taken(numbers, Worker(), two)
    measures.look(10.0, 10.0)
    fresh = Worker()
    fresh.traffic.end(5)
    taken(numbers, fresh, two)
    measures.look(15.0, 15.0)
    assert 0.0 <= measures.values(ERROR_RATE).get(subject, 0.0) <= 0.25
