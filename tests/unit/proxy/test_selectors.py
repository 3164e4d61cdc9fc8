from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.proxy.selectors import compile_pattern, compile_selector, covers

PATTERN = st.one_of(
    st.just("*"),
    st.text("ab/", max_size=4),
    st.text("ab/", max_size=4).map(lambda t: t + "*"),
    st.text("ab/", max_size=4).map(lambda t: "*" + t),
)


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("*", "", True),
        ("*", "x", True),
        ("/a/b", "/a/b", True),
        ("/a/b", "/a/B", False),
        ("/a/b", "/a/b/", False),
        ("/a/*", "/a/", True),
        ("/a/*", "/a", False),
        ("*-test", "x-test", True),
        ("*-test", "x-tests", False),
    ],
)
def test_patterns(pattern: str, text: str, matches: bool) -> None:
    assert compile_pattern(pattern)(text) is matches


@pytest.mark.parametrize("pattern", ["a*b", "*a*", "**", "a**"])
def test_a_star_stands_at_one_end(pattern: str) -> None:
    with pytest.raises(ValueError, match="one end only"):
        compile_pattern(pattern)


@given(PATTERN, PATTERN, st.text("ab/", max_size=6))
def test_what_is_covered_matches(wide: str, narrow: str, text: str) -> None:
    if covers(wide, narrow) and compile_pattern(narrow)(text):
        assert compile_pattern(wide)(text)


def test_unknown_selectors_say_what_is_allowed() -> None:
    with pytest.raises(ValueError, match=r"identity.*metadata.NAME"):
        compile_selector("tenant")
