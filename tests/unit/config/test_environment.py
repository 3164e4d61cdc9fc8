from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.config.environment import substitute

ENVIRON = {"HOST": "10.0.0.1", "EMPTY": "", "NESTED": "${HOST}", "BROKEN": "a\udcff"}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("${HOST}", "10.0.0.1"),
        ("${HOST}:${PORT:-80}", "10.0.0.1:80"),
        ("${PORT:-}", ""),
        ("${EMPTY}", ""),
        ("${EMPTY:-x}", "x"),
        ("${NESTED}", "${HOST}"),
        ("$${HOST}", "${HOST}"),
        ("$$$${HOST}", "$${HOST}"),
        ("$$${HOST}", "$10.0.0.1"),
        ("a$b", "a$b"),
        ("^x$", "^x$"),
        ("${A:-:-}", ":-"),
        ("none", "none"),
    ],
)
def test_variables_are_put_in(text: str, result: str) -> None:
    assert substitute(text, ENVIRON) == result


def test_a_variable_that_is_not_set_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"^needs the environment variable PORT, which is not set; .*\$\{PORT:-default\}$"
    ):
        substitute("x:${PORT}", ENVIRON)


@pytest.mark.parametrize("text", ["${", "${}", "${HOST", "${1A}", "${A-b}", "${A B}", "${HÖST}"])
def test_a_malformed_reference_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"write \$\{NAME\} or \$\{NAME:-default\}, and \$\$"):
        substitute(text, ENVIRON)


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(ValueError, match="BROKEN, which is not UTF-8") as refused:
        substitute("${BROKEN}", ENVIRON)
    assert "\udcff" not in str(refused.value)


@settings(deadline=None)
@given(st.text())
def test_doubled_dollars_stand_for_themselves(text: str) -> None:
    assert substitute(text.replace("$", "$$"), {}) == text
