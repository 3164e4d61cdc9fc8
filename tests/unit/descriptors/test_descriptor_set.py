"""Descriptor sets: methods and types of each, and clear words for what is no set."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from sidecar.descriptors.descriptor_set import Descriptors, parse_set, well_known
from tests.support.descriptors import NASTY, OLD, agent_set, compiled, nasty


def files(data: bytes) -> list[FileDescriptorProto]:
    return list(FileDescriptorSet.FromString(data).file)


def test_methods_have_types_and_kinds() -> None:
    found = parse_set(agent_set())
    kinds = {path.rpartition("/")[2]: method.kind for path, method in found.methods.items()}
    assert kinds.items() >= {
        "Execute": "unary",
        "ExecuteStream": "server_stream",
        "Ingest": "client_stream",
        "Converse": "bidi_stream",
        "Describe": "unary",
    }.items()
    execute = found.method("/agent.v1.AgentService/Execute")
    assert execute is not None
    assert execute.request.full_name == "agent.v1.ExecuteRequest"
    assert execute.response.full_name == "agent.v1.ExecuteResponse"
    assert found.method("/agent.v1.AgentService/execute") is None


def test_nested_types_and_what_is_imported_are_known() -> None:
    types = nasty().types
    assert {"nasty.v1.Everything", "google.protobuf.Struct", "google.protobuf.Any"} <= set(types)


def test_files_may_come_in_any_order() -> None:
    found = Descriptors(reversed(files(compiled(NASTY))))
    assert "/nasty.v1.Nasty/Unary" in found.methods


def test_protobufs_own_files_need_not_be_in_the_set() -> None:
    found = parse_set(compiled(NASTY, imports=False))
    assert "google.protobuf.Struct" in found.types


def test_another_missing_import_is_named() -> None:
    file = FileDescriptorProto(name="a.proto", dependency=["shared/b.proto"])
    with pytest.raises(ValueError, match=r"lacks shared/b.proto, which a.proto imports; .*--include_imports"):
        parse_set(FileDescriptorSet(file=[file]).SerializeToString())


def test_a_circle_of_imports_is_refused() -> None:
    circle = [FileDescriptorProto(name=f"{each}.proto", dependency=[f"{other}.proto"]) for each, other in ("ab", "ba")]
    with pytest.raises(ValueError, match="imports itself"):
        Descriptors(circle)


def test_a_long_chain_of_imports_is_no_recursion() -> None:
    names = [f"{i}.proto" for i in range(3000)]
    chain = [FileDescriptorProto(name=each, dependency=[after]) for each, after in zip(names, names[1:], strict=False)]
    assert not Descriptors([*chain, FileDescriptorProto(name=names[-1])]).methods


def test_a_type_that_is_missing_is_a_contradiction() -> None:
    file = FileDescriptorProto(name="a.proto")
    file.message_type.add(name="A").field.add(name="b", number=1, type=11, type_name=".B", label=1)
    with pytest.raises(ValueError, match=r"a.proto contradicts itself"):
        Descriptors([file])


@pytest.mark.parametrize(("data", "what"), [(b"\xff\xff", "no descriptor set"), (b"", "without files")])
def test_what_is_no_set_is_told_with_how_to_make_one(data: bytes, what: str) -> None:
    with pytest.raises(ValueError, match=f"{what}; make one with protoc"):
        parse_set(data)


def test_two_sets_may_contradict_each_other() -> None:
    one = parse_set(compiled('syntax="proto3"; package x; message M { string a = 1; }'))
    other = parse_set(compiled('syntax="proto3"; package x; message M { int32 b = 1; }'))
    assert [field.name for field in one.types["x.M"].fields] == ["a"]
    assert [field.name for field in other.types["x.M"].fields] == ["b"]


def test_extensions_are_fields_of_what_they_extend() -> None:
    found = parse_set(compiled(OLD))
    names = {each.name for each in found.extensions(found.types["old.v1.Record"])}
    assert names == {"extra_secret", "more", "extra_list"}
    assert found.extensions(found.types["old.v1.More"]) == []


def test_only_protobufs_own_files_are_well_known() -> None:
    assert well_known("google/protobuf/../os.proto") is None
    assert well_known("google/protobuf/internal.proto") is None
    any_file = well_known("google/protobuf/any.proto")
    assert any_file is not None
    assert any_file.package == "google.protobuf"
