"""The pool of browser pages with a real Chromium: what it bounds, what it survives, and where it does not go."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent_server.core.failure import Failure
from agent_server.tools.addresses import AddressRule
from agent_server.tools.browser import BrowserPool
from tests.support.browser import needs_chromium

pytestmark = needs_chromium
LIMIT = 60.0
PAGE = "<title>Shop</title><p class=name>tea</p>"

Answer = Callable[[str], Awaitable[str]]


@asynccontextmanager
async def site(answer: Answer, host: str = "127.0.0.1") -> AsyncIterator[str]:
    """A website: `answer` gives the page of a path, or a Location after "→"."""

    server = await asyncio.start_server(_serving(answer), host, 0)
    try:
        yield f"http://{host}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@asynccontextmanager
async def pool_of(
    *, pages: int = 4, recycle_after: int = 200, allowed: str = "127.0.0.0/8"
) -> AsyncIterator[BrowserPool]:
    pool = BrowserPool(AddressRule([allowed]), pages=pages, recycle_after=recycle_after)
    try:
        async with asyncio.timeout(LIMIT):
            yield pool
    finally:
        await pool.close()


async def always(path: str) -> str:
    return PAGE


def browsers() -> list[int]:
    """Processes of Chromium, itself and not its helpers, that descend from this process."""
    parents: dict[int, int] = {}
    mains = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
            if "chromium" in command and "--type=" not in command and "--remote-debugging-pipe" in command:
                mains.append(int(entry.name))

    def is_ours(pid: int) -> bool:
        while pid > 1:
            if pid == os.getpid():
                return True
            pid = parents.get(pid, 0)
        return False

    return [pid for pid in mains if is_ours(pid)]


def kill_browsers() -> None:
    found = browsers()
    assert found
    for pid in found:
        os.kill(pid, signal.SIGKILL)


async def test_a_browser_that_is_killed_under_a_page_is_a_clear_error_and_replaced() -> None:
    reached, hold = asyncio.Event(), asyncio.Event()

    async def answer(path: str) -> str:
        if path == "/held":
            reached.set()
            await hold.wait()
        return PAGE

    async with site(answer) as url, pool_of() as pool:
        running = asyncio.create_task(pool.extract(f"{url}/held", "", {"name": ".name"}, 30))
        await reached.wait()
        kill_browsers()
        with pytest.raises(Failure) as caught:
            await running
        hold.set()
        assert (caught.value.reason, pool.in_use) == ("BROWSER_CRASHED", 0)
        assert await pool.extract(f"{url}/", "", {"name": ".name"}, 30) == [{"name": "tea"}]
        assert (pool.launched, pool.in_use) == (2, 0)


async def test_a_browser_that_died_while_nobody_looked_is_replaced_unnoticed() -> None:
    async with site(always) as url, pool_of() as pool:
        await pool.extract(f"{url}/", "", {"name": ".name"}, 30)
        kill_browsers()
        assert await pool.extract(f"{url}/", "", {"name": ".name"}, 30) == [{"name": "tea"}]
        assert (pool.launched, pool.in_use) == (2, 0)


async def test_no_more_pages_than_allowed_and_a_new_browser_after_its_share() -> None:
    now = most = 0

    async def answer(path: str) -> str:
        nonlocal now, most
        if path.startswith("/page"):
            now += 1
            most = max(most, now)
            for _ in range(50):  # turns of the loop, so that others could come in
                await asyncio.sleep(0)
            now -= 1
        return PAGE

    async with site(answer) as url, pool_of(pages=2, recycle_after=3) as pool:
        work = [pool.extract(f"{url}/page{n}", "", {"name": ".name"}, 30) for n in range(7)]
        assert await asyncio.gather(*work) == [[{"name": "tea"}]] * 7
        assert (most <= 2, pool.launched, pool.in_use) == (True, 3, 0)
        assert len(browsers()) == 1


async def test_a_script_that_never_ends_holds_nobody() -> None:
    async def answer(path: str) -> str:
        if path != "/busy":
            return PAGE
        return "<script>addEventListener('load', () => setTimeout(() => { for (;;); }))</script>"

    async with site(answer) as url, pool_of(pages=1) as pool:
        with pytest.raises(Failure) as caught:
            await pool.text(f"{url}/busy", 1.0)
        assert caught.value.reason == "PAGE_TIMEOUT"
        assert await pool.text(f"{url}/", 30) == (f"{url}/", "Shop", "tea")
        assert pool.in_use == 0


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "chrome://version", "view-source:http://127.0.0.1/", "data:text/html,x", "javascript:1"],
)
async def test_pages_that_are_not_of_the_web_are_not_shown(url: str) -> None:
    pool = BrowserPool(AddressRule(["127.0.0.0/8"]))
    with pytest.raises(Failure) as caught:
        await pool.extract(url, "", {"all": "body"}, 5)
    assert (caught.value.reason, pool.launched) == ("BAD_URL", 0)


async def test_private_addresses_are_refused_directly_by_redirect_and_from_scripts() -> None:
    asked = []

    async def inner(path: str) -> str:
        asked.append(path)
        return PAGE

    async with site(inner) as hidden:
        port = hidden.rpartition(":")[2]

        async def answer(path: str) -> str:
            if path == "/redirect":
                return f"→http://127.0.0.1:{port}/secret"
            return (
                f"<p class=name>asking</p><script>fetch('http://127.0.0.1:{port}/secret', {{mode: 'no-cors'}})"
                ".catch(() => 0).then(() => { document.querySelector('.name').textContent = 'asked'; })</script>"
                f"<img src='http://127.0.0.1:{port}/secret.png'>"
            )

        async with pool_of(allowed="127.0.0.2/32") as pool, site(answer, "127.0.0.2") as url:
            for path in (f"http://127.0.0.1:{port}/secret", f"http://localhost:{port}/secret", f"{url}/redirect"):
                with pytest.raises(Failure) as caught:
                    await pool.extract(path, "", {"name": ".name"}, 20)
                assert caught.value.reason in ("ADDRESS_REFUSED", "PAGE_FAILED", "HTTP_STATUS")
            assert (await pool.extract(f"{url}/page", "", {"name": ".name"}, 20))[0]["name"] in ("asking", "asked")
    assert asked == []


def _serving(answer: Answer) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            body = await answer(head.split(b" ", 2)[1].decode())
            first, kind = ("302 Found", f"location: {body[1:]}") if body.startswith("→") else ("200 OK", "x-kind: page")
            body = "" if body.startswith("→") else body
            length = f"content-type: text/html\r\ncontent-length: {len(body.encode())}"
            writer.write(f"HTTP/1.1 {first}\r\n{kind}\r\n{length}\r\n\r\n{body}".encode())
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    return serve


async def test_a_picture_of_a_page() -> None:
    async with site(always) as url, pool_of() as pool:
        png = await pool.screenshot(f"{url}/", 30, whole=False, width=320, height=200)
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(png[16:20]), int.from_bytes(png[20:24])) == (320, 200)


async def test_cancelling_gives_the_page_back() -> None:
    reached, hold = asyncio.Event(), asyncio.Event()

    async def answer(path: str) -> str:
        if path == "/held":
            reached.set()
            await hold.wait()
        return PAGE

    async with site(answer) as url, pool_of(pages=1) as pool:
        running = asyncio.create_task(pool.extract(f"{url}/held", "", {"name": ".name"}, 30))
        await reached.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert pool.in_use == 0
        assert await pool.extract(f"{url}/", "", {"name": ".name"}, 30) == [{"name": "tea"}]
        hold.set()


async def test_a_run_keeps_its_pages_and_its_cookies_and_nobody_else_gets_them() -> None:
    cookies = "<p class=name></p><script>document.querySelector('.name').textContent = document.cookie;"

    async def answer(path: str) -> str:
        return cookies + f"document.cookie = 'who={path[1:]}';</script>"

    async def seen(pool: BrowserPool, url: str, path: str, run: str) -> str | None:
        return (await pool.extract(f"{url}/{path}", "", {"name": ".name"}, 30, run=run))[0]["name"]

    async with site(answer) as url, pool_of(pages=2) as pool:
        assert await seen(pool, url, "ann", "run 1") == ""
        assert await seen(pool, url, "ann", "run 1") == "who=ann"
        assert await seen(pool, url, "ben", "run 2") == ""
        assert await seen(pool, url, "x", "") == ""
        # There was place for two: the third has displaced what was unused longest.
        assert await seen(pool, url, "ann", "run 1") == ""
        assert await seen(pool, url, "ben", "run 2") == "who=ben"
        await pool.run_ended("run 2")
        assert await seen(pool, url, "ben", "run 2") == ""
        assert (pool.in_use, pool.launched) == (0, 1)
        await pool.run_ended("run 1")
        await pool.run_ended("run 2")
        assert sum(each.held for each in pool._all) == 0
