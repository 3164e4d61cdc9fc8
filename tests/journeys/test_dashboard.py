"""The dashboard: over HTTP, who may see and change what; in a real browser, what it shows under traffic."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
import pytest_asyncio

from tests.journeys.raw import RawAgent, RawCaller
from tests.journeys.test_rotation_and_drain import echo
from tests.support.browser import Browser, needs_chromium
from tests.support.processes import Sidecar

TOKEN = "s3cret-admin-token-0123"
HTML = {"accept": "text/html,application/xhtml+xml"}
CONFIG = """
node: {{name: orders-1}}
admin: {{bind: "127.0.0.1:0"{admin}}}
listeners:
  - name: app
    direction: outbound
    bind: "127.0.0.1:0"
    policies:
      rate_limit: [{{name: per-caller, rate: 1/1h, burst: 3, per: [method]}}]
    routes:
      - {{name: reads, match: {{method: "/test.Service/Read"}}, to: agents, policies: {{rate_limit: []}}}}
      - {{name: writes, match: {{method: "/test.Service/Write"}}, to: agents}}
clusters:
  agents: {{endpoints: ["{endpoint}", "127.0.0.1:1"]}}
alerts: {{rules: [{{name: always, metric: sidecar_config_generation, above: 0, severity: notice}}]}}
"""


def config(endpoint: str = "127.0.0.1:2", admin: str = "") -> str:
    return CONFIG.format(endpoint=endpoint, admin=admin)


class Browsing:
    """What a browser does with headers and cookies, without one."""

    def __init__(self, sidecar: Sidecar) -> None:
        self.address = sidecar.admin
        self.cookie = ""

    def send(
        self, method: str, path: str, form: dict[str, str] | None = None, **headers: str
    ) -> tuple[int, str, dict[str, str]]:
        host, _, port = self.address.rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        sent = {**HTML, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if self.cookie:
            sent["cookie"] = self.cookie
        if form is not None:
            sent["content-type"] = "application/x-www-form-urlencoded"
        try:
            connection.request(method, path, urlencode(form) if form is not None else None, sent)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            if "set-cookie" in found:
                self.cookie = found["set-cookie"].split(";")[0]
            return answer.status, answer.read().decode(), found
        finally:
            connection.close()

    def post(self, path: str, form: dict[str, str], **headers: str) -> tuple[int, str, dict[str, str]]:
        return self.send("POST", path, form, **{"origin": f"http://{self.address}", **headers})


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """Without a token, on loopback."""
    with Sidecar(config(), tmp_path_factory.mktemp("free")) as sidecar:
        yield sidecar


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    with Sidecar(config(admin=f", token: {TOKEN}"), tmp_path_factory.mktemp("locked")) as sidecar:
        yield sidecar


# ── over HTTP ──


def test_the_page_is_whole_and_small(free: Sidecar) -> None:
    status, body, headers = Browsing(free).send("GET", "/")
    assert status == 200
    assert headers["content-type"] == "text/html; charset=utf-8"
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    size = len(body.encode())
    for path in re.findall(r'(?:src|href)="(/dashboard/[^"]+)"', body):
        status, text, _ = Browsing(free).send("GET", path)
        assert status == 200
        size += len(text.encode())
    assert size < 100_000
    assert not re.search(r'(src|href|action)="(?!/|#)', body), "nothing comes from elsewhere"
    assert "style=" not in body
    assert "orders-1" in body
    assert "cluster agents: no endpoint takes RPCs" in body


def test_programs_get_the_list(free: Sidecar) -> None:
    status, body = free.get("/")
    assert status == 200
    assert "GET  /status" in body
    assert "<" not in body


def test_another_host_name_gets_no_page(free: Sidecar) -> None:
    for path in ("/", "/status", "/dashboard/events", "/login"):
        assert Browsing(free).send("GET", path, host="evil.example")[0] == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_other_pages_change_nothing(free: Sidecar, headers: dict[str, str]) -> None:
    assert free.request("POST", "/drain", headers)[0] == 403
    assert free.get("/readyz")[0] == 200


def test_without_a_session_there_is_only_the_form(locked: Sidecar) -> None:
    browsing = Browsing(locked)
    status, _, headers = browsing.send("GET", "/")
    assert (status, headers["location"]) == (303, "/login")
    status, body, _ = browsing.send("GET", "/login")
    assert status == 200
    assert 'type="password"' in body
    assert "agents" not in body, "nothing of the sidecar is told before"
    for path in ("/status", "/dashboard/events", "/dashboard/app.js", "/metrics", "/config"):
        assert locked.get(path)[0] == 401
    assert locked.get("/status", {"authorization": f"Bearer {TOKEN}"})[0] == 200


def test_log_in_look_and_log_out(locked: Sidecar) -> None:
    browsing = Browsing(locked)
    assert browsing.post("/login", {"token": "not-the-token"})[0] == 401
    assert browsing.cookie == ""
    status, _, headers = browsing.post("/login", {"token": TOKEN})
    assert (status, headers["location"]) == (303, "/")
    assert "HttpOnly; SameSite=Strict" in headers["set-cookie"]
    status, body, _ = browsing.send("GET", "/")
    assert status == 200
    assert TOKEN not in body
    assert "Log out" in body
    # The cookie alone is not enough for a change: a page of ours says that it is one.
    assert browsing.send("POST", "/drain", {})[0] == 403
    assert browsing.send("POST", "/logout", {}, origin="http://evil.example")[0] == 403
    assert browsing.post("/logout", {"csrf": "0" * 64})[0] == 403, "nor is the origin"
    csrf = re.search(r'name="csrf" content="([0-9a-f]{64})"', body)
    assert csrf is not None
    kept = browsing.cookie
    assert browsing.post("/logout", {"csrf": csrf[1]})[0] == 303
    browsing.cookie = kept
    assert browsing.send("GET", "/")[0] == 303, "the session has ended in the sidecar, not only in the browser"


def test_a_login_from_another_page_is_refused(locked: Sidecar) -> None:
    browsing = Browsing(locked)
    assert browsing.post("/login", {"token": TOKEN}, origin="http://evil.example")[0] == 403
    assert browsing.cookie == ""


def test_what_a_caller_sends_is_no_markup(free: Sidecar, tmp_path: Path) -> None:
    status = json.loads(free.get("/status")[1])
    assert status["node"] == "orders-1"
    body = Browsing(free).send("GET", "/?" + quote("<script>alert(1)</script>"))[1]
    assert "alert(1)" not in body


def test_a_long_form_is_not_read(locked: Sidecar) -> None:
    assert Browsing(locked).post("/login", {"token": "x" * 20_000})[0] == 413


@pytest.mark.parametrize(
    "headers",
    [
        "content-length: 37",
        "content-length: 37\r\ntransfer-encoding: chunked",
        "content-length: -1",
        "content-length: +5",
    ],
)
def test_no_body_is_taken_for_a_request(free: Sidecar, headers: str) -> None:
    """Smuggling: what stands in the body of a request that is refused, or not for a body, is never answered."""
    host, _, port = free.admin.rpartition(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        inner = b"GET /version HTTP/1.1\r\nhost: a.b.c\r\n\r\n"[:37]
        connection.sendall(f"POST /config HTTP/1.1\r\nhost: {free.admin}\r\n{headers}\r\n\r\n".encode() + inner)
        connection.shutdown(socket.SHUT_WR)
        answers = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answers.count(b"HTTP/1.1 ") == 1
    assert b"sidecar" not in answers.partition(b"\r\n\r\n")[2]


# ── in a browser ──


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[Sidecar]:
    """With an agent, one endpoint that is not there, and traffic that is partly refused."""
    async with RawAgent(echo) as agent:
        sidecar = Sidecar(config(agent.address), tmp_path)
        with sidecar:
            caller = await RawCaller.connect(sidecar.addresses["app"])
            for path in [*["/test.Service/Read"] * 30, *["/test.Service/Write"] * 5, "/test.Service/Nothing"]:
                await caller.open(("x-note", "<b>"), path=path, body=b"hi", end=True).over()
            yield sidecar
            caller.close()


@needs_chromium
async def test_the_page_in_a_browser(served: Sidecar) -> None:
    async with Browser() as browser:
        page = await browser.page(f"http://{served.admin}/")
        await page.until("document.querySelector('#live.on')")
        assert (await page.text("h1"), await page.text("#head .chip")) == ("orders-1", "● ready")
        assert "127.0.0.1:1 is unreachable" in await page.text("#troubles")
        # The samples come by the stream: nobody loads the page again.
        await page.until("[...document.querySelectorAll('.lane tbody th')].some((e) => e.innerText === 'reads')")
        rate = "document.querySelector('[data-key=reads] td:nth-of-type(2)').innerText"
        await page.until(f"parseFloat({rate}) > 0")
        refusals = await page.text("#refusals")
        assert "RATE_LIMITED × 2" in refusals
        assert "NO_ROUTE" in refusals
        alerts = await page.text("#alerts")
        assert "1 alert firing" in alerts
        assert "sidecar_config_generation is 1" in alerts
        assert "per-caller" in await page.text(".callers")
        # Pointing at a curve tells of that moment in all of them.
        await page.evaluate(
            "document.querySelector('.plot').dispatchEvent(new PointerEvent('pointermove', {bubbles: true, clientX: 1}))"
        )
        assert await page.evaluate("document.querySelectorAll('.cursor').length") == 4
        assert await page.evaluate("[...document.querySelectorAll('th:not([scope])')].length") == 0
        assert all(url.startswith((f"http://{served.admin}/", "about:")) for url in page.requested)
        assert page.problems == []


@needs_chromium
async def test_focus_stays_when_panels_are_redrawn(served: Sidecar) -> None:
    async with Browser() as browser:
        page = await browser.page(f"http://{served.admin}/")
        await page.until("document.querySelector('#live.on')")
        await page.evaluate("document.querySelector('.events').focus()")
        await page.evaluate("document.querySelector('.events').scrollTop = 7")
        before = await page.evaluate("document.querySelector('#charts svg').dataset.values")
        await page.until(f"document.querySelector('#charts svg').dataset.values !== {json.dumps(before)}")
        assert await page.evaluate("document.activeElement.className") == "events"
        assert page.problems == []


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
async def test_it_fits_a_phone_and_can_be_read(served: Sidecar, *, dark: bool) -> None:
    async with Browser() as browser:
        page = await browser.page(f"http://{served.admin}/", width=360, height=740, dark=dark)
        await page.until("document.querySelector('#live.on')")
        assert await page.evaluate("document.documentElement.scrollWidth") <= 360
        # WCAG 2.1: 4.5 to 1 for text of this size.
        poor = await page.evaluate(_CONTRAST)
        assert poor == []
        assert page.problems == []


_CONTRAST = """
(() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (c) => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const luminance = ([r, g, b]) => 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b);
  const behind = (e) => { for (; e; e = e.parentElement) { const c = numbers(getComputedStyle(e).backgroundColor); if (c[3] !== 0) return c; } return [255, 255, 255]; };
  const poor = [];
  for (const e of document.querySelectorAll("body *")) {
    const has = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!has || e.offsetParent === null || e.closest(".skip, .hidden, svg")) continue;
    const [a, b] = [luminance(numbers(getComputedStyle(e).color)), luminance(behind(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push(`${e.tagName}.${e.className} ${e.innerText}: ${ratio.toFixed(2)}`);
  }
  return poor;
})()
"""


ROLLOUT = """
node: {{name: orders-1}}
admin: {{bind: "127.0.0.1:0"}}
listeners:
  - name: app
    direction: outbound
    bind: "127.0.0.1:0"
    routes: [{{name: all, match: {{method: "/*"}}, to: billing}}]
