"""Validation: messages parse and hold their rules; a refusal names fields and rules, and never a value."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sidecar.descriptors.descriptor_set import parse_set
from sidecar.grpc_wire.details import BadRequest
from sidecar.grpc_wire.status import StatusCode
from sidecar.policies.validate import Validate
from sidecar.proxy.rejection import Reason, Rejection
from tests.support.bench import Bench, of, refused
from tests.support.descriptors import NASTY, OLD, agent_set, compiled, new
from tests.support.wire import message

UNARY = "/nasty.v1.Nasty/Unary"
EXECUTE = "/agent.v1.AgentService/Execute"
SECRET = "S3CRET-VALUE"


class Checked:
    """A validation over the nasty set: `broken(message)` are the rules that a message breaks, by path."""

    def __init__(self, folder: Path, rules: str = "{}", *, data: bytes | None = None, more: str = "") -> None:
        self.data = data or compiled(NASTY)
        (folder / "set.binpb").write_bytes(self.data)
        text = f"{{descriptors: set.binpb, rules: {rules}{more}}}"
        self.bench: Bench[Validate] = of(Validate, text, directory=folder)
        self.descriptors = parse_set(self.data)

    def new(self, name: str = "nasty.v1.Everything", /, **fields: Any) -> Any:
        return new(self.descriptors, name, **fields)

    def raw(self, framed: bytes, path: str = UNARY, encoding: str | None = None) -> Rejection | None:
        metadata = {} if encoding is None else {"grpc-encoding": encoding}
        assert self.bench.request(method=path, metadata=metadata, end=False) is None
        return self.bench.policy.on_request_message(self.bench.last, framed)

    def broken(self, sent: Any, path: str = UNARY) -> dict[str, str]:
        verdict = self.raw(message(sent.SerializeToString()), path)
        if verdict is None:
            return {}
        assert verdict.reason is Reason.INVALID_MESSAGE
        assert verdict.code is StatusCode.INVALID_ARGUMENT
        (details,) = verdict.details
        assert isinstance(details, BadRequest)
        return {each.field: each.description for each in details.violations}


def check(folder: Path, rules: str, sent: dict[str, Any]) -> dict[str, str]:
    checked = Checked(folder, rules)
    return checked.broken(checked.new(**sent))


@pytest.mark.parametrize(
    ("rules", "sent", "broken"),
    [
        ("{password: {required: true}}", {}, {"password": "is required"}),
        ("{password: {required: true}}", {"password": "x"}, {}),
        ("{ssn: {required: true}}", {"ssn": 0}, {"ssn": "is required"}),
        ("{maybe_number: {required: true}}", {"maybe_number": 0}, {}),
        ("{user: {required: true}}", {}, {"user": "is required"}),
        ("{user: {required: true}}", {"user": {}}, {}),
        ("{tokens: {required: true}}", {}, {"tokens": "is required"}),
        ("{password: {min_length: 1}}", {}, {"password": "must have at least 1 character"}),
        ("{password: {max_length: 3}}", {"password": "äöü"}, {}),
        ("{password: {max_length: 2}}", {"password": "äöü"}, {"password": "must have at most 2 characters"}),
        ("{secret_bytes: {max_length: 2}}", {"secret_bytes": b"abc"}, {"secret_bytes": "must have at most 2 bytes"}),
        ("{password: {pattern: '[a-z]+'}}", {"password": "abc"}, {}),
        ("{password: {pattern: '[a-z]+'}}", {"password": "abc\n"}, {"password": "must match [a-z]+"}),
        (
            "{password: {pattern: '(a+)+b', max_length: 30}}",
            {"password": "a" * 5000},
            {"password": "must have at most 30 characters"},
        ),
        ("{password: {in: [a, b]}}", {"password": "c"}, {"password": "must be one of a, b"}),
        ("{ssn: {in: [1, 2]}}", {"ssn": 2}, {}),
        ("{is_secret: {in: [true]}}", {"is_secret": False}, {"is_secret": "must be one of True"}),
        ("{ssn: {in: [true]}}", {"ssn": 1}, {"ssn": "must be one of True"}),
        ("{grade: {in: [GRADE_LOW]}}", {"grade": 2}, {"grade": "must be one of GRADE_LOW"}),
        ("{grade: {in: [GRADE_LOW]}}", {"grade": 1}, {}),
        ("{grade: {in: [GRADE_LOW]}}", {"grade": 77}, {"grade": "must be one of GRADE_LOW"}),
        ("{ssn: {min: 1, max: 9}}", {"ssn": 0}, {"ssn": "must be at least 1"}),
        ("{ssn: {min: 1, max: 9}}", {"ssn": 10}, {"ssn": "must be at most 9"}),
        ("{balance: {min: 0}}", {"balance": float("nan")}, {"balance": "must be at least 0"}),
        ("{balance: {max: 1.5}}", {"balance": float("inf")}, {"balance": "must be at most 1.5"}),
        ("{tokens: {min_items: 2}}", {"tokens": ["a"]}, {"tokens": "must have at least 2 items"}),
        ("{tokens: {max_items: 1}}", {"tokens": ["a", "b"]}, {"tokens": "must have at most 1 item"}),
        ("{labels: {max_items: 0}}", {"labels": {"a": "b"}}, {"labels": "must have at most 0 items"}),
        ("{tokens: {min_length: 2}}", {"tokens": ["ab", "a"]}, {"tokens[1]": "must have at least 2 characters"}),
        ("{labels: {min_length: 2}}", {"labels": {SECRET: "a"}}, {"labels[]": "must have at least 2 characters"}),
        ("{labels.tenant: {required: true}}", {}, {"labels.tenant": "is required"}),
        ("{labels.tenant: {in: [x]}}", {"labels": {"tenant": "y"}}, {"labels.tenant": "must be one of x"}),
        ("{user.name: {min_length: 1}}", {}, {}),
        ("{user.name: {min_length: 1}}", {"user": {}}, {"user.name": "must have at least 1 character"}),
        ("{users.name: {required: true}}", {"users": [{"name": "a"}, {}]}, {"users[1].name": "is required"}),
        ("{people.name: {required: true}}", {"people": {SECRET: {}}}, {"people[].name": "is required"}),
        ("{people.bob.name: {required: true}}", {"people": {"bob": {}, "al": {}}}, {"people.bob.name": "is required"}),
        (
            "{nasty.v1.User.name: {required: true}}",
            {"user": {"name": "a", "friend": {}}},
            {"user.friend.name": "is required"},
        ),
        ("{maybe: {min_length: 3}}", {}, {}),
        ("{maybe: {min_length: 3}}", {"maybe": ""}, {"maybe": "must have at least 3 characters"}),
        ("{choice_text: {min_length: 3}}", {"choice_password": "x"}, {}),
        ("{wrapped: {max_length: 1}}", {"wrapped": {"value": "ab"}}, {"wrapped": "must have at most 1 character"}),
        ("{wrapped_number: {min: 1}}", {"wrapped_number": {"value": 0}}, {"wrapped_number": "must be at least 1"}),
        ("{from: {required: true}}", {}, {"from": "is required"}),
    ],
)
def test_rules(tmp_path: Path, rules: str, sent: dict[str, Any], broken: dict[str, str]) -> None:
    assert check(tmp_path, rules, sent) == broken


@pytest.mark.parametrize(
    ("rules", "parameters", "broken"),
    [
        ("{parameters.limit: {required: true}}", {}, {}),
        ("{parameters.limit: {required: true}}", {"a": 1}, {"parameters.limit": "is required"}),
        ("{parameters.limit: {required: true}}", {"limit": None}, {"parameters.limit": "is required"}),
        ("{parameters.limit: {max: 10}}", {"limit": 11}, {"parameters.limit": "must be at most 10"}),
        ("{parameters.limit: {max: 10}}", {"limit": "11"}, {"parameters.limit": "must be a number"}),
        ("{parameters.limit: {max: 10}}", {"limit": True}, {"parameters.limit": "must be a number"}),
        ("{parameters.name: {max_length: 1}}", {"name": 5}, {"parameters.name": "must be text"}),
        ("{parameters.a.b: {in: [1]}}", {"a": {"b": 2}}, {"parameters.a.b": "must be one of 1"}),
        ("{parameters.a.b: {in: [1]}}", {"a": [{"b": 1}, {"b": 2}]}, {"parameters.a.b": "must be one of 1"}),
        ("{parameters.ids: {max_items: 1}}", {"ids": [1, 2]}, {"parameters.ids": "must have at most 1 item"}),
        ("{parameters.ids: {max_items: 1}}", {"ids": 1}, {"parameters.ids": "must be a list"}),
        ("{parameters.ids: {max: 1}}", {"ids": [1, 2]}, {"parameters.ids[1]": "must be at most 1"}),
        ("{parameters: {required: true}}", {"a": 1}, {}),
    ],
)
def test_rules_for_keys_of_a_struct(
    tmp_path: Path, rules: str, parameters: dict[str, Any], broken: dict[str, str]
) -> None:
    checked = Checked(tmp_path, rules, data=agent_set())
    sent = checked.new("agent.v1.ExecuteRequest", task="x")
    if parameters:
        sent.parameters.update(parameters)
    assert checked.broken(sent, EXECUTE) == broken


def test_an_any_is_looked_into(tmp_path: Path) -> None:
    checked = Checked(tmp_path, "{any.name: {required: true}, nasty.v1.User.password: {max_length: 1}}")
    sent = checked.new()
    sent.any.type_url = "x/nasty.v1.User"
    sent.any.value = checked.new("nasty.v1.User", password="abc").SerializeToString()
    assert checked.broken(sent) == {"any.name": "is required", "any.password": "must have at most 1 character"}
    sent.any.type_url = "x/who.knows"
    assert checked.broken(sent) == {"any": "must hold a message of a known type"}


def test_every_violation_is_listed_up_to_a_bound_and_no_value_is_told(tmp_path: Path) -> None:
    checked = Checked(tmp_path, "{tokens: {max_length: 1}, password: {pattern: x}, users.name: {in: [x]}}")
    sent = checked.new(tokens=[SECRET] * 100, password=SECRET, users=[{"name": SECRET}])
    sent.people[SECRET].name = SECRET
    rejection = checked.raw(message(sent.SerializeToString()))
    assert isinstance(rejection, Rejection)
    assert SECRET not in repr(rejection)
    assert rejection.metadata["violations"] == "102"
    (details,) = rejection.details
    assert isinstance(details, BadRequest)
    assert len(details.violations) == 20
    assert rejection.message.endswith("; and 99 more")
    assert checked.bench.policy._invalid.value == 1


@given(password=st.text(max_size=20), number=st.integers(-(2**63), 2**63 - 1))
def test_no_value_is_ever_told(password: str, number: int) -> None:
    rules = _shared()
    verdict = rules.raw(
        message(rules.new(password=f"{SECRET}{password}", ssn=number, tokens=[SECRET]).SerializeToString())
    )
    assert SECRET not in repr(verdict)


_kept: list[Checked] = []


def _shared() -> Checked:
    import tempfile

    if not _kept:
        with tempfile.TemporaryDirectory() as folder:
            rules = "{password: {max_length: 1, pattern: x, in: [a]}, ssn: {min: 1, in: [3]}, tokens: {in: [b]}}"
            _kept.append(Checked(Path(folder), rules))
    return _kept[0]


# ── what is no message ──


@pytest.mark.parametrize("body", [b"\xff", b"\x0a\x05abc", b"\x0a\x01\xff"])
def test_what_does_not_parse_is_refused(tmp_path: Path, body: bytes) -> None:
    checked = Checked(tmp_path)
    rejection = refused(checked.raw(message(body)))
    assert rejection.reason is Reason.INVALID_MESSAGE
    assert rejection.message.endswith("the message does not parse as nasty.v1.Everything")


def test_what_parses_passes_without_rules(tmp_path: Path) -> None:
    checked = Checked(tmp_path)
    assert checked.broken(checked.new(password="x")) == {}


def test_required_fields_of_proto2(tmp_path: Path) -> None:
    checked = Checked(tmp_path, data=compiled(OLD))
    assert checked.broken(new(checked.descriptors, "old.v1.More"), "/old.v1.Old/Get") == {"id": "is required"}


def test_compressed_messages_are_read(tmp_path: Path) -> None:
    checked = Checked(tmp_path, "{password: {max_length: 1}}")
    for encoding, compress in (("gzip", gzip.compress), ("deflate", zlib.compress)):
        good, bad = (compress(checked.new(password=each).SerializeToString()) for each in ("a", "ab"))
        assert checked.raw(message(good, 1), encoding=encoding) is None
        assert refused(checked.raw(message(bad, 1), encoding=encoding)).reason is Reason.INVALID_MESSAGE


@pytest.mark.parametrize(
    ("framed", "encoding", "reason"),
    [
        (message(b"x", 1), "br", Reason.CANNOT_MASK),
        (message(b"x", 1), None, Reason.CANNOT_MASK),
        (message(b"no gzip", 1), "gzip", Reason.INVALID_MESSAGE),
        (message(gzip.compress(bytes(5_000_000), mtime=0), 1), "gzip", Reason.MESSAGE_TOO_LARGE),
    ],
)
def test_what_cannot_be_decompressed_is_refused(
    tmp_path: Path, framed: bytes, encoding: str | None, reason: Reason
) -> None:
    assert refused(Checked(tmp_path).raw(framed, encoding=encoding)).reason is reason


# ── on the path ──


def test_the_agent_hears_nothing_of_a_call_whose_message_is_refused(tmp_path: Path) -> None:
    checked = Checked(tmp_path, "{password: {required: true}}")
    bench = checked.bench
    assert bench.request(method=UNARY, end=False) is None
    assert bench.forwarded == 0
    assert refused(bench.message(b"", end=True)).reason is Reason.INVALID_MESSAGE
    assert bench.forwarded == 0
    assert bench.streams[-1].seen.status == StatusCode.INVALID_ARGUMENT
    assert bench.request(method=UNARY, end=False) is None
    assert bench.message(checked.new(password="x").SerializeToString(), end=True) is None
    assert bench.forwarded == 1


def test_every_message_of_a_stream_is_validated(tmp_path: Path) -> None:
    checked = Checked(tmp_path, "{password: {required: true}}")
    bench = checked.bench
    bench.request(method="/nasty.v1.Nasty/Upload", end=False)
    good = checked.new(password="x").SerializeToString()
    assert bench.message(good) is None
    assert bench.message(good) is None
    assert refused(bench.message(b"")).reason is Reason.INVALID_MESSAGE


def test_a_method_that_is_not_described_is_refused(tmp_path: Path) -> None:
    checked = Checked(tmp_path)
    rejection = refused(checked.bench.request(method="/nasty.v1.Nasty/unary"))
    assert rejection.reason is Reason.CANNOT_MASK
    assert rejection.metadata["method"] == "/nasty.v1.Nasty/unary"
    assert checked.bench.forwarded == 0


def test_unless_that_is_allowed(tmp_path: Path) -> None:
    checked = Checked(tmp_path, more=", unknown_methods: allow")
    assert checked.raw(message(b"\xff"), "/other.v1.S/M") is None


def test_health_passes_without_being_described(tmp_path: Path) -> None:
    assert Checked(tmp_path).raw(message(b"\xff"), "/grpc.health.v1.Health/Check") is None


def test_without_descriptors_of_the_agent_calls_may_come_back() -> None:
    bench = of(Validate, "{descriptors: reflection}")
    rejection = refused(bench.request(method=UNARY))
    assert rejection.reason is Reason.AGENT_NOT_READY
    assert rejection.retry_after == 1.0
    assert bench.request(method="/grpc.health.v1.Health/Check", end=False) is None


# ── configuration ──


@pytest.mark.parametrize(
    ("rules", "what"),
    [
        ("{pasword: {required: true}}", "`pasword` is no field of any message; did you mean `password`"),
        ("{nasty.v1.User.nam: {required: true}}", "did you mean `name`"),
        ("{ssn: {min_length: 1}}", "ssn: nasty.v1.Everything.ssn is neither text nor bytes"),
        ("{secret_bytes: {pattern: x}}", "is no text, which pattern is for"),
        ("{password: {min: 1}}", "is no number, which min and max are for"),
        ("{is_secret: {min: 1}}", "is no number"),
        ("{password: {min_items: 1}}", "is neither list nor map"),
        ("{user: {in: [a]}}", "is neither text nor number nor enum"),
        ("{grade: {in: [GRADE_TOP]}}", "has no value GRADE_TOP; allowed: GRADE_UNSPECIFIED, GRADE_LOW, GRADE_HIGH"),
        ("{labels: {min: 1}}", "is no number"),
    ],
)
def test_rules_that_do_not_fit_are_refused_at_load(tmp_path: Path, rules: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        Checked(tmp_path, rules)


@pytest.mark.parametrize(
    ("rules", "what"),
    [
        ("{a: {}}", "name at least one"),
        ("{a: {min: 2, max: 1}}", "nothing could pass"),
        ("{a: {min_length: 2, max_length: 1}}", "nothing could pass"),
        ("{a: {pattern: '('}}", "is no regular expression"),
        ("{a: {in: []}}", "at least 1"),
        ("{a: {mystery: 1}}", "not permitted"),
        ("{'a b': {required: true}}", "selects no field"),
    ],
)
def test_rules_that_cannot_be_meant_are_refused(tmp_path: Path, rules: str, what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        Checked(tmp_path, rules)


def test_a_changed_file_is_taken(tmp_path: Path) -> None:
    checked = Checked(tmp_path, "{password: {max_length: 1}}")
    policy, file = checked.bench.policy, tmp_path / "set.binpb"
    assert policy.files == (file,)
    assert policy.reload() is False
    file.write_bytes(compiled(NASTY.replace("int64 ssn = 3;", "string ssn = 3;")))
    assert policy.reload() is True
    assert refused(checked.raw(message(b"\x18\x01\x0a\x02ab"))).reason is Reason.INVALID_MESSAGE
    file.write_bytes(compiled(NASTY.replace("string password = 1;", "int32 password = 1;")))
    with pytest.raises(ValueError, match="neither text nor bytes"):
        policy.reload()
    assert checked.broken(checked.new(password="x")) == {}
