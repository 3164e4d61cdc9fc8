"""Workflows from files, read again when they change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent_server.core.failure import Failure
from agent_server.tools.declare import BUILT_IN, load_tools
from agent_server.workflows.library import Library, LibraryError, load_library, named

ONE = "name: one\nsteps: [{id: a, tool: csv.read, with: {text: x}}]\n"


def write(folder: Path, text: str, name: str = "one.yaml", at: int = 1) -> None:
    (folder / name).write_text(text)
    os.utime(folder / name, (at, at))


def test_what_is_shipped_can_be_run() -> None:
    tools = load_tools(BUILT_IN)
    found = load_library(None)
    assert set(found) == {"call_apis", "collect_products", "reconcile"}
    for workflow in found.values():
        workflow.check_tools(tools, workflow.name)


def test_a_folder_is_read_again_when_a_file_has_changed(tmp_path: Path) -> None:
    library = Library()
    write(tmp_path, ONE)
    first = library.workflows(tmp_path)
    assert library.workflows(tmp_path) is first
    write(tmp_path, ONE.replace("one", "two"), at=2)
    assert "two" in library.workflows(tmp_path)
    write(tmp_path, ONE, "three.yml")
    assert {"one", "two"} <= set(library.workflows(tmp_path))


def test_a_file_that_became_unusable_leaves_what_was(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    library = Library()
    write(tmp_path, ONE)
    library.workflows(tmp_path)
    write(tmp_path, "name: [", at=2)
    assert "one" in library.workflows(tmp_path)
    assert "not reloaded" in caplog.text


def test_what_never_could_be_read_is_a_clear_error(tmp_path: Path) -> None:
    write(tmp_path, "name: one\nsteps: [{id: a}]\n")
    with pytest.raises(Failure) as caught:
        Library().workflows(tmp_path)
    assert (caught.value.reason, "one.yaml.steps.0.tool" in caught.value.message) == ("WORKFLOWS_UNUSABLE", True)
    with pytest.raises(LibraryError, match="no such directory"):
        load_library(tmp_path / "none")
    with pytest.raises(Failure, match="there is: call_apis"):
        named(load_library(None), "none")
