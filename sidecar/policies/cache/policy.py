"""The policy: which calls may be answered from memory, what makes two of them the same, and what is kept.

A call waits until its request is complete, as its messages are part of its key. It is the same as another when both are for the same
method of the same route, by the same caller (identity, and `authorization`), with the same chosen metadata and the same bytes.
"""

from __future__ import annotations

import hashlib
import weakref
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from sidecar.clock import Turn
from sidecar.config.model import Model
from sidecar.config.units import Duration, MetadataName, MethodPattern, Size, duration_between, size_between
from sidecar.http2.hpack import encode_field
from sidecar.policies.cache.answers import Answers, Flight, Kept
from sidecar.proxy.policy import Answer, Policy
from sidecar.proxy.selectors import compile_pattern
from sidecar.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidecar.http2.hpack import Field as HeaderField
    from sidecar.proxy.call import Call
    from sidecar.proxy.policy import Outcome, Verdict
    from sidecar.runtime import Runtime

_CONTROL = b"cache-control"
_PATHS_KEPT = 4096
_LONGEST_WAIT = 86_400.0
# Two answers to the same question may differ by these.
_FORM = (b":authority", b"content-type", b"grpc-encoding", b"grpc-accept-encoding")
# Each answer has its own.
_NOT_KEPT = frozenset({b"x-request-id", b"date", b"age"})
_OUTCOMES = ("hit", "miss", "joined", "bypassed", "not_kept")


class CacheKeyConfig(Model):
    """What, beside method, caller and message, tells questions apart."""

    metadata: tuple[MetadataName, ...] = Field(default=(), description="metadata that answers depend on: x-tenant")


class InvalidationConfig(Model):
    """A write that makes kept answers wrong."""

    after: tuple[MethodPattern, ...] = Field(min_length=1, description="methods that write")
    forget: tuple[MethodPattern, ...] = Field(min_length=1, description="methods whose answers are forgotten then")


class CacheConfig(Model):
    """Answers of reads that may be given again: only OK, and not what either side marks no-store or no-cache."""

    methods: tuple[MethodPattern, ...] = Field(
        min_length=1, description="reads whose answers may be kept; name no other, they would not be executed"
    )
    ttl: Annotated[Duration, duration_between("1ms", "720h")] = Field(description="how long an answer is fresh")
    key: CacheKeyConfig = Field(default_factory=CacheKeyConfig, description="what tells questions apart")
    shared: bool = Field(default=False, description="true: all callers get each other's answers")
    max_entries: int = Field(default=1000, ge=1, le=10_000_000, description="answers at most; the longest unused goes")
    max_bytes: Annotated[Size, size_between("4KiB", "64GiB")] = Field(
        default=64 * 1024 * 1024, description="bytes of all answers at most"
    )
    max_answer: Annotated[Size, size_between("1KiB", "1GiB")] = Field(
        default=1024 * 1024, description="larger answers are passed on and not kept"
    )
    max_request: Annotated[Size, size_between("1KiB", "16MiB")] = Field(
        default=64 * 1024, description="larger requests are passed on as they come"
    )
    invalidate: tuple[InvalidationConfig, ...] = Field(default=(), description="writes that make answers wrong")

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.max_answer > self.max_bytes:
            yield "max_answer", "is more than max_bytes; such an answer could never be kept"


class _Asked:
    """What is known of a call whose answer may be kept. `outcome` is for observers."""

    __slots__ = (
        "answer_size",
        "flight",
        "headers",
        "is_fresh_wanted",
        "messages",
        "outcome",
        "print",
        "size",
        "trusts",
    )

    def __init__(self, *, is_fresh_wanted: bool) -> None:
        self.print = hashlib.blake2b(digest_size=16)
        self.size = 0
        # The caller wants no answer from before.
        self.is_fresh_wanted = is_fresh_wanted
        self.flight: Flight | None = None
        self.headers: list[HeaderField] = []
        self.messages: list[bytes] = []
        self.answer_size = 0
        # False: the agent does not want it kept, or it is too large.
        self.trusts = True
        self.outcome = ""


