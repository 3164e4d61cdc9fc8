"""The workflows a server knows: those that are shipped, and those in the folder of the setting `workflows`."""

from __future__ import annotations

from pathlib import Path

from agent_server.core.failure import Failure, invalid
from agent_server.workflows.definition import Workflow, parse

SHIPPED = Path(__file__).with_name("templates")


class LibraryError(Exception):
    """A file that holds no workflow; the text names it and says why."""


def load_library(folder: Path | None) -> dict[str, Workflow]:
    """Workflows by name; those of `folder` come before shipped ones of the same name. Raises LibraryError."""
    found: dict[str, Workflow] = {}
    for place in (SHIPPED, folder):
        if place is None:
            continue
        if not place.is_dir():
            msg = f"workflows: {place}: no such directory"
            raise LibraryError(msg)
        for path in sorted((*place.glob("*.yaml"), *place.glob("*.yml"))):
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


def named(library: dict[str, Workflow], name: str) -> Workflow:
    """The workflow of that name. Raises Failure INVALID_ARGUMENT."""
    if name not in library:
        known = ", ".join(sorted(library))
        raise invalid(
            "parameters.workflow", f"no workflow is named {name!r}; there is: {known}", reason="WORKFLOW_UNKNOWN"
        )
    return library[name]
