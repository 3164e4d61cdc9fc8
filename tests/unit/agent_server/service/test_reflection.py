"""The description of grpc.reflection.v1."""

from __future__ import annotations

from google.protobuf import descriptor_pool
from grpc_reflection.v1alpha import reflection_pb2

from agent_server.service.reflection import V1, describe_v1


def test_v1_is_described_like_v1alpha() -> None:
    pool = descriptor_pool.DescriptorPool()
    describe_v1(pool)
    service = pool.FindServiceByName(V1)
    method = service.methods_by_name["ServerReflectionInfo"]
    assert method.input_type.full_name == "grpc.reflection.v1.ServerReflectionRequest"
    assert (method.client_streaming, method.server_streaming) == (True, True)
    mine = {(field.name, field.number, field.type) for field in method.output_type.fields}
    theirs = {(f.name, f.number, f.type) for f in reflection_pb2.ServerReflectionResponse.DESCRIPTOR.fields}
    assert mine == theirs


def test_describing_twice_is_harmless() -> None:
    pool = descriptor_pool.DescriptorPool()
    describe_v1(pool)
    describe_v1(pool)
    assert pool.FindFileByName("grpc/reflection/v1/reflection.proto").package == "grpc.reflection.v1"
