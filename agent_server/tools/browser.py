"""A browser for pages that need one: Chromium by Playwright, so many pages at a time, each in a context of its own.

A browser that has crashed, or has shown its share of pages, is replaced; pages that others hold are let end first. Making a page is
dear (a process, a window, a cache), so the pages of one run share contexts, as the tabs of a person do, and are used again: what the
run was given (cookies, say) stays with it, and goes when it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from grpc import StatusCode
from playwright.async_api import Browser, BrowserContext, Error, Page, Playwright, Response, async_playwright
from playwright.async_api import TimeoutError as PageTimeout

from agent_server.core.failure import Failure
from agent_server.tools.gate import Gate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agent_server.tools.addresses import AddressRule

log = logging.getLogger(__name__)

_FLAGS = (
    "--disable-dev-shm-usage",
    "--disable-gpu",
    # All that leaves does so by the gate, which speaks TCP.
    "--disable-quic",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--disable-background-networking",
)
_HEALTH_SECONDS = 10.0
"""For a browser to make or to close a context; one that takes longer is not well."""
_TABS = 4
"""Pages of one context: a context has six connections to a host, so more pages would wait for each other."""

_EXTRACT = """([rows, fields]) => {
  const text = (root, how) => {
    const [selector, attribute] = how.split('@');
    const found = selector ? root.querySelector(selector) : root;
    return found === null ? null : attribute ? found.getAttribute(attribute) : found.textContent.trim();
  };
  const roots = rows ? [...document.querySelectorAll(rows)] : [document];
  return roots.map(root => Object.fromEntries(Object.entries(fields).map(([name, how]) => [name, text(root, how)])));
}"""


_TEXT = "() => [document.title, document.body === null ? '' : document.body.innerText]"


@dataclass(slots=True, eq=False)
class _Running:
    """A browser that runs."""

    browser: Browser
    shown: int = 0
    held: int = 0
    """Pages that are in use, or wait for their run."""
    is_retired: bool = False


@dataclass(slots=True, eq=False)
class _Session:
    """What belongs to one run, or to one page that belongs to none: cookies, cache, and the pages that are open."""

    running: _Running
    context: BrowserContext
    used: int = 0
    idle: list[Page] = field(default_factory=list)
    """Pages that have been shown well and wait for the run's next."""


