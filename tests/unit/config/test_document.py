from __future__ import annotations

import pytest

from sidecar.config.document import MAX_DEPTH, MAX_NODES, Node, UnreadableError, position, read_document, resolve


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("false", False),
        ("True", "True"),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("10", 10),
        ("-3", -3),
        ("0", 0),
        ("012", "012"),
        ("0x1F", "0x1F"),
        ("0o17", "0o17"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("+5", "+5"),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", ".5"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("2026-01-01", "2026-01-01"),
        ("٣", "٣"),
        ("", None),
        ("~", None),
        ("null", None),
    ],
)
def test_plain_words(text: str, value: object) -> None:
    found = resolve(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["1" * 21, "1e999", "-1e999"])
def test_numbers_have_bounds(text: str) -> None:
    with pytest.raises(ValueError, match=r"is a number .* put it into quotes"):
        resolve(text)


def test_nodes_know_where_they_stand() -> None:
    root = _read("a:\n  - x: 1\n    y: 'two'\n")
    node, found = root.at(("a", 0, "y"))
    assert (node.line, node.column, node.text, node.is_plain) == (3, 8, "two", False)
    assert found == ("a", 0, "y")
    name = root.at(("a", 0))[0].fields["y"][0]
    assert (name.line, name.column) == (3, 5)


@pytest.mark.parametrize("loc", [("a", 1), ("a", -1), ("a", "0"), ("a", 0, "z"), ("a", 0, 0), ("a", 0, "x", "deeper")])
def test_what_is_not_there_is_looked_for_as_deep_as_possible(loc: tuple[str | int, ...]) -> None:
    node, found = _read("a:\n  - x: 1\n").at(loc)
    assert len(found) < len(loc)
    assert node is _read_back(node)


def test_an_alias_is_the_value_it_names() -> None:
    root = _read("a: &x [1, 2]\nb: *x\n")
    assert root.fields["b"][1] is root.fields["a"][1]


def test_nothing_is_no_document() -> None:
    assert read_document("# only a comment\n", "c.yaml") == (None, [])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "a: 1\nb: 2\na: 3\n",
            "c:3:1: a: is given twice (first on line 1); keep one of them",
        ),
        (
            "x:\n  - {a: 1, a: 2}\n",
            "c:2:12: x.0.a: is given twice (first on line 2); keep one of them",
        ),
        (
            "a: !!str 5\n",
            "c:1:4: a: the tag `tag:yaml.org,2002:str` is not supported; remove it, and put text into quotes",
        ),
        (
            "a: !!python/name:os.system x",
            "c:1:4: a: the tag `tag:yaml.org,2002:python/name:os.system` is not supported; remove it, and put "
            "text into quotes",
        ),
        (
            "a: &b {c: d}\ne:\n  <<: *b\n",
            "c:3:3: e: merge keys (<<) are not supported; write the fields out, or alias the whole value",
        ),
        (
            "'': x\n",
            "c:1:1: a field without a name; write name: value",
        ),
    ],
)
def test_what_yaml_allows_and_we_do_not(text: str, problem: str) -> None:
    assert [str(each) for each in read_document(text, "c")[1]] == [problem]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "a:\n\t- b\n",
            "c:2:1: a tab in the indentation; YAML is indented with spaces only",
        ),
        (
            "a: @b\n",
            "c:1:4: a value cannot begin with `@`; put it into quotes",
        ),
        (
            "a: %b\n",
            "c:1:4: a value cannot begin with `%`; put it into quotes",
        ),
        (
            "a: b: c\n",
            "c:1:5: a `:` where no field can begin; put text with `: ` into quotes, or check the indentation",
        ),
        (
            "a:\n  b: 1\n c: 2\n",
            "c:3:2: not indented like the fields around it, or a quote, bracket or brace is missing; align it",
        ),
        (
            "a: [1,\n",
            "c:2:1: a value is missing here; write one, or remove the mark before it",
        ),
        (
            "a:\n  - x\n  b: c\n",
            "c:3:3: not indented like the list around it; align it with the other `-`",
        ),
        (
            "a: [1, 2\nb: 3\n",
            "c:1:4: a list that began with `[` does not end; add `,` or `]`",
        ),
        (
            "a: {b: ${X}}\n",
            "c:1:9: `${` begins a mapping here; between brackets or braces put ${NAME} into quotes",
        ),
        (
            "a: {b: 1\n",
            "c:1:4: a mapping that began with `{` does not end; add `,` or `}`",
        ),
        (
            "a: 'b\nc: d\n",
            "c:1:4: a quote that was opened does not end; add the closing quote",
        ),
        (
            'a: "\\q"\n',
            "c:1:5: an unknown escape after `\\`; use single quotes, or write `\\\\`",
        ),
        (
            "a: - b\n",
            "c:1:4: a `-` where no list can begin; put it on a line of its own",
        ),
        (
            "a: 1\nbcd\n",
            "c:3:1: a field without `:`; write name: value",
        ),
        (
            "a: 1\n---\nb: 2\n",
            "c:2:1: a second document begins here; keep one document in a file",
        ),
        (
            "a: *x\n",
            "c:1:4: a: *x refers to nothing; define it before with &x",
        ),
        (
            "a: &x\n  b: *x\n",
            "c:2:6: a.b: *x refers to the value it stands in; repeat what is needed instead",
        ),
        (
            "? [a]\n: b\n",
            "c:1:3: a list or mapping stands where a field name must; write name: value",
        ),
        (
            "a: &x [1]\n? *x\n: b\n",
            "c:1:4: a list or mapping stands where a field name must; write name: value",
        ),
        (
            "a: b\x07\n",
            "c:1:5: the character U+0007 is not allowed in YAML; remove it",
        ),
        (
            "a:\r\n  b: \ud800\r\n",
            "c:2:6: the character U+D800 is not allowed in YAML; remove it",
        ),
        (
            "%FOO\n---\na: b\n",
            "c:1:5: not valid YAML: found unknown directive name; put text with special characters into quotes",
        ),
    ],
)
def test_what_cannot_be_read_is_told_with_what_to_do(text: str, problem: str) -> None:
    with pytest.raises(UnreadableError) as refused:
        read_document(text, "c")
    assert str(refused.value.problem) == problem


def test_depth_has_a_bound() -> None:
    read_document("[" * MAX_DEPTH + "]" * MAX_DEPTH, "c")
    for bomb in ("[" * 100_000, "{a: " * 100_000, "- " * 100_000):
        with pytest.raises(UnreadableError, match="nested deeper than 32 levels"):
            read_document(bomb, "c")


def test_the_number_of_values_has_a_bound() -> None:
    with pytest.raises(UnreadableError, match=f"more than {MAX_NODES} values"):
        read_document("[" + "1," * (MAX_NODES + 1) + "]", "c")


def test_positions_count_lines_of_every_kind() -> None:
    assert position("a\nb\r\nc\rdx", 7) == (4, 1)


def _read(text: str) -> Node:
    root, problems = read_document(text, "c")
    assert root is not None
    assert not problems
    return root


def _read_back(node: Node) -> Node:
    return node.at(())[0]