class Cache(Policy[CacheConfig]):
    """Answers from memory what it knows, lets one call fetch what it does not, and forgets what a write makes wrong."""

    name = "cache"
    config_model = CacheConfig

    def __init__(self, config: CacheConfig, runtime: Runtime) -> None:
        self._config = config
        self._runtime = runtime
        self._clock = runtime.clock
        self._reads = tuple(compile_pattern(each) for each in config.methods)
        self._writes = tuple((_any_of(each.after), _any_of(each.forget)) for each in config.invalidate)
        self._metadata = tuple(each.encode() for each in config.key.metadata)
        labels = {"listener": runtime.listener, "route": runtime.route}
        self._outcomes = {each: runtime.metrics.counter(names.CACHE, outcome=each, **labels) for each in _OUTCOMES}
        # Routes that have it from their listener share one: a write of one route makes the answers of another wrong.
        # A reload that changes nothing of it keeps what is kept.
        key = ("cache", runtime.listener, config.model_dump_json())
        self._answers: Answers = runtime.keep(key, self._make)
        self._kinds: dict[str, tuple[bool, tuple[Callable[[str], bool], ...]]] = {}

    def _make(self) -> Answers:
        answers = Answers(self._config.max_entries, self._config.max_bytes, self._dropped)
        labels = (self._runtime.listener, self._runtime.route)
        # Who reads the figures must not keep the answers of a configuration that is gone.
        known = weakref.ref(answers)

        def entries() -> list[tuple[tuple[str, ...], float]]:
            return [] if (found := known()) is None else [(labels, float(len(found)))]

        def size() -> list[tuple[tuple[str, ...], float]]:
            return [] if (found := known()) is None else [(labels, float(found.bytes))]

        self._runtime.metrics.read(names.CACHE_ENTRIES, entries, ("cache", *labels))
        self._runtime.metrics.read(names.CACHE_BYTES, size, ("cache", *labels))
        return answers

    def _dropped(self, why: str, count: int) -> None:
        self._runtime.metrics.counter(names.CACHE_DROPPED, listener=self._runtime.listener, reason=why).inc(count)

    def forget(self) -> int:
        return self._answers.forget(lambda _: True, "cleared")

    def _kind(self, path: str) -> tuple[bool, tuple[Callable[[str], bool], ...]]:
        """Is it a read whose answers may be kept? Which answers does it make wrong?"""
        found = self._kinds.get(path)
        if found is None:
            if len(self._kinds) >= _PATHS_KEPT:
                self._kinds.clear()
            wrong = tuple(forget for after, forget in self._writes if after(path))
            found = self._kinds[path] = (any(matches(path) for matches in self._reads), wrong)
        return found

    # ── the question ──

    def on_request(self, call: Call) -> Verdict:
        is_read, _ = self._kind(call.path)
        if not is_read or call.peek:
            return None
        control = _control(call.metadata_values(_CONTROL))
        if b"no-store" in control:
            self._outcomes["bypassed"].inc()
            return None
        call.is_late = True
        call.note(self.name, _Asked(is_fresh_wanted=b"no-cache" in control))
        return None

    def on_request_message(self, call: Call, message: bytes) -> Verdict:
        asked = _asked(call)
        if asked is None:
            return None
        asked.size += len(message)
        if asked.size <= self._config.max_request:
            asked.print.update(message)
            return None
        assert call.notes is not None
        del call.notes[self.name]
        self._outcomes["bypassed"].inc()
        # It need not be complete for our sake.
        call.is_late = "idempotency" in call.notes
        return None

    def on_request_end(self, call: Call) -> Verdict:
        asked = _asked(call)
        if asked is None:
            return None
        key = self._key(call, asked)
        if asked.is_fresh_wanted:
            asked.outcome = "bypassed"
            self._outcomes["bypassed"].inc()
            asked.flight = self._answers.begin(key, call.path, alone=True)
            return None
        flight = self._answers.flight(key)
        if flight is None:
            return self._enter(call, asked, key)
        return self._join(call, asked, flight)

    def _enter(self, call: Call, asked: _Asked, key: bytes) -> Answer | None:
        kept = self._answers.find(key, self._clock.monotonic())
        if kept is not None:
            return self._given(asked, kept, "hit")
        asked.outcome = "miss"
        self._outcomes["miss"].inc()
        asked.flight = self._answers.begin(key, call.path)
        return None

    async def _join(self, call: Call, asked: _Asked, flight: Flight) -> Answer | None:
        """Wait for what another call fetches; where nothing comes of that, one of those who waited fetches it."""
        while True:
            # It may have landed between the hook and the first step of its task.
            if not flight.has_landed:
                turn = Turn()
                flight.waiting.append(turn)
                await turn.wait(self._clock, _LONGEST_WAIT)
            if flight.kept is not None:
                return self._given(asked, flight.kept, "joined")
            if not flight.is_lost:
                # The agent's answer is not one to be given to others: everybody asks for himself.
                asked.outcome = "not_kept"
                self._outcomes["not_kept"].inc()
                return None
            following = self._answers.flight(flight.key)
            if following is None:
                return self._enter(call, asked, flight.key)
            flight = following

    def _key(self, call: Call, asked: _Asked) -> bytes:
        caller: tuple[object, ...] = ()
        if not self._config.shared:
            caller = (call.identity, *call.metadata_values(b"authorization"))
        form = [call.metadata(name) for name in _FORM]
        chosen = [tuple(call.metadata_values(name)) for name in self._metadata]
        asked.print.update(repr((asked.size, call.route, call.path, caller, form, chosen)).encode())
        return asked.print.digest()

    def _given(self, asked: _Asked, kept: Kept, outcome: str) -> Answer:
        asked.outcome = outcome
        self._outcomes[outcome].inc()
        # RFC 9111 §5.1: how old it is, in whole seconds.
        age = encode_field(b"age", b"%d" % max(0, int(self._clock.monotonic() - kept.made)))
        if kept.headers or kept.messages:
            return Answer([*kept.headers, age], kept.messages, kept.trailers)
        return Answer([], b"", [*kept.trailers, age])

    # ── the answer ──

    def on_response_headers(self, call: Call, fields: list[HeaderField]) -> None:
        asked = _asked(call)
        if asked is not None and asked.flight is not None:
            asked.headers = [field for field in fields if field[0] not in _NOT_KEPT]
            self._hear(asked, fields)

    def on_response_message(self, call: Call, message: bytes) -> Verdict:
        asked = _asked(call)
        if asked is None or asked.flight is None or not asked.trusts:
            return None
        asked.messages.append(message)
        asked.answer_size += len(message)
        if asked.answer_size > self._config.max_answer:
            self._give_up(asked)
        return None

    def on_trailers(self, call: Call, fields: list[HeaderField]) -> Verdict:
        asked = _asked(call)
        if asked is None or asked.flight is None:
            return None
        self._hear(asked, fields)
        status = next((field[1] for field in reversed(fields) if field[0] == b"grpc-status"), b"")
        if not asked.trusts or status != b"0":
            self._give_up(asked)
            return None
        now = self._clock.monotonic()
        is_empty = not asked.headers and not asked.messages
        trailers = [
            field
            for field in fields
            if field[0] not in _NOT_KEPT and not (is_empty and field[0] in {b":status", b"content-type"})
        ]
        kept = Kept(
            call.path, asked.headers, b"".join(asked.messages), trailers, made=now, expires=now + self._config.ttl
        )
        flight, asked.flight = asked.flight, None
        self._answers.land(flight, kept)
        return None

    def on_end(self, call: Call, outcome: Outcome) -> None:
        asked = _asked(call)
        if asked is not None and asked.flight is not None:
            flight, asked.flight = asked.flight, None
            self._answers.land(flight, None, is_lost=True)
        if call.sent:
            # Whatever became of it: what has left for the agent may have been done.
            for matches in self._kind(call.path)[1]:
                self._answers.forget(matches, "invalidated")

    def _hear(self, asked: _Asked, fields: list[HeaderField]) -> None:
        control = _control(field[1] for field in fields if field[0] == _CONTROL)
        if b"no-store" in control or b"no-cache" in control:
            self._give_up(asked)

    def _give_up(self, asked: _Asked) -> None:
        """What the agent says is for this caller alone."""
        asked.trusts = False
        asked.messages = []
        if asked.flight is not None:
            flight, asked.flight = asked.flight, None
            self._outcomes["not_kept"].inc()
            self._answers.land(flight, None)


def _asked(call: Call) -> _Asked | None:
    notes = call.notes
    return None if notes is None else notes.get(Cache.name)


def _control(values: Iterator[bytes]) -> frozenset[bytes]:
    """The directives of `cache-control`, without their arguments (RFC 9111 §5.2)."""
    return frozenset(
        each.partition(b"=")[0].strip().lower() for value in values for each in value.split(b",") if each.strip()
    )


def _any_of(patterns: tuple[str, ...]) -> Callable[[str], bool]:
    matchers = tuple(compile_pattern(each) for each in patterns)
    return lambda path: any(matches(path) for matches in matchers)
