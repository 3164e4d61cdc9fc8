"""Markup that text cannot break out of."""

from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from sidecar.control.admin.dashboard.html import Html, joined, tag


class Seen(HTMLParser):
    """What a browser would make of it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_elements() -> None:
    assert tag("p", "a & b <i>", class_="x y") == '<p class="x y">a &amp; b &lt;i&gt;</p>'
    assert tag("p", tag("b", "1"), ["two", None, 3]) == "<p><b>1</b>two3</p>"
    assert tag("input", type="hidden", name="n", required=True, disabled=False, value=None) == (
        '<input type="hidden" name="n" required>'
    )
    assert tag("td", data_key="a", aria_label='"') == '<td data-key="a" aria-label="&quot;"></td>'
    assert tag("path", d="M0 0") == '<path d="M0 0"/>'
    assert joined([Html("<b>"), "<b>"]) == "<b>&lt;b&gt;"


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"])))
def test_text_stays_text(text: str) -> None:
    seen = Seen(tag("p", text, title=text))
    assert seen.tags == [("p", {"title": text})]
    assert seen.text == text
