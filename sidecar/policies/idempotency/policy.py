"""The policy: which calls are keyed, what is recorded of them, and what a caller is told."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from sidecar.config.model import Model
from sidecar.config.units import Duration, Size, size_between
from sidecar.descriptors.selection import parse_selector
from sidecar.descriptors.source import DescriptorsFrom
from sidecar.descriptors.values import FieldValues
from sidecar.grpc_wire.status import StatusCode, parse_status
from sidecar.http2.hpack import encode_field
from sidecar.policies.idempotency.executions import KEPT, Claim, Executions, Taken, Terms
from sidecar.policies.idempotency.record import Execution, State
from sidecar.proxy.policy import Answer, Policy
from sidecar.proxy.rejection import Reason, Rejection
from sidecar.store.gcra import digest
from sidecar.store.interface import StoreUnavailable
from sidecar.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from pathlib import Path

    from sidecar.http2.hpack import Field as HeaderField
    from sidecar.proxy.call import Call
    from sidecar.proxy.plan import Cluster
    from sidecar.proxy.policy import Outcome, Verdict
    from sidecar.runtime import Runtime

PREFIX = "idempotency:"
_KEY = b"idempotency-key"
_LONGEST_KEY = 255
_TOKEN = b"x-sidecar-fencing-token"
_REPLAYED = encode_field(b"idempotency-replayed", b"true")
_RETRY_STORE = 1.0
_RETRY_RUNNING = 1.0
_ENCODING = b"grpc-encoding"

# What the agent says when it has not done it: another execution is right (behaviour, "Idempotency" 4).
_NOT_DONE = frozenset({StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED, StatusCode.ABORTED})
# What may have been done, or not.
_UNKNOWN = frozenset({StatusCode.CANCELLED, StatusCode.DEADLINE_EXCEEDED, StatusCode.UNKNOWN, StatusCode.INTERNAL})
# Each answer has its own, or they are of the frame that carried it.
_NOT_KEPT = frozenset({b":status", b"content-type", b"x-request-id"})


def _name(text: str) -> str:
    if (
        not text.isascii()
        or text != text.lower()
        or not text.replace("-", "").replace("_", "").replace(".", "").isalnum()
    ):
        raise ValueError("is no metadata name; write it in lower case: idempotency-key")
    if text.endswith("-bin") or text.startswith("grpc-"):
        raise ValueError("cannot hold a key; keys are text, and grpc-… is reserved")
    return text


class KeyConfig(Model):
    """What the key of an RPC is: a metadata value of the caller, or fields of its (first) message."""

    metadata: Annotated[str, AfterValidator(_name)] | None = Field(
        default=None, description="name; default: idempotency-key"
    )
    fields: tuple[Annotated[str, AfterValidator(parse_selector)], ...] | None = Field(
        default=None,
        min_length=1,
        description="fields of the request that say what is to be done once; needs descriptors",
    )
    descriptors: DescriptorsFrom | None = Field(
        default=None, description="a descriptor set file (.binpb), or reflection: ask the agent; for fields"
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.metadata is not None and self.fields is not None:
            yield "fields", "and metadata exclude each other; the key comes from one of them"
        if self.fields is not None and self.descriptors is None:
            yield "fields", "are found by descriptors; name a descriptor set in descriptors, or say reflection"
        if self.fields is None and self.descriptors is not None:
            yield "descriptors", "are for fields alone; leave them out"


class IdempotencyConfig(Model):
    """RPCs with a key are executed once; who repeats them gets the recorded answer. Needs `store`."""

    key: KeyConfig = Field(default_factory=KeyConfig, description="where the key comes from")
    required: bool = Field(default=False, description="refuse RPCs without a key")
    ttl: Duration = Field(
        default=3600.0, gt=0, le=30 * 86_400, description="how long an answer is kept, from its completion"
    )
    lease: Duration = Field(
        default=60.0, ge=1, le=3600, description="an execution whose sidecar is silent for so long counts as lost"
    )
    duplicate_in_progress: Literal["join", "reject"] = Field(
        default="join", description="the key is being executed: join = wait for that answer, reject = KEY_IN_PROGRESS"
    )
    unknown_outcome: Literal["refuse", "re_execute"] = Field(
        default="refuse", description="nobody knows what became of the last execution: refuse, or execute once more"
    )
    max_recorded: Annotated[Size, size_between("1KiB", "64MiB")] = Field(
        default=1024 * 1024, description="larger answers are passed on, and cannot be given again"
    )
    max_request: Annotated[Size, size_between("1KiB", "256MiB")] = Field(
        default=16 * 1024 * 1024, description="messages of a keyed request, which are held until it is complete"
    )


class Keyed:
    """What is known of a keyed call. `outcome` is for the audit log."""

    __slots__ = ("claim", "headers", "kept", "key", "messages", "outcome", "print", "settled", "size")

    def __init__(self, key: str) -> None:
        self.key = key
        self.print = hashlib.sha256()
        self.size = 0
        self.claim: Claim | None = None
        self.settled = False
        self.headers: list[HeaderField] = []
        self.messages: list[bytes] | None = []
        self.kept = 0
        self.outcome = "refused"


class Idempotency(Policy[IdempotencyConfig]):
    """Claims the key when the request is complete, records what the agent answers, and answers repetitions."""

    name = "idempotency"
    config_model = IdempotencyConfig

    def __init__(self, config: IdempotencyConfig, runtime: Runtime) -> None:
        """Raises ValueError when there is no store, or a field is in no request."""
        if runtime.store is None:
            raise ValueError("needs a store; configure store.url")
        self._runtime = runtime
        self._config = config
        self._name = (config.key.metadata or _KEY.decode()).encode()
        self._fields: FieldValues | None = None
        if config.key.fields is not None and config.key.descriptors is not None:
            self._fields = FieldValues(config.key.descriptors, config.key.fields, runtime)
        store, sealing = runtime.store, runtime.sealing
        self._executions = runtime.keep(("idempotency",), lambda: Executions(store, sealing, runtime))
        self._terms = Terms(
            lease=config.lease,
            ttl=config.ttl,
            joins=config.duplicate_in_progress == "join",
            repeats_unknown=config.unknown_outcome == "re_execute",
        )
        labels = {"listener": runtime.listener, "route": runtime.route}
        self._outcomes = {
            outcome: runtime.metrics.counter(names.IDEMPOTENCY, outcome=outcome, **labels) for outcome in _OUTCOMES
        }

    @property
    def files(self) -> tuple[Path, ...]:
        return self._fields.files if self._fields is not None else ()

    def reload(self) -> bool:
        return self._fields is not None and self._fields.reload()

    def begin(self, cluster: Cluster | None) -> None:
        if self._fields is not None:
            self._fields.begin(cluster)

    # ── the request ──

    def on_request(self, call: Call) -> Verdict:
        if call.peek:
            return None
        if self._fields is not None:
            # Whether it has a key is known when its message is here.
            call.is_late = True
            call.note(self.name, Keyed(""))
            return None
        values = [value for value in call.metadata_values(self._name) if value]
        if not values:
            return self._keyless() if self._config.required else None
        if len(values) > 1 or len(values[0]) > _LONGEST_KEY or not all(0x21 <= each <= 0x7E for each in values[0]):
            self._count("malformed")
            return Reason.KEY_MALFORMED.reject(
                f"{self._name.decode()} must be one value of 1 to {_LONGEST_KEY} visible ASCII characters",
                metadata=self._name.decode(),
            )
        call.is_late = True
        call.note(self.name, Keyed(_record_key(call, values[0])))
        return None

    def on_request_message(self, call: Call, message: bytes) -> Verdict:
        keyed = _keyed(call)
        if keyed is None:
            return None
        keyed.size += len(message)
        keyed.print.update(message)
        limit = self._config.max_request
        if keyed.size > limit:
            self._count("too_large")
            return Reason.MESSAGE_TOO_LARGE.reject(
                f"a keyed request is held until it is complete; route {call.route} holds {limit} bytes",
                direction="request",
                limit=limit,
            )
        if self._fields is not None and keyed.size == len(message):
            return self._find_key(call, keyed, message)
        return None

    def on_request_end(self, call: Call) -> Verdict:
        keyed = _keyed(call)
        if keyed is None:
            return None
        if not keyed.key:
            if call.notes is not None:
                del call.notes[self.name]
            return self._keyless() if self._config.required else None
        return self._enter(call, keyed)

    def _find_key(self, call: Call, keyed: Keyed, message: bytes) -> Rejection | None:
        assert self._fields is not None
        try:
            found = self._fields.read(call.path, message, call.metadata(_ENCODING), call.plan.max_message)
        except (ValueError, RecursionError) as error:
            self._count("malformed")
            return Reason.KEY_MALFORMED.reject(f"the key cannot be read from the message: {error}")
        if found is not None:
            keyed.key = _record_key(call, found)
        return None

    def _keyless(self) -> Rejection:
        self._count("required")
        where = f"metadata {self._name.decode()}" if self._fields is None else "fields of the message"
        return Reason.KEY_REQUIRED.reject(f"this method is executed for RPCs with an idempotency key alone ({where})")

    async def _enter(self, call: Call, keyed: Keyed) -> Rejection | Answer | None:
        joined: list[bool] = []
        executions = self._executions
        wanted = Execution(
            State.RUNNING,
            1,
            executions.owner,
            keyed.print.hexdigest(),
            call.path,
            call.identity or "",
            self._runtime.clock.wall(),
            self._terms.lease,
        )
        try:
            found = await executions.enter(keyed.key, wanted, self._terms, joined)
        except Taken as taken:
            return self._refuse(call, keyed, taken)
        except (StoreUnavailable, TimeoutError) as error:
            return self._store_lost(keyed, error)
        if isinstance(found, Execution):
            return self._replay(keyed, found, is_joined=bool(joined))
        assert found.execution is not None
        keyed.claim = found
        call.outlives = True
        call.set_metadata(_TOKEN, b"%d" % found.execution.token)
        return None

    # ── the answer ──

    def on_response_headers(self, call: Call, fields: list[HeaderField]) -> None:
        keyed = _keyed(call)
        if keyed is not None and keyed.claim is not None:
            keyed.headers = [field for field in fields if field[0] != b"x-request-id"]

    def on_response_message(self, call: Call, message: bytes) -> Verdict:
        keyed = _keyed(call)
        if keyed is not None and keyed.claim is not None and keyed.messages is not None:
            keyed.kept += len(message)
            if keyed.kept > self._config.max_recorded:
                keyed.messages = None
            else:
                keyed.messages.append(message)
        return None

    def on_trailers(self, call: Call, fields: list[HeaderField]) -> Verdict:
        keyed = _keyed(call)
        if keyed is None or keyed.claim is None or keyed.settled:
            return None
        return self._record(call, keyed, keyed.claim, fields)

    def _record(
        self, call: Call, keyed: Keyed, claim: Claim, fields: list[HeaderField]
    ) -> Coroutine[Any, Any, Rejection | None]:
        """What the agent said is recorded before the caller hears it."""
        assert claim.execution is not None
        text = next((field[1] for field in reversed(fields) if field[0] == b"grpc-status"), b"")
        code = parse_status(text)
        now = self._runtime.clock.wall()
        if code in _NOT_DONE:
            keyed.outcome = "released"
            execution = claim.execution.become(State.RELEASED, now)
        elif code in _UNKNOWN:
            keyed.outcome = "unknown"
            execution = claim.execution.become(State.UNKNOWN, now)
        else:
            keyed.outcome = "executed"
            execution = claim.execution.become(
                State.DONE,
                now,
                code=int(code),
                headers=tuple((field[0], field[1]) for field in keyed.headers),
                trailers=tuple((field[0], field[1]) for field in fields if field[0] not in _NOT_KEPT),
                messages=None if keyed.messages is None else b"".join(keyed.messages),
            )
        return self._settle(keyed, claim, execution)

    async def _settle(self, keyed: Keyed, claim: Claim, execution: Execution) -> Rejection | None:
        keyed.settled = True
        keep = self._terms.ttl if execution.state is State.DONE else KEPT
        self._count(keyed.outcome)
        try:
            recorded = await self._executions.settle(claim, execution, keep)
        except StoreUnavailable as error:
            # It happened, and cannot be proved yet; whoever asks again while we try joins us.
            self._store_lost(keyed, error)
            return Reason.STORE_UNAVAILABLE.reject(
                "the RPC was executed, and its answer cannot be recorded now; ask again with the same key",
                retry_after=_RETRY_STORE,
            )
        if recorded or execution.state is not State.DONE:
            return None
        return Reason.OUTCOME_UNKNOWN.reject(
            "the execution ended after its key had been taken over or settled by hand", method=execution.method
        )

    def on_end(self, call: Call, outcome: Outcome) -> None:
        keyed = _keyed(call)
        if keyed is None or keyed.claim is None or keyed.settled:
            return
        claim = keyed.claim
        assert claim.execution is not None
        keyed.settled = True
        # No answer of the agent. What has not left for it has not happened.
        keyed.outcome = "unknown" if call.sent else "released"
        state = State.UNKNOWN if call.sent else State.RELEASED
        self._count(keyed.outcome)
        self._executions.settle_later(claim, claim.execution.become(state, self._runtime.clock.wall()), KEPT)

    # ── what callers are told ──

    def _replay(self, keyed: Keyed, done: Execution, *, is_joined: bool) -> Rejection | Answer:
        if done.messages is None:
            keyed.outcome = "not_replayable"
            self._count("not_replayable")
            why = f"settled by {done.settled_by}" if done.settled_by else "too large to be kept"
            return Reason.NOT_REPLAYABLE.reject(
                f"this key's RPC has been executed; its answer is not kept ({why})", method=done.method
            )
        keyed.outcome = "joined" if is_joined else "replayed"
        self._count(keyed.outcome)
        headers = [encode_field(name, value) for name, value in done.headers]
        trailers = [encode_field(name, value) for name, value in done.trailers]
        if headers or done.messages:
            headers.append(_REPLAYED)
        else:
            trailers.append(_REPLAYED)
        return Answer(headers, done.messages, trailers)

    def _refuse(self, call: Call, keyed: Keyed, taken: Taken) -> Rejection:
        held = taken.record
        keyed.outcome = taken.why.removeprefix("KEY_").removeprefix("OUTCOME_").lower()
        self._count(keyed.outcome)
        if taken.why == "KEY_REUSED":
            return Reason.KEY_REUSED.reject(
                "this key was used with another message; a key stands for one request", method=held.method
            )
        if taken.why == "KEY_IN_PROGRESS":
            return Reason.KEY_IN_PROGRESS.reject(
                "an RPC with this key is being executed", method=held.method, retry_after=_RETRY_RUNNING
            )
        record = keyed.key.removeprefix(PREFIX)
        return Reason.OUTCOME_UNKNOWN.reject(
            "nobody knows whether this key's RPC was executed; find out, then: "
            f"sidecar idempotency resolve {record} --executed | --not-executed",
            method=held.method,
            record=record,
        )

    def _store_lost(self, keyed: Keyed, error: Exception) -> Rejection:
        kind = error.kind if isinstance(error, StoreUnavailable) else "timeout"
        keyed.outcome = "store_unavailable"
        self._count("store_unavailable")
        self._runtime.log.warning("a keyed RPC cannot be decided", extra={"kind": kind, "cause": str(error)})
        return Reason.STORE_UNAVAILABLE.reject(
            "keyed RPCs cannot be recorded now, so none is executed", retry_after=_RETRY_STORE
        )

    def _count(self, outcome: str) -> None:
        self._outcomes[outcome].inc()


_OUTCOMES = (
    "executed",
    "replayed",
    "joined",
    "released",
    "unknown",
    "reused",
    "in_progress",
    "not_replayable",
    "malformed",
    "required",
    "too_large",
    "store_unavailable",
)


def _keyed(call: Call) -> Keyed | None:
    notes = call.notes
    return None if notes is None else notes.get(Idempotency.name)


def _record_key(call: Call, key: bytes) -> str:
    """Two callers, or two methods, never share a key; and nothing of what was sent stands in it."""
    return f"{PREFIX}{digest((call.identity, call.path, key)).hex()}"
