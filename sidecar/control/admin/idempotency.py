"""Records of keyed RPCs at the admin address: `GET /idempotency`, `POST /idempotency/resolve`."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from sidecar.policies.idempotency.settling import CannotSettle, NoSuchRecord
from sidecar.store.interface import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from sidecar.control.process import Process

_MOST = 1000


def answer(
    process: Process, query: dict[str, list[str]], wait_for: Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]
) -> tuple[HTTPStatus, object]:
    """One record (`record=`), or a page of them (`after=`, `limit=`, `state=`)."""

    async def found() -> object:
        settling = process.settling
        if "record" in query:
            return await settling.show(query["record"][0])
        limit = query.get("limit", ["100"])[0]
        if not limit.isdecimal() or not 1 <= int(limit) <= _MOST:
            raise ValueError(f"limit: a number from 1 to {_MOST}")
        return await settling.list(
            after=query.get("after", [""])[0], limit=int(limit), state=query.get("state", [None])[0]
        )

    return _told(lambda: wait_for(found))


def resolve(
    process: Process, query: dict[str, list[str]], wait_for: Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]
) -> tuple[HTTPStatus, object]:
    """Settle `record=`; `outcome=executed` or `not_executed`, `by=` names who says so."""

    async def settle() -> object:
        by = query.get("by", ["admin"])[0][:100]
        outcome = query.get("outcome", [""])[0]
        if "record" in query and outcome == "executed":
            return await process.settle(query["record"][0], "executed", by=by)
        if "record" in query and outcome == "not_executed":
            return await process.settle(query["record"][0], "not_executed", by=by)
        raise ValueError("say which, and what is true: ?record=ID&outcome=executed or not_executed")

    return _told(lambda: wait_for(settle))


def _told(asked: Callable[[], object]) -> tuple[HTTPStatus, object]:
    try:
        return HTTPStatus.OK, asked()
    except ValueError as error:
        return HTTPStatus.BAD_REQUEST, f"{error}\n"
    except NoSuchRecord as error:
        return HTTPStatus.NOT_FOUND, f"{error}\n"
    except CannotSettle as error:
        return HTTPStatus.CONFLICT, f"{error}\n"
    except StoreUnavailable as error:
        return HTTPStatus.SERVICE_UNAVAILABLE, f"the store gives no answer ({error.kind}); nothing was done\n"
