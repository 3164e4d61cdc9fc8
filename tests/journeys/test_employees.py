"""Three employees at work through two sidecars, and what they do when the process, the browser or a site fails."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sqlite3
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest

from clients.python import AgentClient
from clients.python.api import agent_pb2 as pb
from clients.python.api.agent_pb2_grpc import AgentServiceStub
from tests.journeys.pair import Pair
from tests.journeys.test_agent_server import WAIT, running
from tests.support.browser import needs_chromium
from tests.support.pki import Pki
from tests.support.postgres import cluster, needs_postgres

AGENTS = ("--agents", "agent_server.agents.workflow", "--agents", "agent_server.agents.data")
SHOP = """<html><body><div id="list"></div><script>
  const products = %s;
  document.getElementById('list').innerHTML = products.map(p =>
    `<div class="product"><h2 class="name">${p[0]}</h2><span class="price">${p[1]}</span><a href="/p/${p[0]}">more</a></div>`).join('');
</script></body></html>"""


class Site:
    """A website and its APIs. `held` is set when `/hold` is asked; it answers when `released` is set."""

    def __init__(self, certificate: tuple[Path, Path] | None = None) -> None:
        self.held = threading.Event()
        self.released = threading.Event()
        self.asked: list[str] = []
        self.keys: list[str] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                name, _, number = self.path.strip("/").partition("/")
                status, kind, body = 200, "text/html", b""
                if name == "list":
                    body = (SHOP % json.dumps([[f"{number}-{n}", f"{n}.50"] for n in range(5)])).encode()
                elif name == "next":
                    link = f'<a class="next" href="/next/{int(number) + 1}">on</a>' if int(number) < 3 else ""
                    body = f'<div class="product"><p class="name">p{number}</p></div>{link}'.encode()
                elif name == "missing":
                    status = 404
                elif name == "api":
                    # Every tenth is gone for good, every fifteenth is back at the second try.
                    status = 404 if int(number) % 10 == 0 else 200
                    if int(number) % 15 == 7 and site.asked.count(self.path) == 1:
                        status = 503
                    kind, body = "application/json", json.dumps({"number": int(number)}).encode()
                elif name == "hold":
                    site.held.set()
                    site.released.wait(WAIT)
                elif name == "huge":
                    body = b"<p>" + b"x" * (2 << 20)
                with contextlib.suppress(OSError):
                    self.answer(status, kind, body)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                site.keys.append(self.headers["idempotency-key"])
                if self.path == "/hold" and not site.released.is_set():
                    site.held.set()
                    site.released.wait(WAIT)
                with contextlib.suppress(OSError):
                    self.answer(200, "application/json", b"{}")

            def answer(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.web.daemon_threads = True
        self.web.handle_error = lambda *_: None  # type: ignore[method-assign]
        scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.web.socket = context.wrap_socket(self.web.socket, server_side=True)
            scheme = "https"
        self.url = f"{scheme}://127.0.0.1:{self.web.server_port}"
        self.thread = threading.Thread(target=self.web.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.released.set()
        self.web.shutdown()
        self.thread.join()
        self.web.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


def settings(folder: Path, text: str = "retry_delay: 0.01\n") -> tuple[str, ...]:
    (folder / "agent.yaml").write_text(text)
    database = str(folder / "agent.db")
    return ("-c", str(folder / "agent.yaml"), "--database", database, "--allow-address", "127.0.0.0/8", *AGENTS)


def rows(folder: Path, sql: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(folder / "agent.db")) as db:
        return db.execute(sql).fetchall()


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """An agent server behind two sidecars: its folder, and where callers call."""
    folder = tmp_path_factory.mktemp("office")
    with running(*settings(folder)) as process, Pair(folder, process.address) as pair:
        yield folder, pair.address


def call(address: str, operation: str, parameters: dict[str, Any], agent: str = "workflow") -> Any:
    async def work() -> Any:
        async with asyncio.timeout(WAIT), AgentClient(address) as client:
            return (await client.execute(operation, parameters, agent=agent)).output

    return asyncio.run(work())


@needs_chromium
def test_collect_products_with_the_browser_into_a_database(office: tuple[Path, str], site: Site) -> None:
    folder, address = office
    inputs = {"paths": [f"/list/{page}" for page in range(4)]}
    given = call(address, "run", {"task": f"Collect products from {site.url}", "inputs": inputs})
    assert given["origin"] == "rule"
    assert given["output"] == {"pages": 4, "products": 20, "stored": 20}
    assert rows(folder, "SELECT name, price, link FROM products WHERE name = '3-4'") == [("3-4", "4.50", "/p/3-4")]
    assert rows(folder, "SELECT COUNT(DISTINCT name) FROM products") == [(20,)]


def test_reconcile_a_csv_with_a_database(office: tuple[Path, str]) -> None:
    _, address = office
    for sql in (
        "CREATE TABLE invoices (id INTEGER PRIMARY KEY, customer TEXT, amount REAL)",
        "INSERT INTO invoices VALUES (1, 'Ann', 10.0), (2, 'Ben', 20.5), (3, 'Cem', 30.0), (5, 'Dan', 50.0)",
    ):
        call(address, "execute", {"sql": sql}, "data")
    text = 'id,customer,amount\n1,Ann,10.00\n2,Ben,21.5\n3,"Cem",30\n4,Eve,40\n'
    inputs = {"csv": text, "sql": "SELECT id, customer, amount FROM invoices", "key": ["id"]}
    given = call(address, "run", {"workflow": "reconcile", "inputs": inputs})["output"]
    assert (given["matched"], given["is_reconciled"]) == (2, False)
    assert given["only_in_csv"] == [{"id": "4", "customer": "Eve", "amount": "40"}]
    assert given["only_in_database"] == [{"id": 5, "customer": "Dan", "amount": 50}]
    assert given["different"] == [{"key": {"id": "2"}, "field": "amount", "left": "21.5", "right": 20.5}]


def test_a_hundred_calls_with_failures_among_them(office: tuple[Path, str], site: Site) -> None:
    _, address = office
    urls = [f"{site.url}/api/{number}" for number in range(1, 101)]
    given = call(address, "run", {"workflow": "call_apis", "inputs": {"urls": urls}})
    assert (given["output"]["asked"], given["output"]["answered"]) == (100, 90)
    results = given["output"]["results"]
    assert [each["item"] for each in results] == urls
    assert all(each["output"]["data"]["number"] == n for n, each in enumerate(results, 1) if n % 10)
    assert {each["error"]["reason"] for each in results if not each["ok"]} == {"HTTP_STATUS"}
    assert site.asked.count("/api/7") == 2
    assert len(given["failed"]["calls"]) == 10


def test_progress_is_told_while_a_workflow_runs(office: tuple[Path, str], site: Site) -> None:
    _, address = office
    steps = [{"id": f"s{n}", "tool": "http.get", "with": {"url": f"{site.url}/x"}} for n in range(3)]

    async def work() -> list[str]:
        told = []
        async with asyncio.timeout(WAIT), AgentClient(address, agent="workflow") as client:
            async for event in client.stream("run", {"definition": {"name": "three", "steps": steps}}):
                told.append(type(event).__name__)
        return told

    assert asyncio.run(work()) == ["Started", "Progress", "Progress", "Progress", "Result"]


def ten_steps(url: str) -> dict[str, Any]:
    """Five rows and five messages, one after the other; the sixth step is held by the site."""
    steps: list[dict[str, Any]] = [
        {"id": "s0", "tool": "database.execute", "with": {"sql": "CREATE TABLE IF NOT EXISTS done (step INTEGER)"}}
    ]
    for n in range(1, 10):
        step: dict[str, Any] = {"id": f"s{n}", "needs": [f"s{n - 1}"], "timeout": 60}
        if n % 2:
            step |= {"tool": "http.send", "with": {"url": url + ("/hold" if n == 5 else "/send"), "timeout": 60.0}}
        else:
            step |= {
                "tool": "database.insert",
                "with": {"table": "done", "rows": [{"step": n}]},
            }
        steps.append(step)
    return {"name": "ten", "steps": steps}


def test_a_killed_workflow_goes_on_with_every_side_effect_once(tmp_path: Path, site: Site) -> None:
    async def submit(address: str) -> str:
        request = pb.SubmitRequest(agent="workflow", operation="run")
        request.parameters.update({"definition": ten_steps(site.url)})
        async with asyncio.timeout(WAIT), grpc.aio.insecure_channel(address) as channel:
            return (await AgentServiceStub(channel).Submit(request)).task.task_id

    async def ended(address: str, task_id: str) -> tuple[pb.Task, pb.RatingSummary, list[int]]:
        async with asyncio.timeout(WAIT), grpc.aio.insecure_channel(address) as channel:
            stub = AgentServiceStub(channel)
            numbers = []
            async for news in stub.WatchTask(pb.WatchTaskRequest(task_id=task_id)):
                if news.WhichOneof("news") == "event":
                    numbers.append(news.event.sequence)
                else:
                    rated = await stub.RateTask(pb.RateTaskRequest(task_id=task_id, score=5, comment="good"))
                    return news.ended, rated.summary, numbers
        raise AssertionError

    with running(*settings(tmp_path)) as first:
        task_id = asyncio.run(submit(first.address))
        assert site.held.wait(WAIT)
        first.end(signal.SIGKILL)
    assert rows(tmp_path, "SELECT step FROM done ORDER BY step") == [(2,), (4,)]
    site.released.set()
    with running(*settings(tmp_path)) as second:
        task, rating, numbers = asyncio.run(ended(second.address, task_id))
    assert (task.state, task.attempts) == (pb.TASK_STATE_SUCCEEDED, 2)
    assert task.result.output["steps_kept"] == 5
    assert task.result.output["steps_made"] == 5
    assert rows(tmp_path, "SELECT step FROM done ORDER BY step") == [(2,), (4,), (6,), (8,)]
    # What was in flight is sent again under the same key; nothing else is sent twice.
    assert len(site.keys) == 6
    assert len(set(site.keys)) == 5
    assert site.keys[2] == site.keys[3]
    assert numbers == sorted(set(numbers))
    assert (rating.count, rating.mean_score) == (1, 5.0)


def test_tasks_are_listed_cancelled_and_known_by_their_key(office: tuple[Path, str], site: Site) -> None:
    _, address = office

    async def scene() -> None:
        async with asyncio.timeout(WAIT), grpc.aio.insecure_channel(address) as channel:
            stub = AgentServiceStub(channel)
            request = pb.SubmitRequest(agent="workflow", operation="run", idempotency_key="one")
            step = {
                "id": "wait",
                "tool": "http.get",
                "with": {"url": f"{site.url}/hold", "timeout": 60.0},
                "timeout": 60,
            }
            request.parameters.update({"definition": {"name": "held", "steps": [step]}})
            task = (await stub.Submit(request)).task
            assert (await stub.Submit(request)).task.task_id == task.task_id
            await asyncio.to_thread(site.held.wait, WAIT)
            cancelled = (await stub.CancelTask(pb.CancelTaskRequest(task_id=task.task_id))).task
            assert cancelled.state == pb.TASK_STATE_CANCELLED
            listed = await stub.ListTasks(pb.ListTasksRequest(state=pb.TASK_STATE_CANCELLED))
            assert task.task_id in [each.task_id for each in listed.tasks]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.GetTask(pb.GetTaskRequest(task_id="other"))
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    asyncio.run(scene())


@needs_chromium
def test_what_a_browser_meets_is_a_clear_error_and_the_next_page_is_shown(tmp_path: Path, site: Site) -> None:
    pki = Pki(tmp_path / "certs")
    leaf = pki.leaf("server")
    secure = Site((Path(leaf.certificate), Path(leaf.private_key)))
    text = "retry_delay: 0.01\nmax_retries: 1\nbrowser: {max_page_bytes: 1048576, pages: 2}\n"

    def look(address: str, url: str, timeout: float = 20.0) -> tuple[str, int]:
        step = {
            "id": "look",
            "tool": "browser.extract",
            "with": {"url": url, "fields": {"name": ".name"}, "rows": ".product", "timeout": timeout},
            "on_error": "continue",
        }
        given = call(address, "run", {"definition": {"name": "one", "steps": [step]}})
        if given["failed"]:
            return given["failed"]["look"]["reason"], 0
        return "", len(given["output"]["result"]["rows"])

    try:
        with running(*settings(tmp_path, text)) as process:
            assert look(process.address, f"{site.url}/list/1") == ("", 5)
            assert look(process.address, f"{site.url}/huge") == ("PAGE_TOO_LARGE", 0)
            assert look(process.address, f"{site.url}/hold", 0.3) == ("PAGE_TIMEOUT", 0)
            assert look(process.address, f"{secure.url}/list/1") == ("TLS_FAILED", 0)
            assert look(process.address, "http://10.1.2.3/") == ("ADDRESS_REFUSED", 0)
            assert look(process.address, "file:///etc/passwd") == ("BAD_URL", 0)
            assert look(process.address, f"{site.url}/list/2") == ("", 5)
    finally:
        secure.close()


# --- PostgreSQL


@pytest.fixture
def postgres() -> Iterator[str]:
    with cluster() as found:
        yield found.url


@needs_postgres
def test_postgresql_by_url(tmp_path: Path, postgres: str) -> None:
    (tmp_path / "url").write_text(postgres)
    text = f"databases: {{books: {{file: {tmp_path / 'url'}}}}}\n"
    create = {
        "sql": "CREATE TABLE parts (id BIGINT PRIMARY KEY, name TEXT, price DOUBLE PRECISION)",
        "database": "books",
    }
    parts = [{"id": n, "name": f"part {n}", "price": n / 2} for n in range(2500)]
    read = {"sql": "SELECT * FROM parts WHERE id >= :low ORDER BY id", "params": {"low": 2498}, "database": "books"}
    steps = [
        {"id": "create", "tool": "database.execute", "with": create},
        {
            "id": "insert",
            "needs": ["create"],
            "tool": "database.insert",
            "with": {"table": "parts", "rows": parts, "database": "books"},
        },
        {"id": "read", "needs": ["insert"], "tool": "database.query", "with": read},
    ]
    with running(*settings(tmp_path, text)) as process:
        given = call(process.address, "run", {"definition": {"name": "books", "steps": steps}})
        again = [
            {
                "id": "again",
                "tool": "database.insert",
                "on_error": "continue",
                "with": {"table": "parts", "rows": parts[:1], "database": "books"},
            }
        ]
        refused = call(process.address, "run", {"definition": {"name": "again", "steps": again}})
    assert given["output"]["result"]["rows"] == parts[2498:]
    assert refused["failed"]["again"]["reason"] == "CONSTRAINT"
