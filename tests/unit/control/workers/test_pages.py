"""Workers come and go; what was counted stays counted."""

from __future__ import annotations

from sidecar.control.workers.pages import Pages


def page(count: int, lag: float = 0.1) -> str:
    return f"""
# TYPE sidecar_rpcs_total counter
sidecar_rpcs_total{{route="a"}} {count}
# TYPE sidecar_loop_lag_seconds gauge
sidecar_loop_lag_seconds {lag}
# TYPE sidecar_rpc_duration_seconds histogram
sidecar_rpc_duration_seconds_bucket{{le="+Inf"}} {count}
sidecar_rpc_duration_seconds_count {count}
sidecar_rpc_duration_seconds_sum {count}
"""


def read(pages: Pages, **found: str | None) -> tuple[float, float, float]:
    """RPCs, lag, and the histogram's count."""
    values = {sample.name: sample.value for family in pages.together(dict(found)) for sample in family.samples}
    return (
        values["sidecar_rpcs_total"],
        values.get("sidecar_loop_lag_seconds", 0.0),
        values["sidecar_rpc_duration_seconds_count"],
    )


def test_what_is_gone_stays_counted_and_is_not_measured() -> None:
    pages = Pages()
    assert read(pages, a=page(1000, 0.9), b=page(10)) == (1010.0, 0.9, 1010.0)
    assert read(pages, b=page(11), c=page(1)) == (1012.0, 0.1, 1012.0)
    assert read(pages, b=page(12), c=page(2)) == (1014.0, 0.1, 1014.0), "once"
    assert read(pages, d=page(0)) == (1014.0, 0.1, 1014.0)


def test_one_that_does_not_answer_is_taken_as_it_was() -> None:
    pages = Pages()
    read(pages, a=page(5), b=page(7))
    assert read(pages, a=None, b=page(8)) == (13.0, 0.1, 13.0)
    assert read(pages, a=page(6), b=page(8)) == (14.0, 0.1, 14.0)


def test_one_that_never_answered_is_nothing() -> None:
    pages = Pages()
    assert read(pages, a=None, b=page(8)) == (8.0, 0.1, 8.0)
    assert read(pages, b=page(8)) == (8.0, 0.1, 8.0)
