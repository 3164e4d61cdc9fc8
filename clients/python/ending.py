"""How a call ended, also where grpcio forgets it.

When a server ends a call while the client still writes, a write fails, and grpc.aio puts "Internal error from Core" in the place of
the status that had arrived (github.com/grpc/grpc/issues/36066). The status is there for a moment: this keeps it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from clients.python.failure import LOST, CallFailure, from_rpc_error, from_status

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType

T = TypeVar("T")


class Ending:
    """Watches the end of calls; as a context manager, turns grpcio's errors into CallFailure."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: CallFailure | None = None

    def of(self, call: Any) -> Any:
        """Watch this call; gives it back."""
        call.add_done_callback(self._note)
        return call

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, grpc.aio.AioRpcError):
            is_lost = error.details() == LOST and self._kept is not None
            raise (self._kept if is_lost and self._kept is not None else from_rpc_error(error)) from None

    def _note(self, call: Any) -> None:
        code, message = _at_once(call.code()), _at_once(call.details())
        if code in (None, grpc.StatusCode.OK) or message == LOST:
            return
        pairs: Any = _at_once(call.trailing_metadata()) or ()
        self._kept = from_status(code, message or "", tuple((str(key), value) for key, value in pairs))


def _at_once(coroutine: Coroutine[Any, Any, T]) -> T | None:
    """The value of a coroutine that has nothing to wait for, as those of a call that is done; None if it would wait."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    coroutine.close()
    return None
