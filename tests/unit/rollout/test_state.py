from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.rollout.config import RolloutConfig, VersionConfig
from sidecar.rollout.state import Phase, State, revision_of

_MOVES = st.lists(
    st.tuples(st.sampled_from(list(Phase)), st.floats(0, 100), st.text(max_size=20), st.floats(0, 1e10)), max_size=40
)


@given(_MOVES)
def test_it_comes_back_from_the_store_as_it_went_in(moves: list[tuple[Phase, float, str, float]]) -> None:
    state = State("r1", gates=(50.0, "start"), reference={"codes": {"OK": 3}})
    for phase, percent, reason, at in moves:
        state = state.moved(phase, percent, reason, "test", at, {"rpcs": 1})
    assert State.decoded(state.encoded()) == state
    assert len(state.history) <= 20
    assert state.number == len(moves)


@pytest.mark.parametrize(
    "record", [b"", b"[]", b"{", b"{}", b'{"phase": "idle"}', b'{"revision": "x", "later": 1}', b"\xff"]
)
def test_what_is_no_state_is_told_from_one(record: bytes) -> None:
    with pytest.raises(ValueError):
        State.decoded(record)


def revision(stable: dict[str, object], canary: dict[str, object], **more: object) -> str:
    config = RolloutConfig.model_validate({"stable": "a", "candidate": "b", **more}, strict=False)
    versions = {name: VersionConfig.model_validate(each, strict=False) for name, each in (("a", stable), ("b", canary))}
    return revision_of(config, versions)


def test_other_versions_are_another_rollout_other_steps_are_not() -> None:
    one, two = {"endpoints": ["h:1"]}, {"endpoints": ["h:2"]}
    base = revision(one, two)
    assert revision(one, two, steps=(5, 100)) == base
    assert revision(one, {"endpoints": ["h:3"]}) != base
    assert revision(one, {"agent": {"command": ["x"]}}) != revision(one, {"agent": {"command": ["y"]}})
