"""Where descriptors come from, and the selection over them that is in force: a file that may change, or the agent.

A changed file is taken only if everything selected is still in it; else the former one stays. What the agent describes
has nobody to complain to: if something selected is not in it, that is logged, and there is no selection (fail closed).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Generic, Literal, Protocol, TypeAlias, TypeVar

from pydantic import Field

from sidecar.config.units import FilePath
from sidecar.descriptors.descriptor_set import Descriptors, parse_set
from sidecar.descriptors.reflection import Reflection
from sidecar.descriptors.selection import Node, Selection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from google.protobuf.descriptor import Descriptor

    from sidecar.http2.connection import Connection
    from sidecar.runtime import Runtime

P = TypeVar("P")

DescriptorsFrom: TypeAlias = Annotated[Literal["reflection"] | FilePath, Field(union_mode="left_to_right")]
"""A descriptor set (protoc --include_imports --descriptor_set_out), or `reflection`: asked of the agent."""

UNDESCRIBED = frozenset(
    {
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/List",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    }
)
"""Methods every server has and few descriptor sets; they carry nobody's data and pass where they are not described."""

_LARGEST = 64 * 1024 * 1024


class Connected(Protocol):
    """What is asked of a cluster here."""

    @property
    def name(self) -> str: ...

    def connection(self) -> Connection | None: ...


class Type(Generic[P]):
    """The messages of one direction of a method: `read` parses one, `node` is where its fields are found."""

    __slots__ = ("name", "node", "read")

    def __init__(self, selection: Selection[P], descriptor: Descriptor) -> None:
        self.name = descriptor.full_name
        self.node: Node[P] = selection.root(descriptor)
        self.read = selection.descriptors.message(descriptor).FromString


class View(Generic[P]):
    """A selection in force, and the types of messages by path that were asked for."""

    __slots__ = ("_side", "_types", "descriptors", "selection")

    def __init__(self, selection: Selection[P], side: Literal["request", "response"]) -> None:
        self.selection = selection
        self.descriptors = selection.descriptors
        self._side = side
        self._types: dict[str, Type[P]] = {}

    def type(self, path: str) -> Type[P] | None:
        """What messages of a method are; None = the descriptors know no such method."""
        found = self._types.get(path)
        if found is None:
            method = self.descriptors.method(path)
            if method is not None:
                descriptor = method.request if self._side == "request" else method.response
                found = self._types[path] = Type(self.selection, descriptor)
        return found


class Fields(Generic[P]):
    """Selected fields of requests or of responses. `view` is what is in force, None = no descriptors yet."""

    def __init__(
        self,
        source: Path | Literal["reflection"],
        selectors: Mapping[str, P],
        runtime: Runtime,
        *,
        side: Literal["request", "response"],
        rooted: bool,
        check: Callable[[Selection[P]], None] = lambda _: None,
    ) -> None:
        """`check` may refuse a selection by a ValueError. Raises ValueError when the file, or a selector, is wrong."""
        self._source = source
        self._selectors = selectors
        self._runtime = runtime
        self._side: Literal["request", "response"] = side
        self._rooted = rooted
        self._check = check
        self._reflection: Reflection | None = None
        self._seen: Descriptors | None = None
        self._view: View[P] | None = None
        if isinstance(source, Path):
            self._view = self._over(self._read(source))

    @property
    def view(self) -> View[P] | None:
        reflection = self._reflection
        if reflection is not None and reflection.current is not self._seen:
            self._follow(reflection)
        return self._view

    # ── a file ──

    @property
    def files(self) -> tuple[Path, ...]:
        return (self._source,) if isinstance(self._source, Path) else ()

    def reload(self) -> bool:
        """Read the file again; was it different? Raises ValueError; what was in force stays then."""
        if not isinstance(self._source, Path):
            return False
        descriptors = self._read(self._source)
        if self._view is not None and descriptors is self._view.descriptors:
            return False
        self._view = self._over(descriptors)
        return True

    def _read(self, path: Path) -> Descriptors:
        cache = self._runtime.keep(("descriptors", str(path)), _Cache)
        try:
            return cache.read(path)
        except OSError as error:
            raise ValueError(f"descriptors: {path} cannot be read: {error.strerror or 'unknown reason'}") from None
        except ValueError as error:
            raise ValueError(f"descriptors: {path} {error}") from None

    def _over(self, descriptors: Descriptors) -> View[P]:
        def roots() -> Iterator[Descriptor]:
            for method in descriptors.methods.values():
                yield method.request if self._side == "request" else method.response

        selection = Selection(descriptors, self._selectors, rooted=roots if self._rooted else None)
        self._check(selection)
        return View(selection, self._side)

    # ── the agent ──

    def begin(self, cluster: Connected | None) -> None:
        """The route leads to `cluster`: ask there, if that is where descriptors come from."""
        if self._source == "reflection" and cluster is not None:
            runtime = self._runtime
            self._reflection = runtime.keep(
                ("reflection", cluster.name),
                lambda: Reflection(cluster.name, runtime.clock, runtime.random, runtime.log),
            )
            self._reflection.begin(cluster.connection)

    def _follow(self, reflection: Reflection) -> None:
        self._seen = reflection.current
        assert self._seen is not None
        try:
            self._view = self._over(self._seen)
        except ValueError as error:
            self._view = None
            extra = {"route": self._runtime.route, "cause": str(error)}
            self._runtime.log.error("the agent's descriptors lack what is configured", extra=extra)

    @property
    def problem(self) -> str:
        """Why there is no view."""
        problem = self._reflection.problem if self._reflection is not None else "the route leads nowhere yet"
        return problem or "what is configured is not in what the agent describes"


class _Cache:
    """The newest content of a descriptor file, parsed once for all who read it."""

    def __init__(self) -> None:
        self._digest = b""
        self._descriptors: Descriptors | None = None

    def read(self, path: Path) -> Descriptors:
        with path.open("rb") as opened:
            data = opened.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise ValueError("is larger than 64MiB")
        digest = hashlib.sha256(data).digest()
        if self._descriptors is None or digest != self._digest:
            self._descriptors = parse_set(data)
            self._digest = digest
        return self._descriptors
