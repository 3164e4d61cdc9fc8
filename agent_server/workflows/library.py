"""The workflows a server knows: those that are shipped, and those in the folder of the setting `workflows`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from grpc import StatusCode

from agent_server.core.failure import Failure, invalid
from agent_server.workflows.definition import Workflow, parse

log = logging.getLogger(__name__)

SHIPPED = Path(__file__).with_name("templates")


class LibraryError(Exception):
    """A file that holds no workflow; the text names it and says why."""


class Library:
    """The workflows of a folder, read again when a file in it has changed. A file that became unusable changes nothing."""

    def __init__(self) -> None:
        self._seen: tuple[Any, ...] | None = None
        self._workflows: dict[str, Workflow] = {}

    def workflows(self, folder: Path | None) -> dict[str, Workflow]:
        """By name. Raises Failure when they cannot be read and never could."""
        try:
            seen = (folder, *((path, path.stat().st_mtime_ns, path.stat().st_size) for path in _files(folder)))
            if seen != self._seen:
                self._workflows = load_library(folder)
                self._seen = seen
        except (LibraryError, OSError) as error:
            if not self._workflows:
                raise Failure(StatusCode.FAILED_PRECONDITION, "WORKFLOWS_UNUSABLE", str(error)) from error
            log.error("workflows not reloaded: %s", error)
        return self._workflows


def load_library(folder: Path | None) -> dict[str, Workflow]:
    """Workflows by name; those of `folder` come before shipped ones of the same name. Raises LibraryError."""
    found: dict[str, Workflow] = {}
    for path in _files(folder):
        try:
            workflow = parse(path.read_text(encoding="utf-8"), path.name)
        except (OSError, UnicodeDecodeError) as error:
            msg = f"workflows: {path}: {error}"
            raise LibraryError(msg) from error
        except Failure as failure:
            msg = f"workflows: {path.parent}: {failure.message}"
            raise LibraryError(msg) from failure
        found[workflow.name] = workflow
    return found


def _files(folder: Path | None) -> list[Path]:
    if folder is not None and not folder.is_dir():
        msg = f"workflows: {folder}: no such directory"
        raise LibraryError(msg)
    places = [SHIPPED] if folder is None else [SHIPPED, folder]
    return [path for place in places for path in sorted((*place.glob("*.yaml"), *place.glob("*.yml")))]


def named(library: dict[str, Workflow], name: str) -> Workflow:
    """The workflow of that name. Raises Failure INVALID_ARGUMENT."""
    if name not in library:
        known = ", ".join(sorted(library))
        raise invalid(
            "parameters.workflow", f"no workflow is named {name!r}; there is: {known}", reason="WORKFLOW_UNKNOWN"
        )
    return library[name]
