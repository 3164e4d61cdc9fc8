"""The policy: which RPCs are copied, when the copy leaves, and what is made of its answer.

The copy leaves when the caller has had its answer: whatever the other cluster does, nobody waits for it, and nothing of it is counted
against its endpoints. An RPC with an idempotency key is never copied: it is to be executed once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from sidecar.config.model import Model
from sidecar.config.units import Duration, FilePath, MethodPattern, Name, Percent, Size, duration_between, size_between
from sidecar.descriptors.descriptor_set import decode_error
from sidecar.descriptors.source import DescriptorsFrom, Fields
from sidecar.grpc_wire import timeout as grpc_timeout
from sidecar.grpc_wire.compression import CorruptMessage, UnknownEncoding, unpack
from sidecar.grpc_wire.messages import MalformedMessage, MessageReader, MessageTooLarge, frame
from sidecar.http2.hpack import encode_field
from sidecar.policies.mirror.differences import differing
from sidecar.policies.mirror.rpc import AnswerSeen, MirroredRpc
from sidecar.policies.mirror.samples import Samples
from sidecar.proxy.policy import Origin, Policy
from sidecar.proxy.rejection import Rejection
from sidecar.proxy.selectors import compile_pattern
from sidecar.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from sidecar.http2.hpack import Field as HeaderField
    from sidecar.proxy.call import Call
    from sidecar.proxy.plan import Cluster
    from sidecar.proxy.policy import Outcome, Verdict
    from sidecar.runtime import Runtime

_KEY = b"idempotency-key"
_MARK = encode_field(b"x-sidecar-mirrored", b"true")[2]


class SamplesConfig(Model):
    """Some of the differences, to look at: what differed, never the values."""

    file: FilePath = Field(description="one JSON object a line")
    per_minute: int = Field(default=60, ge=1, le=10_000, description="at most; the rest is counted only")
    max_size: Annotated[Size, size_between("64KiB", "1GiB")] = Field(
        default=16 * 1024 * 1024, description="then the file is begun anew, and the former one is FILE.1"
    )


class MirrorConfig(Model):
    """A copy of a share of the RPCs for another cluster; its answers are compared and dropped."""

    to: Name = Field(description="the cluster that gets the copies")
    percent: Percent = Field(description="share of the RPCs")
    methods: tuple[MethodPattern, ...] = Field(
        default=("/*",), min_length=1, description="only these: a copy is executed as well, so name what only reads"
    )
    timeout: Annotated[Duration, duration_between("10ms", "1h")] = Field(default=30.0, description="of a copy")
    max_in_flight: int = Field(default=100, ge=1, le=100_000, description="copies that run; more are left out")
    max_request: Annotated[Size, size_between("1KiB", "64MiB")] = Field(
        default=256 * 1024, description="larger requests are not copied"
    )
    max_answer: Annotated[Size, size_between("1KiB", "64MiB")] = Field(
        default=256 * 1024, description="of larger answers only status and size are compared"
    )
    descriptors: DescriptorsFrom | None = Field(
        default=None, description="to compare field by field: a descriptor set, or reflection; absent = by size"
    )
    ignore: tuple[str, ...] = Field(
        default=(), description="fields that may differ: a name anywhere, or a path from the message"
    )
    samples: SamplesConfig | None = Field(default=None, description="where some of the differences are noted")

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.ignore and self.descriptors is None:
            yield "ignore", "names fields, which are compared by descriptors; name them, or leave ignore out"


class _Copied:
    """What is kept of a call that is to be copied."""

    __slots__ = ("answer", "request", "size")

    def __init__(self) -> None:
        # None: too large to be copied.
        self.request: list[bytes] | None = []
        self.size = 0
        self.answer = AnswerSeen()


class _Running:
    """Copies that are under way, over reloads."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Mirror(Policy[MirrorConfig]):
    """Draws who is copied, keeps their messages, and sends the copy when the call has ended."""

    name = "mirror"
    config_model = MirrorConfig

    def __init__(self, config: MirrorConfig, runtime: Runtime) -> None:
        """Raises ValueError when the descriptors cannot be read."""
        self._config = config
        self._runtime = runtime
        self._random = runtime.random
        self._share = config.percent / 100
        self._methods = tuple(compile_pattern(each) for each in config.methods)
        self._chosen: dict[str, bool] = {}
        self._to: Cluster | None = None
        self._fields: Fields[bool] | None = None
        if config.descriptors is not None:
            self._fields = Fields(config.descriptors, {}, runtime, side="response", rooted=False)
        self._ignored = frozenset(config.ignore)
        self._running = runtime.keep(("mirror", runtime.listener, runtime.route), _Running)
        labels = {"listener": runtime.listener, "route": runtime.route}
        self._outcomes = {each: runtime.metrics.counter(names.MIRRORED, outcome=each, **labels) for each in _OUTCOMES}
        self._differences = {
            each: runtime.metrics.counter(names.MIRROR_DIFFERENCES, kind=each, **labels)
            for each in ("status", "size", "fields")
        }
        self._samples: Samples | None = None
        if config.samples is not None:
            self._samples = self._sampled(config.samples)

    def _sampled(self, config: SamplesConfig) -> Samples:
        runtime = self._runtime

        def make() -> Samples:
            made = Samples(config.file, config.per_minute, config.max_size, runtime.clock, runtime.log)
            runtime.closers.append(made.close)
            return made

        return runtime.keep(("mirror samples", config.model_dump_json()), make)

    @property
    def files(self) -> tuple[Path, ...]:
        return self._fields.files if self._fields is not None else ()

    def reload(self) -> bool:
        return self._fields is not None and self._fields.reload()

    def reach(self, clusters: Mapping[str, Cluster]) -> None:
        to = clusters.get(self._config.to)
        if to is None:
            raise ValueError(f"to: {self._config.to} is no cluster; known: {', '.join(sorted(clusters)) or 'none'}")
        self._to = to

    def begin(self, cluster: Cluster | None) -> None:
        if self._fields is not None:
            self._fields.begin(cluster)

    # ── the call ──

    def on_request(self, call: Call) -> Verdict:
        if self._random.random() >= self._share or call.peek or not self._is_chosen(call.path):
            return None
        if _is_keyed(call):
            self._outcomes["keyed"].inc()
            return None
        call.note(self.name, _Copied())
        return None

    def _is_chosen(self, path: str) -> bool:
        found = self._chosen.get(path)
        if found is None:
            if len(self._chosen) >= 4096:
                self._chosen.clear()
            found = self._chosen[path] = any(matches(path) for matches in self._methods)
        return found

    def on_request_message(self, call: Call, message: bytes) -> Verdict:
        copied = _copied(call)
        if copied is not None and copied.request is not None:
            copied.size += len(message)
            if copied.size > self._config.max_request:
                copied.request = None
            else:
                copied.request.append(message)
        return None

    def on_response_headers(self, call: Call, fields: list[HeaderField]) -> None:
        copied = _copied(call)
        if copied is not None:
            copied.answer.encoding = next((field[1] for field in fields if field[0] == b"grpc-encoding"), None)

    def on_response_message(self, call: Call, message: bytes) -> Verdict:
        copied = _copied(call)
        if copied is not None:
            copied.answer.add(message, self._config.max_answer)
        return None

    def on_end(self, call: Call, outcome: Outcome) -> None:
        copied = _copied(call)
        # What the agent has not answered cannot be compared; what the caller broke off need not be executed twice.
        if copied is None or outcome.origin is not Origin.AGENT or not call.sent:
            return
        if _is_keyed(call):
            # By fields of its message, as is known by now.
            self._outcomes["keyed"].inc()
            return
        copied.answer.code = outcome.code
        copied.answer.message = outcome.message
        self._outcomes[self._send(call, copied)].inc()

    # ── the copy ──

    def _send(self, call: Call, copied: _Copied) -> str:
        """What became of it at once: sent, or why not."""
        if copied.request is None:
            return "too_large"
        if self._running.count >= self._config.max_in_flight:
            return "busy"
        endpoint = self._to.pick(call) if self._to is not None else None
        if endpoint is None or isinstance(endpoint, Rejection) or (connection := endpoint.connection()) is None:
            return "unreachable"
        block = call.block if call.changed is None else b"".join([field[2] for field in call.changed])
        timeout = encode_field(b"grpc-timeout", grpc_timeout.encode(self._config.timeout))[2]
        path, request_id = call.path, call.request_id_text
        rpc = MirroredRpc(self._config.max_answer, lambda answer: self._ended(path, request_id, copied.answer, answer))
        connection.open(rpc)
        self._running.count += 1
        rpc.watch(self._runtime.clock.call_later(self._config.timeout, rpc.expire))
        rpc.send_headers(block + call.peer.to_agent + timeout + _MARK)
        rpc.send_data(b"".join(copied.request), True)
        return "sent"

    def _ended(self, path: str, request_id: str, ours: AnswerSeen, theirs: AnswerSeen) -> None:
        self._running.count -= 1
        if theirs.code is None:
            self._outcomes["no_answer"].inc()
            return
        fields = self._compare(path, ours, theirs)
        kinds = []
        if ours.code is not theirs.code:
            kinds.append("status")
        if ours.size != theirs.size:
            kinds.append("size")
        if fields:
            kinds.append("fields")
        for kind in kinds:
            self._differences[kind].inc()
        # Where fields could be compared they decide: sizes may differ by what is to be ignored.
        differs = "status" in kinds or (bool(fields) if fields is not None else "size" in kinds)
        self._outcomes["different" if differs else "same"].inc()
        if differs and self._samples is not None:
            self._samples.take(
                {
                    "time": self._runtime.clock.wall(),
                    "route": self._runtime.route,
                    "to": self._config.to,
                    "method": path,
                    "request_id": request_id,
                    "differs": kinds,
                    "status": [None if each.code is None else each.code.name for each in (ours, theirs)],
                    "bytes": [ours.size, theirs.size],
                    "fields": fields,
                }
            )

    def _compare(self, path: str, ours: AnswerSeen, theirs: AnswerSeen) -> list[str] | None:
        """Paths of fields that differ; None = nobody can tell."""
        view = None if self._fields is None else self._fields.view
        found = None if view is None else view.type(path)
        if found is None or ours.messages is None or theirs.messages is None:
            return None
        limit = self._config.max_answer
        try:
            one, other = ([found.read(each) for each in _bodies(answer, limit)] for answer in (ours, theirs))
        except (UnknownEncoding, CorruptMessage, MessageTooLarge, MalformedMessage, RecursionError):
            return None
        except decode_error():
            return None
        if len(one) != len(other):
            return ["(number of messages)"]
        return sorted({each for pair in zip(one, other, strict=True) for each in differing(*pair, self._ignored)})


_OUTCOMES = ("sent", "same", "different", "no_answer", "keyed", "busy", "unreachable", "too_large")


def _bodies(answer: AnswerSeen, limit: int) -> list[bytes]:
    """The messages, decompressed. Raises what cannot be read."""
    found: list[Any] = MessageReader(limit).feed(bytes(answer.messages or b""))
    return [unpack(frame(body, compressed=bool(flags)), answer.encoding, limit) for flags, body in found]


def _copied(call: Call) -> _Copied | None:
    notes = call.notes
    return None if notes is None else notes.get(Mirror.name)


def _is_keyed(call: Call) -> bool:
    return call.metadata(_KEY) is not None or (call.notes is not None and "idempotency" in call.notes)