class BrowserPool:
    """Pages of one browser. Started when first used."""

    def __init__(
        self,
        rule: AddressRule,
        *,
        pages: int = 4,
        recycle_after: int = 200,
        max_page_bytes: int = 16 << 20,
        executable: str = "",
        sandbox: bool | None = None,
    ) -> None:
        """`pages` at the same time; a browser is replaced after `recycle_after` of them. `max_page_bytes`: one answer's size."""
        self._gate = Gate(rule, max_bytes=max_page_bytes)
        self._max_bytes = max_page_bytes
        self._recycle_after = recycle_after
        self._executable = executable
        # Chromium's own sandbox works for ordinary users only.
        self._sandbox = os.geteuid() != 0 if sandbox is None else sandbox
        self._places = asyncio.Semaphore(pages)
        self._starting = asyncio.Lock()
        self._playwright: Playwright | None = None
        self._current: _Running | None = None
        self._all: set[_Running] = set()
        # By run; the one that was used longest ago comes first.
        self._sessions: dict[str, list[_Session]] = {}
        self._making = asyncio.Lock()
        self._pages = pages
        self.launched = 0
        """Browsers started so far."""

    async def close(self) -> None:
        """End the browsers."""
        for run in list(self._sessions):
            await self.run_ended(run)
        for running in list(self._all):
            await self._end(running)
        if self._playwright is not None:
            await self._playwright.stop()
            self._playwright = None
            await self._gate.close()

    @property
    def in_use(self) -> int:
        """Pages that are used now."""
        idle = sum(len(session.idle) for sessions in self._sessions.values() for session in sessions)
        return sum(each.held for each in self._all) - idle

    async def run_ended(self, run: str) -> None:
        """Close what was kept for a run."""
        for session in self._sessions.pop(run, []):
            await self._shut(session)

    @contextlib.asynccontextmanager
    async def page(self, run: str = "") -> AsyncIterator[Page]:
        """A page without cookies or history of others, for the caller alone; waits until there is place for one.

        `run`: pages of one run share what they were given, and are used again. Call `run_ended` after it.
        """
        async with self._places:
            session, page = await self._opened(run)
            is_well = False
            try:
                yield page
                is_well = True
            except Error as error:
                if not session.running.browser.is_connected() or "crashed" in str(error):
                    session.running.is_retired = True
                    raise crashed() from error
                raise
            finally:
                session.used -= 1
                if is_well and session in self._sessions.get(run, ()) and not session.running.is_retired:
                    session.idle.append(page)
                else:
                    await self._close(session, page)

    async def extract(
        self, url: str, rows: str, fields: dict[str, str], timeout: float, *, run: str = ""
    ) -> list[dict[str, str | None]]:
        """Of each element that `rows` selects (empty: the page), the text of the elements that `fields` select within it.

        A field is `selector`, or `selector@attribute`. `run`: see `page`. Raises Failure.
        """
        return (await self.extract_and_next(url, rows, fields, "", timeout, run=run))[0]

    async def extract_and_next(
        self, url: str, rows: str, fields: dict[str, str], follow: str, timeout: float, *, run: str = ""
    ) -> tuple[list[dict[str, str | None]], str | None]:
        """As `extract`, and what `follow` (as a field is) gives on the same page, or None. Raises Failure."""
        async with self.visit(url, timeout, run=run) as page:
            found: list[dict[str, str | None]] = await self._asked(page, url, timeout, _EXTRACT, rows, fields)
            if not follow:
                return found, None
            return found, (await self._asked(page, url, timeout, _EXTRACT, "", {"next": follow}))[0]["next"]

    async def text(self, url: str, timeout: float) -> tuple[str, str, str]:
        """Where the page is after redirects, its title, and the text that people see. Raises Failure."""
        async with self.visit(url, timeout) as page:
            title, text = await self._asked(page, url, timeout, _TEXT)
            return page.url, title, text

    async def screenshot(self, url: str, timeout: float, *, whole: bool, width: int, height: int) -> bytes:
        """A PNG of what the page shows, or of the whole page. Raises Failure."""
        async with self.visit(url, timeout) as page:
            await page.set_viewport_size({"width": width, "height": height})
            return await page.screenshot(full_page=whole, timeout=timeout * 1000)

    async def _asked(self, page: Page, url: str, timeout: float, script: str, *given: Any) -> Any:
        # Playwright bounds waiting, not scripts: one of the page's own that never ends would hold ours for ever.
        try:
            async with asyncio.timeout(timeout):
                return await page.evaluate(script, list(given))
        except TimeoutError:
            raise _too_slow(url, timeout) from None
        except Error as error:
            if "is not a valid selector" not in str(error):
                raise
            text = str(error).partition("\n")[0].removeprefix("Page.evaluate: ")
            raise Failure(StatusCode.INVALID_ARGUMENT, "BAD_SELECTOR", text, metadata={"url": url}) from None

    @contextlib.asynccontextmanager
    async def visit(self, url: str, timeout: float, *, run: str = "") -> AsyncIterator[Page]:
        """A page that shows `url`, within `timeout` seconds. Raises Failure saying why it cannot be shown."""
        if urlsplit(url).scheme not in ("http", "https"):
            # file: and the browser's own pages do not pass the gate.
            text = f"{url}: neither http nor https"
            raise Failure(StatusCode.INVALID_ARGUMENT, "BAD_URL", text, metadata={"url": url})
        since = self._gate.number
        async with self.page(run) as page:
            try:
                answer = await self._shown(page, url, since, timeout)
                if answer is not None and answer.status >= 400:
                    raise self._not_shown(url, since, f"answered with status {answer.status}", answer.status)
                yield page
            except PageTimeout:
                raise _too_slow(url, timeout) from None
            except Error as error:
                if not page.context.browser or not page.context.browser.is_connected() or "crashed" in str(error):
                    raise
                raise self._not_shown(url, since, str(error).partition("\n")[0]) from error

    async def _shown(self, page: Page, url: str, since: int, timeout: float) -> Response | None:
        # A page that was cut off in the middle may never count as loaded: why is known long before the time is up.
        loop = asyncio.get_running_loop()
        going = loop.create_task(page.goto(url, timeout=timeout * 1000, wait_until="load"))
        cut = loop.create_task(self._gate.until_cut(url, since))
        try:
            await asyncio.wait({going, cut}, return_when=asyncio.FIRST_COMPLETED)
            if self._gate.was_cut(url, since):
                raise self._too_large(url)
            return await going
        finally:
            going.cancel()
            cut.cancel()
            await asyncio.gather(going, cut, return_exceptions=True)

    def _not_shown(self, url: str, since: int, said: str, status: int = 0) -> Failure:
        if self._gate.was_cut(url, since):
            return self._too_large(url)
        reason, code = "PAGE_FAILED", StatusCode.UNAVAILABLE
        if self._gate.was_refused(url, since):
            reason, code, said = (
                "ADDRESS_REFUSED",
                StatusCode.PERMISSION_DENIED,
                "not a public address, and not allowed",
            )
        elif "ERR_CERT_" in said or "ERR_SSL_" in said:
            reason, code = "TLS_FAILED", StatusCode.FAILED_PRECONDITION
        elif "invalid URL" in said or "ERR_INVALID_URL" in said:
            reason, code = "BAD_URL", StatusCode.INVALID_ARGUMENT
        elif (
            "ERR_HTTP_RESPONSE_CODE_FAILURE" in said
        ):  # an error status without a body, which Chromium shows as its own page
            reason, code, said = "HTTP_STATUS", StatusCode.FAILED_PRECONDITION, "answered with an error status"
        elif status:
            reason = "HTTP_STATUS"
            code = StatusCode.UNAVAILABLE if status in (429, 502, 503, 504) else StatusCode.FAILED_PRECONDITION
        return Failure(code, reason, f"{url}: {said.removeprefix('Page.goto: ')}", metadata={"url": url})

    def _too_large(self, url: str) -> Failure:
        text = f"{url}: larger than {self._max_bytes} bytes"
        return Failure(StatusCode.FAILED_PRECONDITION, "PAGE_TOO_LARGE", text, metadata={"url": url})

    async def _opened(self, run: str) -> tuple[_Session, Page]:
        """A page of a browser that answers. One that has died or hangs while nobody looked is replaced: nothing was done in it."""
        for is_last in (False, True):
            session = await self._session(run)
            if session.idle:
                session.running.shown += 1
                return session, session.idle.pop()
            session.running.shown += 1
            session.running.held += 1
            try:
                await self._make_place()
                async with asyncio.timeout(_HEALTH_SECONDS):
                    return session, await session.context.new_page()
            except BaseException as error:
                session.used -= 1
                if isinstance(error, Error | TimeoutError):
                    session.running.is_retired = True
                await self._close(session, None)
                if not isinstance(error, Error | TimeoutError):
                    raise
                if is_last:
                    raise crashed() from error
        raise AssertionError("unreachable")

    async def _session(self, run: str) -> _Session:
        async with self._making:
            sessions = self._sessions.pop(run, []) if run else []
            stale = [each for each in sessions if not self._is_fit(each.running)]
            fitting = [each for each in sessions if each not in stale]
            if fitting:
                self._sessions[run] = fitting  # at the end: used last
            chosen = [each for each in fitting if each.idle] or [each for each in fitting if each.used < _TABS]
            if chosen:
                chosen[0].used += 1
            for each in stale:
                each.running.is_retired = True
                await self._shut(each)
            if chosen:
                return chosen[0]
            for is_last in (False, True):
                running = await self._browser()
                try:
                    async with asyncio.timeout(_HEALTH_SECONDS):
                        context = await running.browser.new_context(accept_downloads=False, service_workers="block")
                except (Error, TimeoutError) as error:
                    running.is_retired = True
                    if is_last:
                        raise crashed() from error
                    continue
                session = _Session(running, context, used=1)
                if run:
                    self._sessions.setdefault(run, []).append(session)
                return session
            raise AssertionError("unreachable")

    def _is_fit(self, running: _Running) -> bool:
        return not running.is_retired and running.shown < self._recycle_after and running.browser.is_connected()

    async def _make_place(self) -> None:
        """Close pages that wait for their run where there are more than may be."""
        while sum(each.held for each in self._all) > self._pages:
            session = next((each for sessions in self._sessions.values() for each in sessions if each.idle), None)
            if session is None:
                return
            await self._close(session, session.idle.pop(0))

    async def _browser(self) -> _Running:
        async with self._starting:
            running = self._current
            if running is not None and not self._is_fit(running):
                running.is_retired, running = True, None
            for each in [each for each in self._all if each.is_retired and not each.held]:
                await self._end(each)
            if running is None:
                running = self._current = await self._launch()
            return running

    async def _close(self, session: _Session, page: Page | None) -> None:
        """Give up one page of a session, and what is left of the session with the last one."""
        running = session.running
        running.held -= 1
        is_last = not session.used and not session.idle
        if is_last:
            for run in [run for run, sessions in self._sessions.items() if session in sessions]:
                self._sessions[run].remove(session)
                if not self._sessions[run]:
                    del self._sessions[run]
        closing = session.context if is_last else page
        if closing is not None:
            try:
                async with asyncio.timeout(_HEALTH_SECONDS):
                    await closing.close()
            except (Error, TimeoutError):
                running.is_retired = True
        if running.is_retired and not running.held:
            await self._end(running)

    async def _shut(self, session: _Session) -> None:
        while session.idle:
            await self._close(session, session.idle.pop())

    async def _launch(self) -> _Running:
        if self._playwright is None:
            await self._gate.open()
            self._playwright = await async_playwright().start()
        executable = self._executable or shutil.which("chromium") or shutil.which("google-chrome")
        try:
            browser = await self._playwright.chromium.launch(
                executable_path=executable,
                args=list(_FLAGS),
                # Nobody clicks here, so a window that opens is one that a script wants.
                ignore_default_args=["--disable-popup-blocking"],
                chromium_sandbox=self._sandbox,
                proxy={"server": f"http://{self._gate.address}"},
            )
        except Error as error:
            said = str(error).partition("\n")[0]
            raise Failure(StatusCode.UNAVAILABLE, "BROWSER_NOT_STARTED", said, retry_after=1.0) from error
        self.launched += 1
        running = _Running(browser)
        self._all.add(running)
        log.info("browser %d started, Chromium %s", self.launched, browser.version)
        return running

    async def _end(self, running: _Running) -> None:
        self._all.discard(running)
        with contextlib.suppress(Error, TimeoutError):
            async with asyncio.timeout(_HEALTH_SECONDS):
                await running.browser.close()


def _too_slow(url: str, timeout: float) -> Failure:
    text = f"{url}: not loaded within {timeout:g} s"
    return Failure(StatusCode.DEADLINE_EXCEEDED, "PAGE_TIMEOUT", text, metadata={"url": url})


def crashed() -> Failure:
    """The browser ended in the middle of work; the next page gets another one."""
    return Failure(
        StatusCode.UNAVAILABLE, "BROWSER_CRASHED", "the browser crashed; another one takes its place", retry_after=0.0
    )
