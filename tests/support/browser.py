"""A real browser: headless Chromium over its debugging pipe, with nothing installed but itself.

Why not a driver package? What a test needs is a page, clicks and what the console says; the protocol for that is JSON over two pipes.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fcntl
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

LIMIT = 30.0
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--hide-scrollbars",
)
# The protocol's pipes are descriptors 3 and 4 of the browser.
_START = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""


def chromium() -> str | None:
    """The browser's command, where there is one."""
    return next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )


needs_chromium = pytest.mark.skipif(
    chromium() is None, reason="Chromium is not installed (Debian: apt-get install chromium)"
)


class PageLeftError(Exception):
    """Another page came in the middle of a question."""


class Browser:
    """`async with Browser() as browser: page = await browser.page(url)`; gone after, with everything it wrote."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        self._numbers = iter(range(1, 1 << 30))
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}

    async def __aenter__(self) -> Self:
        command = chromium()
        assert command is not None
        to_read, self._to = _pipe()
        from_write, their_end = None, None
        self._from, from_write = _pipe()
        their_end = (to_read, from_write)
        home = self._folder.name
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _START,
            str(to_read),
            str(from_write),
            command,
            *_FLAGS,
            f"--user-data-dir={home}",
            "about:blank",
            pass_fds=their_end,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "HOME": home, "XDG_RUNTIME_DIR": home},
            start_new_session=True,
        )
        for each in their_end:
            os.close(each)
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=1 << 26)
        self._transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(self._from, "rb", 0)
        )
        self._reading = loop.create_task(self._read(reader))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        await self._reading
        self._transport.close()
        os.close(self._to)
        self._folder.cleanup()

    async def page(self, url: str, *, width: int = 1280, height: int = 800, dark: bool = False) -> Page:
        """A new tab that has loaded `url`."""
        target = await self.ask("Target.createTarget", {"url": "about:blank"})
        session = await self.ask("Target.attachToTarget", {"targetId": target["targetId"], "flatten": True})
        page = self._pages[session["sessionId"]] = Page(self, session["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            await page.ask(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        await page.ask("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await page.ask("Emulation.setEmulatedMedia", {"features": [scheme]})
        await page.open(url)
        return page

    async def ask(self, method: str, parameters: dict[str, Any] | None = None, session: str = "") -> dict[str, Any]:
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters or {}}
        if session:
            message["sessionId"] = session
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        os.write(self._to, json.dumps(message).encode() + b"\0")
        async with asyncio.timeout(LIMIT):
            answer = await future
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                message = json.loads((await reader.readuntil(b"\0"))[:-1])
                if "id" in message:
                    future = self._asked.pop(message["id"])
                    if not future.done():
                        future.set_result(message)
                elif message.get("sessionId") in self._pages:
                    self._pages[message["sessionId"]].told(message["method"], message["params"])


class Page:
    """One tab. `problems`: whatever a developer would see in red."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self._loaded = asyncio.Event()
        self.problems: list[str] = []
        self.requested: list[str] = []

    async def ask(self, method: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        return await self._browser.ask(method, parameters, self._session)

    def told(self, method: str, parameters: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded.set()
        elif method == "Runtime.exceptionThrown":
            self.problems.append(
                str(parameters["exceptionDetails"].get("exception", {}).get("description", parameters))
            )
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in {"error", "warning", "assert"}:
            self.problems.append(" ".join(str(each.get("value", each)) for each in parameters["args"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in {"error", "warning"}:
            self.problems.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.requested.append(parameters["request"]["url"])

    async def open(self, url: str) -> None:
        self._loaded.clear()
        await self.ask("Page.navigate", {"url": url})
        async with asyncio.timeout(LIMIT):
            await self._loaded.wait()

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; promises are awaited."""
        try:
            answer = await self.ask(
                "Runtime.evaluate",
                {"expression": expression, "awaitPromise": True, "returnByValue": True, "userGesture": True},
            )
        except AssertionError as error:
            if "navigated" in str(error) or "context" in str(error):
                raise PageLeftError from error
            raise
        if "exceptionDetails" in answer:
            raise AssertionError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    async def until(self, condition: str) -> Any:
        """Wait until a JavaScript expression is true; its value. Looks at each change of the page and ten times a second."""
        waiting = (
            "new Promise((yes, no) => { const end = Date.now() + 20000; const look = () => { const found = ("
            + condition
            + "); if (found) yes(found === true ? true : String(found));"
            + " else if (Date.now() > end) no(new Error('never came true'));"
            + " else setTimeout(look, 100); }; look(); })"
        )
        while True:
            try:
                return await self.evaluate(waiting)
            except PageLeftError:
                continue  # Another page is being loaded: wait there.

    async def text(self, selector: str) -> str:
        return str(await self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText"))

    async def click(self, selector: str) -> None:
        """With the mouse, in the middle of it."""
        quoted = json.dumps(selector)
        await self.until(f"document.querySelector({quoted}) !== null")
        x, y = await self.evaluate(
            f"(() => {{ const e = document.querySelector({quoted}); e.scrollIntoView({{block: 'center', behavior: 'instant'}});"
            " const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            event = {
                "type": kind,
                "x": x,
                "y": y,
                "button": "none" if kind == "mouseMoved" else "left",
                "clickCount": 1,
            }
            await self.ask("Input.dispatchMouseEvent", event)

    async def type(self, text: str) -> None:
        await self.ask("Input.insertText", {"text": text})

    async def press(self, key: str, code: int, text: str = "") -> None:
        event = {"key": key, "code": key, "windowsVirtualKeyCode": code, "text": text}
        await self.ask("Input.dispatchKeyEvent", {"type": "keyDown", **event})
        await self.ask("Input.dispatchKeyEvent", {"type": "keyUp", **event})

    async def screenshot(self, path: Path, *, whole: bool = False) -> None:
        answer = await self.ask("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole})
        path.write_bytes(base64.b64decode(answer["data"]))


def _pipe() -> tuple[int, int]:
    """A pipe whose numbers are high enough not to be 3 or 4."""
    ends = os.pipe()
    high = tuple(fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 20) for each in ends)
    for each in ends:
        os.close(each)
    return high[0], high[1]
