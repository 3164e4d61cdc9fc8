"""Settings that change while the server runs: the file is read again on SIGHUP, and when it has changed."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from agent_server.configuration.settings import Settings, SettingsError
from agent_server.core.masking import keep_secret

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

log = logging.getLogger(__name__)

LIVE = frozenset({"model", "max_retries", "retry_delay", "retry_factor", "timeout", "workflows"})
"""What holds from the next use on. The rest is what the server was started with."""
_LOOK_SECONDS = 1.0


class LiveSettings:
    """`current` gives the settings that hold now."""

    def __init__(self, settings: Settings, load: Callable[[], Settings] | None, files: tuple[Path, ...] = ()) -> None:
        self._settings = settings
        self._load = load
        self._files = files
        self._seen = self._stamps()

    def current(self) -> Settings:
        """The settings that hold now."""
        return self._settings

    def reload(self) -> None:
        """Read again. Settings that cannot be used change nothing, and are said in the log."""
        if self._load is None:
            return
        try:
            loaded = self._load()
        except SettingsError as error:
            log.error("settings not reloaded: %s", error)
            return
        changed = {name for name in Settings.model_fields if getattr(loaded, name) != getattr(self._settings, name)}
        if held := sorted(changed - LIVE):
            log.warning("these settings need a restart: %s", ", ".join(held))
        if taken := changed & LIVE:
            keep_secret(loaded.secrets)
            self._settings = self._settings.model_copy(update={name: getattr(loaded, name) for name in taken})
            log.info("settings reloaded: %s", ", ".join(sorted(taken)))

    def look(self) -> None:
        """Read again if a file has changed since it was read last."""
        stamps = self._stamps()
        if stamps != self._seen:
            self._seen = stamps
            self.reload()

    async def keep_looking(self) -> None:
        """Look once a second, for ever."""
        while self._files:
            await asyncio.sleep(_LOOK_SECONDS)
            self.look()

    def _stamps(self) -> tuple[tuple[int, int] | None, ...]:
        found: list[tuple[int, int] | None] = []
        for file in self._files:
            try:
                status = file.stat()
                found.append((status.st_mtime_ns, status.st_size))
            except OSError:
                found.append(None)
        return tuple(found)
