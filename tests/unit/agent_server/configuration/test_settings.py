"""Settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent_server.configuration.settings import Settings, SettingsError, load_settings


def test_defaults_are_usable() -> None:
    settings = load_settings(None, {})
    assert settings == Settings()
    assert settings.bind == "127.0.0.1:50051"


def test_what_is_given_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("bind: 127.0.0.1:1\nversion: v3\ngrace: 5\nallow_addresses: [127.0.0.0/8]\n")
    settings = load_settings(file, {"version": "v4", "grace": None})
    assert (settings.bind, settings.version, settings.grace) == ("127.0.0.1:1", "v4", 5.0)
    assert settings.allow_addresses == ("127.0.0.0/8",)


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("# nothing\n")
    assert load_settings(tmp_path / "a.yaml", {}) == Settings()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"bind": "nowhere"}, "bind: 'nowhere': expected host:port or unix:/path"),
        ({"bind": "0.0.0.0:1"}, "set allow_remote if that is meant"),
        ({"version": "v 1"}, "version: "),
        ({"version": ""}, "version: "),
        ({"agents": ()}, "agents: "),
        ({"database_readers": 0}, "database_readers: "),
        ({"allow_addresses": ("10.0.0.1/8",)}, "allow_addresses.0: "),
        ({"max_message_bytes": 2**31}, "max_message_bytes: "),
        ({"operation_timeout": 0}, "operation_timeout: "),
        ({"grace": -1}, "grace: "),
        ({"unknown": 1}, "unknown: Extra inputs"),
    ],
)
def test_settings_that_cannot_be_used_are_named(given: dict[str, object], text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(None, given)
    assert text in str(caught.value)


def test_all_of_them_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(None, {"grace": -1, "unknown": 1})
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"[1]", "expected a mapping"), (b"a: [", "a.yaml"), (b"\xff", "a.yaml"), (b"grcae: 1", "a.yaml: grcae")],
)
def test_files_that_cannot_be_used_are_named(tmp_path: Path, content: bytes, text: str) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(SettingsError, match=text):
        load_settings(tmp_path / "a.yaml", {})


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.yaml: No such file"):
        load_settings(tmp_path / "none.yaml", {})


def test_remote_addresses_when_that_is_meant() -> None:
    assert load_settings(None, {"bind": "0.0.0.0:1", "allow_remote": True}).allow_remote


def test_the_overlay_of_the_environment_is_merged(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("name: helper\nbrowser: {pages: 2, recycle_after: 50}\ntools: [agent_server.tools.kit.web]\n")
    (tmp_path / "agent.development.yaml").write_text("browser: {pages: 1}\ntimeout: 5\n")
    (tmp_path / "agent.production.yaml").write_text("browser: {pages: 8}\n")
    production = load_settings(file, {})
    development = load_settings(file, {"environment": "development"})
    assert (production.browser.pages, production.browser.recycle_after, production.timeout) == (8, 50, 30.0)
    assert (development.browser.pages, development.timeout, development.name) == (1, 5.0, "helper")
    file.write_text("environment: development\n")
    assert load_settings(file, {}).timeout == 5.0


def test_secrets_come_from_the_environment_or_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_KEY", "hush-hush")
    (tmp_path / "url").write_text("postgresql+asyncpg://u:pass-word@db/x\n")
    file = tmp_path / "agent.yaml"
    file.write_text(
        "model: {base_url: 'http://m/v1', name: small, api_key: {env: MODEL_KEY}}\n"
        f"databases: {{books: {{file: {tmp_path}/url}}}}\n"
    )
    settings = load_settings(file, {})
    assert settings.model is not None
    assert settings.model.api_key is not None
    assert settings.model.api_key.get_secret_value() == "hush-hush"
    assert {"hush-hush", "pass-word"} <= set(settings.secrets)
    assert "hush" not in repr(settings)
    assert "pass-word" not in repr(settings)


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        ("{env: NOT_SET}", "the environment has no NOT_SET"),
        ("{file: /none}", "No such file"),
        ("{vault: x}", "expected a text"),
    ],
)
def test_secrets_that_are_not_there_are_named(tmp_path: Path, secret: str, said: str) -> None:
    (tmp_path / "a.yaml").write_text(f"databases: {{books: {secret}}}\n")
    with pytest.raises(SettingsError, match=rf"databases\.books: .*{said}"):
        load_settings(tmp_path / "a.yaml", {})
