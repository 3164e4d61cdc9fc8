"""What steps of a workflow gave, kept so that a run that was cut off goes on where it stood."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from grpc import StatusCode

from agent_server.core.failure import Failure

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping

    from agent_server.core.store import Store
    from agent_server.workflows.definition import Workflow

PLAN = "!plan"
"""Stands among the steps of a run; no step can be named so."""
KEPT_SECONDS = 7 * 24 * 3600.0


class Checkpoints:
    """Of all runs. A run belongs to the caller that began it."""

    def __init__(self, store: Store, wall: Callable[[], float]) -> None:
        self._store = store
        self._wall = wall

    async def begin(self, identity: str, run_id: str, workflow: Workflow, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What the run's steps gave so far. Raises Failure INVALID_ARGUMENT when the run was begun as something else."""
        said = json.dumps([workflow.model_dump(mode="json"), inputs], sort_keys=True)
        fingerprint = hashlib.sha256(said.encode()).hexdigest()
        now = self._wall()

        def work(db: sqlite3.Connection) -> list[tuple[str, bytes]]:
            old = "SELECT identity, run_id FROM runs WHERE at < ?"
            for key in db.execute(old, (now - KEPT_SECONDS,)).fetchall():
                db.execute("DELETE FROM steps WHERE identity = ? AND run_id = ?", key)
                db.execute("DELETE FROM runs WHERE identity = ? AND run_id = ?", key)
            select = "SELECT fingerprint FROM runs WHERE identity = ? AND run_id = ?"
            row = db.execute(select, (identity, run_id)).fetchone()
            if row is None:
                db.execute("INSERT INTO runs VALUES (?, ?, ?, ?)", (identity, run_id, fingerprint, now))
                return []
            if row[0] != fingerprint:
                text = "this run was begun with another workflow or with other inputs"
                raise Failure(StatusCode.INVALID_ARGUMENT, "RUN_DIFFERS", text, metadata={"run_id": run_id})
            select = "SELECT step, sealed FROM steps WHERE identity = ? AND run_id = ?"
            return db.execute(select, (identity, run_id)).fetchall()

        return {step: self._store.vault.open(sealed) for step, sealed in await self._store.write(work)}

    async def planned(self, identity: str, run_id: str) -> Any:
        """The plan that an earlier attempt of the run was made by, or None: a model might plan otherwise the next time."""
        query = "SELECT sealed FROM steps WHERE identity = ? AND run_id = ? AND step = ?"
        rows = await self._store.read(query, identity, run_id, PLAN)
        return self._store.vault.open(rows[0][0]) if rows else None  # type: ignore[arg-type]

    async def keep(self, identity: str, run_id: str, step: str, given: Any) -> None:
        """A step has ended."""
        values = (identity, run_id, step, self._store.vault.seal(given))
        await self._store.write(lambda db: db.execute("INSERT OR REPLACE INTO steps VALUES (?, ?, ?, ?)", values))
