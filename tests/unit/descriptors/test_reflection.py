"""Asking an agent for its descriptors: both versions, every way to fail, and again when it may be another one."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from sidecar.descriptors.reflection import Reflection
from sidecar.grpc_wire.messages import MessageReader
from sidecar.http2.errors import ErrorCode
from tests.support.clock import FakeClock
from tests.support.descriptors import NASTY, agent_set, compiled
from tests.support.wire import RESPONSE, ScriptedStream, Wire, block, client_connection, message, server_connection

OK = (("grpc-status", "0"),)
Answers = Callable[[ServerReflectionRequest], "ServerReflectionResponse | bytes"]


class Agent:
    """An agent with reflection in memory. `versions` are those it has; `questions` are what it was asked."""

    def __init__(self, data: bytes = b"", *, versions: tuple[str, ...] = ("v1",), one_by_one: bool = False) -> None:
        self.clock = FakeClock()
        self.files = {each.name: each for each in FileDescriptorSet.FromString(data or compiled(NASTY)).file}
        self.versions = versions
        self.one_by_one = one_by_one
        self.questions: list[str] = []
        self.paths: list[str] = []
        self.answer: Answers = self.answers
        self.on_event: Callable[[ScriptedStream, str], None] = self.behaves
        self.wires: list[Wire] = []
        self.reflection = Reflection("local", self.clock, random.Random(7), logging.getLogger("test"))
        self._readers: dict[int, MessageReader] = {}

    def connect(self) -> None:
        wire = Wire(
            client_connection(), server_connection(lambda _: ScriptedStream(self.on_event)), now=self.clock.monotonic
        )
        wire.start()
        self.wires.append(wire)

    @property
    def services(self) -> list[str]:
        return [f"{file.package}.{each.name}" for file in self.files.values() for each in file.service]

    def begin(self) -> None:
        self.reflection.begin(lambda: self.wires[-1].client if self.wires else None)
        self.advance(0)

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        for wire in self.wires:
            wire.run()

    def behaves(self, stream: ScriptedStream, event: str) -> None:
        if event == "headers":
            path = dict(stream.seen.headers)[b":path"].decode()
            self.paths.append(path)
            self._readers[id(stream)] = MessageReader(1 << 20)
            if path.split(".")[2] not in self.versions:
                stream.send_headers(block(*RESPONSE, ("grpc-status", "12")), True)
                return
            stream.send_headers(block(*RESPONSE))
        elif event == "data" and not stream.local_closed:
            messages = self._readers[id(stream)].feed(bytes(stream.seen.data))
            stream.seen.data.clear()
            for _, body in messages:
                question = ServerReflectionRequest.FromString(body)
                self.questions.append(question.WhichOneof("message_request") or "")
                answer = self.answer(question)
                stream.send_data(answer if isinstance(answer, bytes) else message(answer.SerializeToString()), False)
        elif event == "end" and not stream.local_closed:
            stream.send_trailers(block(*OK))

    def answers(self, question: ServerReflectionRequest) -> ServerReflectionResponse:
        answer = ServerReflectionResponse()
        kind = question.WhichOneof("message_request")
        if kind == "list_services":
            for each in self.services:
                answer.list_services_response.service.add(name=each)
            return answer
        if kind == "file_by_filename":
            found = [self.files[question.file_by_filename]]
        else:
            found = [
                file
                for file in self.files.values()
                if question.file_containing_symbol in {f"{file.package}.{each.name}" for each in file.service}
            ]
        if not found:
            answer.error_response.error_code = 5
        elif not self.one_by_one:
            found = list(self.files.values())
        answer.file_descriptor_response.file_descriptor_proto.extend(each.SerializeToString() for each in found)
        return answer


@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize("versions", [("v1",), ("v1alpha",), ("v1", "v1alpha")])
def test_the_agent_is_asked_in_the_version_it_has(versions: tuple[str, ...], one_by_one: bool) -> None:
    agent = Agent(versions=versions, one_by_one=one_by_one)
    agent.connect()
    agent.begin()
    found = agent.reflection.current
    assert found is not None
    assert "/nasty.v1.Nasty/Unary" in found.methods
    assert agent.paths[-1] == f"/grpc.reflection.{versions[0]}.ServerReflection/ServerReflectionInfo"
    assert agent.reflection.problem == ""
    assert not agent.wires[-1].client.streams


def test_what_is_imported_is_asked_for_by_name() -> None:
    agent = Agent(one_by_one=True)
    shared = agent.files["test.proto"].__class__(name="shared/a.proto", syntax="proto3")
    agent.files["shared/a.proto"] = shared
    agent.files["test.proto"].dependency.append("shared/a.proto")
    agent.connect()
    agent.begin()
    # protobuf's own files are not asked for.
    assert agent.questions == ["list_services", "file_containing_symbol", "file_by_filename"]
    assert agent.reflection.current is not None


def test_it_waits_for_a_connection() -> None:
    agent = Agent()
    agent.begin()
    agent.advance(1)
    assert agent.reflection.current is None
    agent.connect()
    agent.advance(1)
    assert agent.reflection.current is not None


def test_another_connection_is_asked_again_and_the_old_descriptors_stay_meanwhile() -> None:
    agent = Agent()
    agent.connect()
    agent.begin()
    first = agent.reflection.current
    agent.advance(60)
    assert agent.reflection.current is first
    assert agent.questions.count("list_services") == 1
    agent.files = {each.name: each for each in FileDescriptorSet.FromString(agent_set()).file}
    agent.connect()
    agent.advance(5)
    agent.advance(0)
    second = agent.reflection.current
    assert second is not None
    assert "/agent.v1.AgentService/Execute" in second.methods


def test_an_agent_without_reflection_is_asked_again_with_backoff() -> None:
    agent = Agent(versions=())
    agent.connect()
    agent.begin()
    assert agent.reflection.problem == "it has no reflection service"
    assert [path.split(".")[2] for path in agent.paths] == ["v1", "v1alpha"]
    agent.advance(120)
    asked = len(agent.paths)
    assert 4 < asked < 24
    agent.versions = ("v1",)
    agent.advance(40)
    agent.advance(0)
    assert agent.reflection.current is not None


def test_an_agent_that_says_nothing_is_given_up_and_asked_again() -> None:
    agent = Agent()
    agent.on_event = lambda stream, event: None
    agent.connect()
    agent.begin()
    agent.advance(10)
    assert agent.reflection.problem == "it did not answer in time"
    assert agent.reflection.current is None
    agent.connect()
    agent.on_event = agent.behaves
    agent.advance(2)
    agent.advance(0)
    assert agent.reflection.current is not None


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (message(b"\xff"), "its answer is no message of reflection"),
        (message(b"", 1), "its answer is compressed, which nobody asked for"),
        (b"\x07\x00\x00\x00\x00", "its answer cannot be read: a message with flag 7"),
        (b"\x00\xff\xff\xff\xff", "its answer cannot be read: a message of 4294967295 bytes"),
        (message(ServerReflectionResponse().SerializeToString()), "it describes no service"),
    ],
)
def test_an_answer_that_makes_no_sense_is_a_problem_and_no_more(answer: bytes, problem: str) -> None:
    agent = Agent()
    agent.answer = lambda _: answer
    agent.connect()
    agent.begin()
    assert agent.reflection.problem.startswith(problem)
    assert agent.reflection.current is None
    assert agent.wires[-1].client.is_open
    assert not agent.wires[-1].client.streams


def test_an_agent_that_describes_without_end_is_stopped() -> None:
    agent = Agent()

    def endless(question: ServerReflectionRequest) -> ServerReflectionResponse:
        answer = ServerReflectionResponse()
        for i in range(5000):
            answer.list_services_response.service.add(name=f"s.S{i}")
        return answer

    agent.answer = endless
    agent.connect()
    agent.begin()
    assert agent.reflection.problem == "it describes too much"


def test_files_that_do_not_fit_together_are_a_problem() -> None:
    agent = Agent()
    agent.files["test.proto"].message_type[0].field[0].type_name = ".no.Such"
    agent.files["test.proto"].message_type[0].field[0].type = 11
    agent.connect()
    agent.begin()
    assert agent.reflection.problem.startswith("what it described does not fit together: test.proto contradicts itself")


@pytest.mark.parametrize(
    ("ends", "problem"),
    [
        (
            lambda stream: stream.send_headers(block(*RESPONSE, ("grpc-status", "7")), True),
            "the stream ended with grpc-status 7",
        ),
        (lambda stream: stream.send_headers(block((":status", "404")), True), "the stream ended with grpc-status none"),
        (lambda stream: stream.send_headers(block((":status", "503"))), "it answered with HTTP status 503"),
        (lambda stream: stream.reset(ErrorCode.INTERNAL_ERROR), "the stream was reset, or its connection lost"),
    ],
)
def test_other_ends(ends: Any, problem: str) -> None:
    agent = Agent()
    agent.on_event = lambda stream, event: ends(stream) if event == "headers" else None
    agent.connect()
    agent.begin()
    assert agent.reflection.problem == problem
    assert not agent.wires[-1].client.streams


def test_a_lost_connection_is_a_problem_until_there_is_another() -> None:
    agent = Agent()
    agent.on_event = lambda stream, event: None
    agent.connect()
    agent.begin()
    agent.wires[-1].lose()
    assert "connection lost" in agent.reflection.problem
    agent.on_event = agent.behaves
    agent.connect()
    agent.advance(2)
    agent.advance(0)
    assert agent.reflection.current is not None


def test_nobody_asks_when_nobody_wants_to_know() -> None:
    agent = Agent()
    agent.begin()
    agent.connect()
    del agent.reflection
    agent.clock.advance(100)
    assert agent.paths == []
