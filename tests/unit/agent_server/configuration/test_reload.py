"""Settings that change while the server runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent_server.configuration.reload import LiveSettings
from agent_server.configuration.settings import load_settings, settings_files


def write(path: Path, text: str, at: int) -> None:
    path.write_text(text)
    os.utime(path, (at, at))


def live_of(file: Path) -> LiveSettings:
    settings = load_settings(file, {})
    return LiveSettings(settings, lambda: load_settings(file, {}), settings_files(file, settings.environment))


def test_what_may_change_changes_and_the_rest_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "agent.yaml"
    write(file, "max_retries: 2\n", 1)
    live = live_of(file)
    live.look()
    assert live.current().max_retries == 2
    write(file, "max_retries: 5\nversion: v9\nmodel: {base_url: 'http://m/v1', name: small}\n", 2)
    live.look()
    now = live.current()
    assert (now.max_retries, now.version, now.model is not None) == (5, "v1", True)
    assert "need a restart: version" in caplog.text


def test_settings_that_cannot_be_used_change_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "agent.yaml"
    write(file, "max_retries: 2\n", 1)
    live = live_of(file)
    write(file, "max_retries: none\n", 2)
    live.look()
    assert live.current().max_retries == 2
    assert "not reloaded" in caplog.text


def test_an_overlay_that_comes_and_goes(tmp_path: Path) -> None:
    file, overlay = tmp_path / "agent.yaml", tmp_path / "agent.production.yaml"
    write(file, "max_retries: 2\n", 1)
    live = live_of(file)
    write(overlay, "max_retries: 7\n", 1)
    live.look()
    assert live.current().max_retries == 7
    overlay.unlink()
    live.look()
    assert live.current().max_retries == 2
