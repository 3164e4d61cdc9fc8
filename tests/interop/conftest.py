"""One mesh for the whole suite, and one driver per language."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.driver import Driver
from tests.interop.mesh import Mesh
from tests.interop.toolchains import LANGUAGES, build


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with Mesh(tmp_path_factory.mktemp("mesh")) as made:
        yield made


@pytest.fixture(scope="module", params=LANGUAGES)
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    with Driver(build(request.param).driver) as made:
        yield made
