"""Server reflection of the admin service, under both of its names.

grpcio-reflection serves `grpc.reflection.v1alpha` only, while clients ask for `v1` first. The messages of the two are the same on
the wire, so one servicer answers both; `v1` gets a file descriptor of its own, made from that of `v1alpha`. A sidecar and an agent
server share no code, so this stands on both sides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection, reflection_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"
V1 = "grpc.reflection.v1.ServerReflection"

_V1_FILE = "grpc/reflection/v1/reflection.proto"


def add_reflection(services: Iterable[str], server: grpc.aio.Server) -> None:
    """Answer reflection for these services, and for itself."""
    describe_v1(descriptor_pool.Default())
    servicer = reflection.aio.ReflectionServicer((*services, V1ALPHA, V1))  # type: ignore[attr-defined]
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        tuple(grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method}) for name in (V1ALPHA, V1))
    )


def describe_v1(pool: descriptor_pool.DescriptorPool) -> None:
    """Put the description of `grpc.reflection.v1` into the pool, unless it is there."""
    try:
        pool.FindFileByName(_V1_FILE)
    except KeyError:
        file = descriptor_pb2.FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(file)
        file.name = _V1_FILE
        file.package = "grpc.reflection.v1"
        file.ClearField("options")
        for message in file.message_type:
            for field in message.field:
                if field.type_name:
                    field.type_name = field.type_name.replace(".grpc.reflection.v1alpha.", ".grpc.reflection.v1.")
        for service in file.service:
            for method in service.method:
                method.input_type = method.input_type.replace(".v1alpha.", ".v1.")
                method.output_type = method.output_type.replace(".v1alpha.", ".v1.")
        pool.AddSerializedFile(file.SerializeToString())
