from __future__ import annotations

from sidecar.config.problems import ConfigError, Problem, did_you_mean, dotted, listed, quoted


def test_a_problem_says_where_and_what() -> None:
    assert str(Problem("c.yaml", 7, 5, "a.0.b", "is wrong")) == "c.yaml:7:5: a.0.b: is wrong"


def test_a_problem_of_the_whole_file_has_no_path() -> None:
    assert str(Problem("c.yaml", 1, 1, "", "is empty")) == "c.yaml:1:1: is empty"


def test_problems_come_in_the_order_of_the_file_and_once() -> None:
    first, second, third = (Problem("c", line, column, "", "x") for line, column in [(2, 9), (10, 1), (10, 2)])
    error = ConfigError([third, second, first, second])
    assert error.problems == (first, second, third)
    assert str(error) == "c:2:9: x\nc:10:1: x\nc:10:2: x"


def test_the_nearest_word_is_proposed() -> None:
    assert did_you_mean("retrys", ["routes", "retry", "to"]) == "did you mean `retry`? "


def test_nothing_is_proposed_where_nothing_is_near() -> None:
    assert did_you_mean("zzz", ["routes"]) == ""
    assert did_you_mean("a" * 1_000_000, ["routes"]) == ""


def test_a_path_is_dotted_and_printable() -> None:
    assert dotted(("listeners", 0, "bi\x1bnd")) == "listeners.0.bi\\x1bnd"


def test_a_problem_is_one_line_whatever_it_tells_of() -> None:
    assert str(Problem("c\n", 1, 2, "a", "`\x1b[2J` is wrong")) == "c\\n:1:2: a: `\\x1b[2J` is wrong"


def test_values_are_quoted_short_and_on_one_line() -> None:
    assert quoted("é\n") == "`é\\n`"
    assert quoted("x" * 61) == "`" + "x" * 60 + "…`"


def test_words_are_listed() -> None:
    assert listed(["a", "b"]) == "a, b"