clusters:
  billing:
    health_check: {{mode: "off"}}
    versions:
      v1: {{endpoints: ["{v1}"]}}
      v2: {{endpoints: ["{v2}"]}}
    rollout:
      stable: v1
      candidate: v2
      steps: [30, 60, 100]
      first_step_for: 1h
      analysis: {{interval: 1s, min_rpcs: 1000}}
"""


@needs_chromium
async def test_a_rollout_is_paused_and_aborted(tmp_path: Path) -> None:
    async with RawAgent(echo) as v1, RawAgent(echo) as v2, Browser() as browser:
        with Sidecar(ROLLOUT.format(v1=v1.address, v2=v2.address), tmp_path) as sidecar:
            caller = await RawCaller.connect(sidecar.addresses["app"])
            page = await browser.page(f"http://{sidecar.admin}/")
            await page.until("document.querySelector('.steps .now')?.innerText === '30 %'")
            for _ in range(20):
                await caller.call()
            chip = "document.querySelector('.rollout .chip').innerText"
            running = "document.querySelector('.rollout tr[data-key=v1] td:nth-of-type(2)').innerText"
            await page.until(f"{running} === '14'")

            await page.click("form[data-change=pause] button")
            await page.until(f"{chip} === '▲ paused'")
            assert await page.text("#said") == "billing: paused, 30 % for the candidate"
            assert _rollout(sidecar)["phase"] == "paused"
            assert _rollout(sidecar)["history"][-1]["by"] == "dashboard"

            await page.click("form[data-change=resume] button")
            await page.until(f"{chip} === '● progressing'")

            # There is no way back from these: the page asks first.
            await page.click("form[data-change=abort] button")
            await page.until("document.querySelector('dialog[open]')")
            await page.press("Escape", 27)
            await page.until("!document.querySelector('dialog')")
            assert _rollout(sidecar)["phase"] == "progressing"

            await page.click("form[data-change=abort] button")
            await page.click("dialog button.danger")
            await page.until(f"{chip} === '✕ rolled back'")
            assert (_rollout(sidecar)["phase"], _rollout(sidecar)["percent"]) == ("rolled_back", 0)
            assert "rollout of billing went back to v1" in await page.text("#troubles")
            assert page.problems == []
            caller.close()

            # Nobody else's page can do that.
            browsing = Browsing(sidecar)
            assert browsing.post("/rollout/start?cluster=billing", {})[0] == 403
            assert browsing.post("/rollout/start?cluster=billing", {"csrf": "0" * 64})[0] == 403
            assert _rollout(sidecar)["phase"] == "rolled_back"


def _rollout(sidecar: Sidecar) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(sidecar.get("/rollout?cluster=billing")[1])
    return found


@needs_chromium
async def test_logging_in_with_the_keyboard(locked: Sidecar) -> None:
    async with Browser() as browser:
        page = await browser.page(f"http://{locked.admin}/")
        assert await page.evaluate("location.pathname") == "/login"
        assert await page.evaluate("document.activeElement.id") == "token"
        await page.type(TOKEN)
        await page.press("Enter", 13, "\r")
        await page.until("document.querySelector('#live.on')")
        assert await page.evaluate("document.cookie") == "", "scripts do not see the session"
        await page.click("footer button")
        await page.until("location.pathname === '/login'")
        assert page.problems == []


@needs_chromium
async def test_a_page_says_when_the_sidecar_is_gone(tmp_path: Path) -> None:
    async with Browser() as browser:
        with Sidecar(config(), tmp_path) as sidecar:
            page = await browser.page(f"http://{sidecar.admin}/")
            await page.until("document.querySelector('#live.on')")
        await page.until("document.querySelector('#live.lost')")
        assert "old" in await page.text("#live")
