"""Masking: what is named leaves nowhere in the clear, whatever holds it; all else goes on as it came; doubt refuses."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sidecar.descriptors.descriptor_set import parse_set
from sidecar.grpc_wire.status import StatusCode
from sidecar.http2.hpack import encode_field
from sidecar.policies.mask import Mask
from sidecar.proxy.rejection import Reason
from tests.support.bench import Bench, of, refused
from tests.support.descriptors import NASTY, OLD, agent_set, compiled, nasty, new
from tests.support.wire import message

UNARY = "/nasty.v1.Nasty/Unary"
SECRET = "S3CRET-VALUE"
FIELDS = "[password, secret_bytes, ssn, api_key, credit_card]"


class Masked:
    """A mask over the nasty set: `of(message)` is what the caller gets, parsed; `raw(body)` the verdict on bytes."""

    def __init__(self, folder: Path, text: str = "fields: " + FIELDS, *, data: bytes | None = None) -> None:
        (folder / "set.binpb").write_bytes(data or compiled(NASTY))
        self.bench: Bench[Mask] = of(Mask, f"{{descriptors: set.binpb, {text}}}", directory=folder)
        self.descriptors = parse_set(data or compiled(NASTY))

    def new(self, name: str = "nasty.v1.Everything", /, **fields: Any) -> Any:
        return new(self.descriptors, name, **fields)

    def raw(self, framed: bytes, path: str = UNARY, encoding: bytes | None = None) -> Any:
        assert self.bench.request(method=path) is None
        call = self.bench.last
        if encoding is not None:
            self.bench.policy.on_response_headers(call, [encode_field(b"grpc-encoding", encoding)])
        return self.bench.policy.on_response_message(call, framed)

    def of(self, sent: Any, path: str = UNARY) -> Any:
        body = sent.SerializeToString()
        verdict = self.raw(message(body), path)
        if verdict is None:
            return sent
        assert isinstance(verdict, bytes), verdict
        assert verdict[0] == 0
        assert int.from_bytes(verdict[1:5], "big") == len(verdict) - 5
        return type(sent).FromString(verdict[5:])


@pytest.fixture
def masked(tmp_path: Path) -> Masked:
    return Masked(tmp_path)


def test_each_kind_of_value_is_masked_in_its_way(tmp_path: Path) -> None:
    names = "[password, secret_bytes, ssn, balance, is_secret, grade, user, users, tokens, pins, labels, wrapped, value, list]"
    masked = Masked(tmp_path, f"fields: {names}")
    sent = masked.new(
        password="a", secret_bytes=b"a", ssn=1, balance=1.5, is_secret=True, grade=2, tokens=["a", "b"], pins=[1, 2]
    )
    sent.user.name = "a"
    sent.users.add().name = "a"
    sent.labels["a"] = "b"
    sent.wrapped.value = "a"
    sent.value.string_value = "a"
    sent.list.values.add().number_value = 5
    got = masked.of(sent)
    expected = masked.new(password="***", secret_bytes=b"***", tokens=["***", "***"], pins=[0, 0], users=[{}])
    expected.user.SetInParent()
    expected.wrapped.SetInParent()
    expected.value.string_value = "***"
    expected.list.SetInParent()
    assert got == expected


def test_what_holds_nothing_selected_goes_on_as_it_came(masked: Masked) -> None:
    sent = masked.new(labels={"x": "y"}, creditCard="", numbered={1: "a"})
    assert masked.raw(message(sent.SerializeToString())) is None
    assert masked.bench.policy._masked.value == 0


def test_what_was_masked_is_counted(masked: Masked) -> None:
    masked.of(masked.new(password="x"))
    assert masked.bench.policy._masked.value == 1


def place(sent: Any, where: str, secret: str) -> None:
    """Put a secret where it is to be masked."""
    user = nasty().message(nasty().types["nasty.v1.User"])
    match where:
        case "field":
            sent.password = secret
        case "bytes":
            sent.secret_bytes = secret.encode()
        case "nested":
            sent.user.friend.friends.add().by_name["x"].password = secret
        case "list":
            sent.users.add().password = secret
        case "map":
            sent.people["bob"].password = secret
        case "number map":
            sent.users.add().by_number[7].password = secret
        case "key":
            sent.labels["API-Key"] = secret
        case "key of bytes":
            sent.blobs["password"] = secret.encode()
        case "key of messages":
            sent.people["password"].name = secret
        case "oneof":
            sent.choice_password = secret
        case "path":
            sent.choice_user.name = secret
        case "any":
            sent.any.type_url = "type.example/nasty.v1.User"
            sent.any.value = user(password=secret).SerializeToString()
        case "anys":
            inner = nasty().message(nasty().types["nasty.v1.Everything"])()
            inner.any.type_url = "x/nasty.v1.User"
            inner.any.value = user(friend=user(password=secret)).SerializeToString()
            sent.anys.add(type_url="x/nasty.v1.Everything", value=inner.SerializeToString())
        case "unknown any":
            sent.any.type_url = "x/unknown.Type"
            sent.any.value = secret.encode()
        case "struct":
            sent.struct.fields["password"].string_value = secret
        case "deep struct":
            item = sent.struct.fields["a"].list_value.values.add().struct_value.fields["b"].struct_value
            item.fields["apiKey"].list_value.values.add().string_value = secret
        case "struct in struct":
            sent.struct.fields["api_key"].struct_value.fields["x"].string_value = secret
        case "value":
            sent.value.struct_value.fields["x"].string_value = secret
        case "values":
            sent.values.add().struct_value.fields["password"].string_value = secret
        case "list value":
            sent.list.values.add().struct_value.fields["password"].string_value = secret
        case "wrapper":
            sent.wrapped.value = secret
        case "tokens":
            sent.tokens.append(secret)
        case "optional":
            sent.maybe = secret
        case _:
            raise AssertionError(where)


PLACES = (
    "field",
    "bytes",
    "nested",
    "list",
    "map",
    "number map",
    "key",
    "key of bytes",
    "key of messages",
    "oneof",
    "path",
    "any",
    "anys",
    "unknown any",
    "struct",
    "deep struct",
    "struct in struct",
    "value",
    "values",
    "list value",
    "wrapper",
    "tokens",
    "optional",
)


@pytest.fixture(scope="module")
def paths_too(tmp_path_factory: pytest.TempPathFactory) -> Masked:
    fields = "[password, choice_password, secret_bytes, api_key, choice_user.name, tokens, nasty.v1.Everything.wrapped, value, maybe]"
    return Masked(tmp_path_factory.mktemp("mask"), f"fields: {fields}")


@pytest.mark.parametrize("where", PLACES)
def test_a_secret_is_found_wherever_it_is(paths_too: Masked, where: str) -> None:
    sent = paths_too.new(creditCard="stays")
    place(sent, where, SECRET)
    assert SECRET.encode() in sent.SerializeToString()
    got = paths_too.of(sent)
    assert SECRET.encode() not in got.SerializeToString()
    assert got.creditCard == "stays"


@given(
    where=st.lists(st.sampled_from(PLACES), min_size=1, max_size=5),
    harmless=st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=4),
    number=st.integers(-(2**31), 2**31 - 1),
)
def test_masking_never_leaves_a_planted_secret(
    paths_too: Masked, where: list[str], harmless: dict[str, str], number: int
) -> None:
    sent = paths_too.new(unpacked=[number], ssn=number)
    for key, value in harmless.items():
        sent.labels[key] = value
        sent.struct.fields[key].string_value = value
    for each in where:
        place(sent, each, SECRET)
    got = paths_too.of(sent)
    assert SECRET.encode() not in got.SerializeToString()
    assert (list(got.unpacked), got.ssn) == ([number], number)
    assert set(got.labels) == set(sent.labels)
    # What has been masked once is not changed by being masked again.
    again = paths_too.of(got)
    assert again == got


@given(st.binary(max_size=200))
def test_any_bytes_are_masked_or_refused(paths_too: Masked, body: bytes) -> None:
    verdict = paths_too.raw(message(body))
    assert verdict is None or isinstance(verdict, bytes) or refused(verdict).reason is Reason.CANNOT_MASK


def test_what_was_overwritten_leaves_with_the_rest(paths_too: Masked) -> None:
    def one(**fields: Any) -> bytes:
        return bytes(paths_too.new(**fields).SerializeToString())

    # Of a oneof the last member counts; of a field, its last occurrence. The first one is in the bytes still.
    for body in (one(choice_password=SECRET) + one(choice_text="x"), one(password=SECRET) + b"\x0a\x00"):
        verdict = paths_too.raw(message(body))
        assert isinstance(verdict, bytes)
        assert SECRET.encode() not in verdict


def test_unknown_fields_are_kept_or_removed(tmp_path: Path) -> None:
    unknown = b"\x92\x3f\x05other"
    for option, kept in (("keep", True), ("remove", False)):
        masked = Masked(tmp_path, f"fields: [password], unknown_fields: {option}")
        body = masked.new(password="x").SerializeToString() + unknown
        verdict = masked.raw(message(body))
        assert (unknown in verdict) is kept
    assert masked.raw(message(masked.new(ssn=1).SerializeToString())) is None


def test_extensions_groups_required_fields_and_shut_enums(tmp_path: Path) -> None:
    masked = Masked(tmp_path, "fields: [id, secret, pin, shut, extra_secret, extra_list]", data=compiled(OLD))
    record = masked.new("old.v1.Record", id="a", secret="b", pin=1, shut=2)
    record.inner.secret = SECRET
    extensions = {each.name: each for each in masked.descriptors.extensions(record.DESCRIPTOR)}
    record.Extensions[extensions["extra_secret"]] = SECRET
    record.Extensions[extensions["more"]].secret = SECRET
    record.Extensions[extensions["extra_list"]].extend([SECRET, SECRET])
    got = masked.of(record, "/old.v1.Old/Get")
    assert SECRET.encode() not in got.SerializeToString()
    assert (got.id, got.secret, got.pin, got.shut, got.inner.secret) == ("***", "***", 0, 1, "***")
    assert list(got.Extensions[extensions["extra_list"]]) == ["***", "***"]


# ── compression ──


def test_a_compressed_message_is_masked_and_goes_on_uncompressed(masked: Masked) -> None:
    body = masked.new(password=SECRET, labels={"a": "b"}).SerializeToString()
    verdict = masked.raw(message(gzip.compress(body), 1), encoding=b"gzip")
    assert verdict[0] == 0
    assert type(masked.new()).FromString(verdict[5:]) == masked.new(password="***", labels={"a": "b"})


def test_a_compressed_message_without_secrets_goes_on_as_it_came(masked: Masked) -> None:
    body = masked.new(labels={"a": "b"}).SerializeToString()
    assert masked.raw(message(gzip.compress(body), 1), encoding=b"gzip") is None


@pytest.mark.parametrize(
    ("framed", "encoding", "why"),
    [
        (message(b"\xff"), None, "does not parse as nasty.v1.Everything"),
        (message(b"\x0a\x02\xff\xff"), None, "does not parse"),
        (message(b"x", 1), b"br", "'br'"),
        (message(b"x", 1), None, "'none'"),
        (message(b"no gzip", 1), b"gzip", "does not decompress"),
        (message(gzip.compress(bytes(5_000_000), mtime=0), 1), b"gzip", "more than 4194304 bytes"),
    ],
)
def test_what_cannot_be_masked_is_withheld(masked: Masked, framed: bytes, encoding: bytes | None, why: str) -> None:
    rejection = refused(masked.raw(framed, encoding=encoding))
    assert rejection.reason is Reason.CANNOT_MASK
    assert rejection.code is StatusCode.INTERNAL
    assert rejection.retry_after is None
    assert why in rejection.message


def test_an_any_that_does_not_parse_is_withheld(masked: Masked) -> None:
    sent = masked.new()
    sent.any.type_url, sent.any.value = "x/nasty.v1.User", b"\xff"
    assert refused(masked.raw(message(sent.SerializeToString()))).reason is Reason.CANNOT_MASK


def test_any_within_any_without_end_is_bounded(masked: Masked) -> None:
    sent = masked.new(password=SECRET)
    for _ in range(200):
        outer = masked.new()
        outer.any.type_url, outer.any.value = "x/nasty.v1.Everything", sent.SerializeToString()
        sent = outer
    verdict = masked.raw(message(sent.SerializeToString()))
    assert isinstance(verdict, bytes)
    assert SECRET.encode() not in verdict


def test_a_message_nested_beyond_reason_is_withheld(masked: Masked) -> None:
    body = b""
    for _ in range(500):
        body = masked.new().DESCRIPTOR and b"\x1a" + _varint(len(body)) + body
    assert refused(masked.raw(message(b"\x3a" + _varint(len(body)) + body))).reason is Reason.CANNOT_MASK


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


# ── methods, places, files ──


def test_a_method_that_is_not_described_is_refused_before_the_agent_hears_of_it(masked: Masked) -> None:
    rejection = refused(masked.bench.request(method="/other.v1.S/M"))
    assert rejection.reason is Reason.CANNOT_MASK
    assert masked.bench.forwarded == 0


def test_unless_that_is_allowed(tmp_path: Path) -> None:
    masked = Masked(tmp_path, "fields: [password], unknown_methods: allow")
    assert masked.raw(message(b"\xff"), "/other.v1.S/M") is None


def test_health_and_reflection_pass_without_being_described(masked: Masked) -> None:
    for path in ("/grpc.health.v1.Health/Check", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"):
        assert masked.raw(message(b"\xff"), path) is None


def test_where_answers_are_no_place_messages_are_not_taken_apart() -> None:
    bench = of(Mask, "{fields: [password], in: [logs, audit]}")
    assert not bench.plan.wants_messages
    assert bench.policy.fields_in("audit") == ("password",)
    assert bench.policy.fields_in("responses") == ()


def test_answers_need_descriptors() -> None:
    with pytest.raises(ValidationError, match="cannot be read without"):
        of(Mask, "{fields: [password]}")


@pytest.mark.parametrize("text", ["{fields: []}", "{fields: ['a b'], in: [logs]}", "{fields: [a], in: []}"])
def test_what_masks_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        of(Mask, text)


def test_a_missing_file_and_a_wrong_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"descriptors: .*set.binpb cannot be read: No such file"):
        of(Mask, "{descriptors: set.binpb, fields: [a]}", directory=tmp_path)
    (tmp_path / "set.binpb").write_text("syntax")
    with pytest.raises(ValueError, match=r"descriptors: .*set.binpb is no descriptor set; make one with"):
        of(Mask, "{descriptors: set.binpb, fields: [a]}", directory=tmp_path)


def test_a_changed_file_is_taken_and_a_wrong_one_is_not(tmp_path: Path) -> None:
    masked = Masked(tmp_path, "fields: [ssn, password]")
    policy, file = masked.bench.policy, tmp_path / "set.binpb"
    assert policy.files == (file,)
    assert policy.reload() is False
    file.write_bytes(compiled(NASTY.replace("int64 ssn = 3;", "int64 ssn = 3; string fresh_password = 99;")))
    assert policy.reload() is True
    assert masked.of(masked.new(password="x")).password == "***"
    for wrong, what in (
        (b"\xff", "no descriptor set"),
        (compiled('syntax="proto3"; message A { string b = 1; }'), "ssn"),
    ):
        file.write_bytes(wrong)
        with pytest.raises(ValueError, match=what):
            policy.reload()
        assert masked.of(masked.new(password="x")).password == "***"


def test_two_routes_read_a_file_once(tmp_path: Path) -> None:
    masked = Masked(tmp_path)
    policy = masked.bench.policy
    other = type(policy)(policy._config, masked.bench.runtime)
    assert other._fields.view.descriptors is policy._fields.view.descriptors


def test_without_descriptors_of_the_agent_calls_may_come_back() -> None:
    bench = of(Mask, "{descriptors: reflection, fields: [password]}")
    rejection = refused(bench.request(method=UNARY))
    assert rejection.reason is Reason.AGENT_NOT_READY
    assert rejection.retry_after == 1.0
    assert bench.forwarded == 0
    assert refused(bench.policy.on_response_message(bench.last, message(b""))).reason is Reason.CANNOT_MASK
    assert bench.request(method="/grpc.health.v1.Health/Check") is None


def test_the_agents_own_messages(tmp_path: Path) -> None:
    masked = Masked(tmp_path, "fields: [password, credit_card, ssn, api_key]", data=agent_set())
    sent = masked.new("agent.v1.ExecuteResponse")
    sent.result.output.fields["user"].struct_value.fields["creditCard"].string_value = SECRET
    sent.result.agent = "data"
    got = masked.of(sent, "/agent.v1.AgentService/Execute")
    assert got.result.output.fields["user"].struct_value.fields["creditCard"].string_value == "***"
    assert got.result.agent == "data"
