"""Sessions of browsers: who gave the token, for how long, and what other pages cannot know."""

from __future__ import annotations

from sidecar.control.admin.dashboard.sessions import Sessions

TOKEN = "a-long-admin-token"


class Wall:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def sent_back(set_cookie: str) -> str:
    """What a browser sends for it."""
    return set_cookie.split(";")[0]


def test_a_session_lasts_twelve_hours() -> None:
    wall = Wall()
    sessions = Sessions(TOKEN, "9901", wall)
    cookie = sessions.log_in(TOKEN)
    assert cookie is not None
    assert cookie.startswith("sidecar_session_9901=")
    assert cookie.endswith("; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict")
    assert sessions.session(sent_back(cookie)) is not None
    assert sessions.session(f"other=1; {sent_back(cookie)}") is not None
    wall.now += 43_200
    assert sessions.session(sent_back(cookie)) is None


def test_the_wrong_token_gives_nothing() -> None:
    sessions = Sessions(TOKEN, "9901", Wall())
    assert [sessions.log_in(each) for each in ("", "x", TOKEN + "x", "ä")] == [None] * 4
    for cookies in (None, "", "sidecar_session_9901=", "sidecar_session_9901=made-up", "=;,;\x00"):
        assert sessions.session(cookies) is None


def test_without_a_token_there_is_nothing_to_log_in_to() -> None:
    assert Sessions(None, "9901", Wall()).log_in("") is None


def test_guessing_is_slowed_down() -> None:
    wall = Wall()
    sessions = Sessions(TOKEN, "9901", wall)
    for _ in range(9):
        sessions.log_in("guess")
    assert not sessions.is_guessed_at
    sessions.log_in("guess")
    assert sessions.is_guessed_at
    wall.now += 61
    assert not sessions.is_guessed_at


def test_logging_out_ends_one_session() -> None:
    sessions = Sessions(TOKEN, "9901", Wall())
    one, other = sessions.log_in(TOKEN), sessions.log_in(TOKEN)
    assert one is not None
    assert other is not None
    session = sessions.session(sent_back(one))
    assert session is not None
    assert "Max-Age=0" in sessions.log_out(session)
    assert sessions.session(sent_back(one)) is None
    assert sessions.session(sent_back(other)) is not None


def test_another_worker_knows_the_session() -> None:
    one, other = Sessions(TOKEN, "9901", Wall()), Sessions(TOKEN, "9901", Wall())
    cookie = one.log_in(TOKEN)
    assert cookie is not None
    session = other.session(sent_back(cookie))
    assert session is not None
    assert other.is_ours(session, one.csrf(session))
    assert Sessions(TOKEN + "2", "9901", Wall()).session(sent_back(cookie)) is None, "a new token ends all sessions"


def test_a_session_cannot_be_made_longer() -> None:
    sessions = Sessions(TOKEN, "9901", Wall())
    cookie = sessions.log_in(TOKEN)
    assert cookie is not None
    name, _, value = sent_back(cookie).partition("=")
    ends, rest = value.split(".", 1)
    assert sessions.session(f"{name}={int(ends) + 1}.{rest}") is None
    assert sessions.session(f"{name}={value[:-1]}{'0' if value[-1] != '0' else '1'}") is None


def test_a_form_is_ours_only_with_its_own_token() -> None:
    sessions, others = Sessions(None, "9901", Wall()), Sessions(None, "9901", Wall())
    assert sessions.is_ours("a", sessions.csrf("a"))
    assert sessions.is_ours(None, sessions.csrf(None))
    for session, given in (("a", sessions.csrf("b")), (None, ""), (None, others.csrf(None)), ("a", "ä")):
        assert not sessions.is_ours(session, given)
