from __future__ import annotations

import random
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.request_id import is_valid_request_id, new_request_id


@given(st.floats(0, 1e10), st.integers())
def test_ids_are_uuids_of_version_7(wall: float, seed: int) -> None:
    made = uuid.UUID(new_request_id(wall, random.Random(seed)).decode())
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert made.int >> 80 == int(wall * 1000) & 0xFFFF_FFFF_FFFF
    assert is_valid_request_id(str(made).encode())


def test_ids_sort_by_time() -> None:
    chance = random.Random(1)
    ids = [new_request_id(1_700_000_000 + i / 1000, chance) for i in range(100)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 100


@pytest.mark.parametrize("value", [b"", b"a" * 129, b"a b", b"a\nb", b"<script>", "ä".encode(), b'"'])
def test_unusable_ones(value: bytes) -> None:
    assert not is_valid_request_id(value)
