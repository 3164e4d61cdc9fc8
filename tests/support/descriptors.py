"""Descriptor sets for tests: the agent's own, and one with everything that protobuf can do to a field."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

from grpc_tools import protoc

from sidecar.descriptors.descriptor_set import Descriptors, parse_set

ROOT = Path(__file__).resolve().parents[2]

NASTY = """
syntax = "proto3";
package nasty.v1;
import "google/protobuf/any.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/wrappers.proto";

enum Grade { GRADE_UNSPECIFIED = 0; GRADE_LOW = 1; GRADE_HIGH = 2; }

message User {
  string name = 1;
  string password = 2;
  User friend = 3;
  repeated User friends = 4;
  map<string, User> by_name = 5;
  map<int32, User> by_number = 6;
}

message Everything {
  string password = 1;
  bytes secret_bytes = 2;
  int64 ssn = 3;
  double balance = 4;
  bool is_secret = 5;
  Grade grade = 6;
  User user = 7;
  repeated User users = 8;
  repeated string tokens = 9;
  repeated int32 pins = 10;
  map<string, string> labels = 11;
  map<string, User> people = 12;
  map<string, bytes> blobs = 13;
  oneof choice { string choice_text = 14; User choice_user = 15; string choice_password = 16; }
  google.protobuf.Any any = 17;
  repeated google.protobuf.Any anys = 18;
  google.protobuf.Struct struct = 19;
  google.protobuf.Value value = 20;
  google.protobuf.ListValue list = 21;
  google.protobuf.StringValue wrapped = 22;
  optional string maybe = 23;
  optional int32 maybe_number = 24;
  string creditCard = 25;
  repeated int32 unpacked = 26 [packed = false];
  repeated Grade grades = 27;
  map<int32, string> numbered = 28;
  google.protobuf.DoubleValue wrapped_number = 29;
  repeated google.protobuf.Value values = 30;
  string from = 31;
}

message Plain { string text = 1; int32 number = 2; }
message Loop { Loop next = 1; string text = 2; }

service Nasty {
  rpc Unary(Everything) returns (Everything);
  rpc Stream(Everything) returns (stream Everything);
  rpc Upload(stream Everything) returns (Everything);
  rpc Chat(stream Everything) returns (stream Everything);
  rpc Plainly(Plain) returns (Plain);
  rpc Round(Loop) returns (Loop);
  rpc Oldly(nasty.v1.Plain) returns (nasty.v1.Plain);
}
"""
OLD = """
syntax = "proto2";
package old.v1;

enum Shut { SHUT_ONE = 1; SHUT_TWO = 2; }
message Record {
  required string id = 1;
  optional string secret = 2 [default = "none"];
  optional int32 pin = 3 [default = 7];
  optional Shut shut = 4;
  optional group Inner = 5 { optional string secret = 1; }
  extensions 100 to 199;
}
message More { optional string secret = 1; }
extend Record { optional string extra_secret = 100; optional More more = 101; repeated string extra_list = 102; }
service Old { rpc Get(Record) returns (Record); }
"""


@functools.cache
def compiled(text: str, name: str = "test.proto", *, imports: bool = True) -> bytes:
    """The descriptor set that protoc makes of one proto file."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_text(text)
        return _protoc(Path(folder), name, imports=imports)


@functools.cache
def agent_set() -> bytes:
    """The set of agent.v1."""
    return _protoc(ROOT / "protos", "agent/v1/agent.proto", imports=True)


def _protoc(folder: Path, name: str, *, imports: bool) -> bytes:
    well_known = Path(protoc.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as out:
        target = Path(out) / "set.binpb"
        arguments = ["protoc", f"-I{folder}", f"-I{well_known}", f"--descriptor_set_out={target}", name]
        if imports:
            arguments.insert(1, "--include_imports")
        assert protoc.main(arguments) == 0
        return target.read_bytes()


@functools.cache
def nasty() -> Descriptors:
    return parse_set(compiled(NASTY))


def new(descriptors: Descriptors, name: str, /, **fields: Any) -> Any:
    """A message of the type `name`."""
    return descriptors.message(descriptors.types[name])(**fields)
