"""Templates: what they give, and what they cannot take."""

from __future__ import annotations

from typing import Any

import pytest

from agent_server.core.failure import Failure
from agent_server.workflows.templating import fill

NAMES = {
    "inputs": {"n": 3, "text": "a,b", "big": 2**60, "list": [1, 2, 3]},
    "steps": {"one": {"output": {"rows": [{"k": "x", "v": 1}, {"k": "y", "v": 2}], "items": "own"}}},
}


@pytest.mark.parametrize(
    ("template", "given"),
    [
        ("{{ inputs.n }}", 3),
        ("{{ inputs.n + 1 }}", 4),
        (" {{ inputs.list }} ", [1, 2, 3]),
        ("{{ inputs.n }} of {{ inputs.text }}", "3 of a,b"),
        ("{{ inputs.text.split(',') }}", ["a", "b"]),
        ("{{ steps.one.output.rows | map(attribute='v') | sum }}", 3),
        ("{{ steps.one.output.rows | selectattr('v', 'gt', 1) | list }}", [{"k": "y", "v": 2}]),
        ("{{ inputs.big | default(0) }}", 2**60),
        ("{{ inputs.list | map('string') | join('-') }}", "1-2-3"),
        ("{{ inputs.text | replace(',', ';') | upper }}", "A;B"),
        ("{% for row in steps.one.output.rows %}{{ row.k }}={{ row.v }};{% endfor %}", "x=1;y=2;"),
        ("{{ {'a': inputs.n}.items() | list }}", [["a", 3]]),
        ("{{ range(3) | list }}", [0, 1, 2]),
        ("{{ 'yes' if inputs.n > 2 else 'no' }}", "yes"),
        ("no template { at all", "no template { at all"),
        ([{"a": "{{ inputs.n }}"}, 7], [{"a": 3}, 7]),
    ],
)
def test_values_keep_their_kind(template: Any, given: Any) -> None:
    assert fill(template, NAMES, "here") == given


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ inputs.__init__.__globals__ }}",
        "{{ (inputs.get).__self__.__class__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ lipsum() }}",
        "{{ inputs.update({'n': 1}) }}",
        "{{ 'x' * 10000000000 }}",
        "{{ 9 ** 999999999 }}",
        "{{ 'x'.ljust(10000000000) }}",
        "{{ '{:10000000000}'.format(1) }}",
        "{{ '%10000000000d' % 1 }}",
        "{{ 'x' | center(10000000000) }}",
        "{{ ('x' * 100000) | replace('x', 'x' * 100000) }}",
        "{{ ('x' * 100000).replace('x', 'x' * 100000) }}",
        "{{ ('x' * 100000).join(['y'] * 100000) }}",
        "{{ (['y'] * 100000) | join('x' * 100000) }}",
        "{{ [1] | batch(1000000000, 'x') | list }}",
        "{{ [1] | tojson(indent=1000000000) }}",
        "{{ range(1000000000) | list }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% set a = 'x' %}{{ a }}",
        "{% include 'x' %}",
        "{% for a in range(90000) %}{{ 'x' * 1000 }}{% endfor %}",
        "{{ " + " ~ ".join(["inputs.text"] * 60) + " }}",
        "{{ " + " + ".join(["'x' * 1000000"] * 20) + " }}",
        "{{ missing }}",
        "{{ steps.two.output }}",
        "{{ inputs.nothing }}",
        "{{ inputs.n ",
    ],
)
def test_what_templates_cannot_do(template: str) -> None:
    with pytest.raises(Failure) as caught:
        fill({"a": template}, NAMES, "steps.x.with")
    assert (caught.value.reason, caught.value.metadata["field"]) == ("TEMPLATE_FAILED", "steps.x.with.a")
