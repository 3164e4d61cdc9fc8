from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.identity.spiffe import MAX_BYTES, SpiffeId, parse

SEGMENT = st.from_regex(r"[a-zA-Z0-9._-]{1,20}", fullmatch=True).filter(lambda text: text not in {".", ".."})
TRUST_DOMAIN = st.from_regex(r"[a-z0-9._-]{1,60}", fullmatch=True)
# The grammar of SPIFFE-ID §2 once more, written as one expression and without the lengths.
GRAMMAR = re.compile(r"spiffe://[a-z0-9._-]+(?:/(?!\.{1,2}(?:/|\Z))[a-zA-Z0-9._-]+)*", re.ASCII)


@given(TRUST_DOMAIN, st.lists(SEGMENT, max_size=8))
def test_what_follows_the_rules_is_taken_apart_and_put_together_again(trust_domain: str, segments: list[str]) -> None:
    path = "".join(f"/{segment}" for segment in segments)
    found = parse(f"spiffe://{trust_domain}{path}")
    assert found == SpiffeId(trust_domain, path)
    assert str(found) == f"spiffe://{trust_domain}{path}"


@given(
    st.one_of(
        st.text(),
        st.text(alphabet="aZ0./_-%:?#@é\x00\n ").map(lambda rest: f"spiffe://{rest}"),
        st.text(alphabet="a./").map(lambda rest: f"spiffe://mesh.local/{rest}"),
    )
)
def test_any_text_is_either_refused_with_a_reason_or_comes_back_unchanged(text: str) -> None:
    if GRAMMAR.fullmatch(text):
        assert str(parse(text)) == text
    else:
        with pytest.raises(ValueError, match="SPIFFE id") as caught:
            parse(text)
        assert type(caught.value) is ValueError


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "begins with spiffe://"),
        ("https://mesh.local/agent", "begins with spiffe://"),
        ("SPIFFE://mesh.local/agent", "begins with spiffe://"),
        ("spiffe:/mesh.local/agent", "begins with spiffe://"),
        (" spiffe://mesh.local/agent", "begins with spiffe://"),
        ("spiffe://", "is not empty"),
        ("spiffe:///agent", "is not empty"),
        ("spiffe://Mesh.local/agent", "lower-case"),
        ("spiffe://mesh.local\n/agent", "lower-case"),
        ("spiffe://mésh.local/agent", "lower-case"),
        ("spiffe://mesh%2elocal/agent", "no percent-encoding"),
        ("spiffe://mesh.local:443/agent", "no port"),
        ("spiffe://mesh.local:/agent", "no port"),
        ("spiffe://[::1]/agent", "no port"),
        ("spiffe://user@mesh.local/agent", "no user information"),
        ("spiffe://user:secret@mesh.local/agent", "no user information"),
        ("spiffe://mesh.local?x=1", "no query"),
        ("spiffe://mesh.local/agent?x=1", "no query"),
        ("spiffe://mesh.local/agent#top", "no fragment"),
        ("spiffe://mesh.local/agent%2Forders", "no percent-encoding"),
        ("spiffe://mesh.local/agent/", "end with a slash"),
        ("spiffe://mesh.local/", "end with a slash"),
        ("spiffe://mesh.local//agent", "no empty segments"),
        ("spiffe://mesh.local/./agent", "no dot segments"),
        ("spiffe://mesh.local/agent/..", "no dot segments"),
        ("spiffe://mesh.local/agent orders", "path of a SPIFFE id holds"),
        ("spiffe://mesh.local/agent\x00", "path of a SPIFFE id holds"),
        ("spiffe://mesh.local/agent\n", "path of a SPIFFE id holds"),
        ("spiffe://mesh.local/agént", "path of a SPIFFE id holds"),
        ("spiffe://mesh.local/agent:8080", "path of a SPIFFE id holds"),
        ("spiffe://" + "a" * 256 + "/agent", "at most 255 bytes"),
    ],
)
def test_each_broken_rule_is_named(text: str, rule: str) -> None:
    with pytest.raises(ValueError, match=re.escape(rule)):
        parse(text)


def test_an_id_has_at_most_2048_bytes() -> None:
    longest = "spiffe://mesh.local/".ljust(MAX_BYTES, "a")
    assert str(parse(longest)) == longest
    with pytest.raises(ValueError, match="at most 2048 bytes"):
        parse(longest + "a")


def test_a_dot_in_a_name_is_not_a_dot_segment() -> None:
    assert parse("spiffe://mesh.local/.well-known/v1.2/...").path == "/.well-known/v1.2/..."
