"""The three figures of the agent server, same work side by side: one by one against what its tools do.

    make bench-agent

100 API calls, 40 pages in the browser, 10,000 rows into PostgreSQL where it is here, into SQLite otherwise. How much is won over
one by one depends on how long a site takes to answer, so calls and pages are measured with a near site and with a far one, and
both are shown. Exit code 1: a figure is below what is wanted. Writes docs/images/bench-agent.svg.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from agent_server.tools.addresses import AddressRule
from agent_server.tools.http import Fetcher
from agent_server.tools.http_calls import Call, HttpCalls
from agent_server.tools.warehouse import Warehouse

ROOT = Path(__file__).resolve().parent.parent
# Seconds of an answer from near and from far (of a page of the web, two seconds are few); what is wanted holds for the far one, which is
# what waiting together is for. What a near one takes is this machine's own work, and that has as many cores as it has.
CALLS, CALL_SECONDS = 100, (0.05, 0.2)
PAGES, PAGE_SECONDS = 40, (0.3, 2.0)
ROWS = 10_000


async def serve_site(seconds: float):
    async def serve(reader, writer):
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await asyncio.sleep(seconds)
                body = b"<p class=name>page</p>"
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
                )
        except (asyncio.IncompleteReadError, asyncio.CancelledError, OSError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=500)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


@contextmanager
def site(seconds: float):
    """A site in a process of its own, as sites are; gives its URL."""
    command = [sys.executable, "-m", "bench.agent", "--site", str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/"
    finally:
        process.terminate()
        process.wait()


async def timed(work):
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


async def api_calls(url):
    fetcher = Fetcher(AddressRule(["127.0.0.0/8"]), now=time.monotonic, user_agent="bench")
    calls = HttpCalls(fetcher, now=time.monotonic, sleep=asyncio.sleep, per_host=100)

    async def one(number):
        answer, _ = await calls.call(Call(f"{url}{number}"))
        assert answer.status == 200, answer

    async def in_turn():
        for number in range(CALLS):
            await one(number)

    async def together():
        await asyncio.gather(*(one(number) for number in range(CALLS)))

    slow, fast = await timed(in_turn()), await timed(together())
    await fetcher.close()
    return slow, fast


async def pages(url):
    from agent_server.tools.browser import BrowserPool

    pool = BrowserPool(AddressRule(["127.0.0.0/8"]), pages=16)
    await pool.extract(url, "", {"name": ".name"}, 30)  # the browser's start belongs to neither side

    async def one(number):
        # On both sides the pages belong to one run, as those of a step with `for_each` do.
        assert await pool.extract(f"{url}{number}", "", {"name": ".name"}, 60, run="bench") == [{"name": "page"}]

    async def in_turn():
        for number in range(PAGES):
            await one(number)

    async def together():
        await asyncio.gather(*(one(number) for number in range(PAGES)))

    slow = await timed(in_turn())
    await pool.run_ended("bench")
    fast = await timed(together())
    await pool.close()
    return slow, fast


@contextmanager
def database():
    tools = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    with tempfile.TemporaryDirectory() as folder:
        if not tools:
            yield "SQLite", f"sqlite+aiosqlite:///{folder}/bench.db"
            return
        bin_folder, data = tools[-1].parent, Path(folder) / "data"
        user = ["runuser", "-u", "nobody", "--"] if os.geteuid() == 0 else []
        if user:
            shutil.chown(folder, "nobody")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        run = lambda *command: subprocess.run([*user, *map(str, command)], check=True, capture_output=True, cwd=folder)
        run(bin_folder / "initdb", "-D", data, "-U", "bench", "--auth=trust")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
        run(bin_folder / "pg_ctl", "-D", data, "-l", f"{folder}/log", "-w", "-o", options, "start")
        try:
            yield "PostgreSQL", f"postgresql+asyncpg://bench@127.0.0.1:{port}/postgres"
        finally:
            run(bin_folder / "pg_ctl", "-D", data, "-m", "fast", "stop")


async def rows(url):
    warehouse = Warehouse({"main": url})
    for table in ("slow", "fast"):
        await warehouse.change("main", f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, name TEXT)", [])
    given = [{"id": number, "name": f"row {number}"} for number in range(ROWS)]

    async def in_turn():
        for row in given:
            await warehouse.change("main", "INSERT INTO slow VALUES (:id, :name)", [row])

    slow = await timed(in_turn())
    fast = await timed(warehouse.insert("main", "fast", given))
    for table in ("slow", "fast"):
        table_rows, _ = await warehouse.query("main", f"SELECT COUNT(*) FROM {table}", {}, 1)
        assert table_rows.rows == ((ROWS,),)
    await warehouse.close()
    return slow, fast


def picture(figures):
    height = 70 + 84 * len(figures)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {height}" font-family="sans-serif" font-size="14">',
        f'<rect width="760" height="{height}" fill="#ffffff"/>',
        '<text x="20" y="32" font-size="18" fill="#111">Agent server: the same work, one by one and by its tools</text>',
    ]
    for number, (name, slow, fast, _) in enumerate(figures):
        y = 66 + 84 * number
        width = max(2.0, 460 * fast / slow)
        parts += [
            f'<text x="20" y="{y}" fill="#111">{name}: {slow / fast:.0f}×</text>',
            f'<rect x="20" y="{y + 10}" width="460" height="18" fill="#b8c0cc"/>',
            f'<text x="490" y="{y + 24}" fill="#333">one by one, {slow:.2f} s</text>',
            f'<rect x="20" y="{y + 32}" width="{width:.1f}" height="18" fill="#1f6feb"/>',
            f'<text x="{30 + width:.0f}" y="{y + 46}" fill="#333">{fast:.2f} s</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def main() -> int:
    if sys.argv[1:2] == ["--site"]:
        asyncio.run(serve_site(float(sys.argv[2])))
    figures = []
    for seconds in CALL_SECONDS:
        with site(seconds) as url:
            wanted = 20 if seconds == CALL_SECONDS[-1] else None
            figures.append((f"{CALLS} API calls of {seconds * 1000:.0f} ms", *asyncio.run(api_calls(url)), wanted))
    if shutil.which("chromium"):
        for seconds in PAGE_SECONDS:
            with site(seconds) as url:
                wanted = 6 if seconds == PAGE_SECONDS[-1] else None
                name = f"{PAGES} pages of {seconds * 1000:.0f} ms in the browser"
                figures.append((name, *asyncio.run(pages(url)), wanted))
    else:
        print("pages: skipped, Chromium is not installed")
    with database() as (name, url):
        figures.append((f"{ROWS:,} rows into {name}", *asyncio.run(rows(url)), 10))
    is_met = True
    for name, slow, fast, wanted in figures:
        is_met &= wanted is None or slow / fast >= wanted
        asked = f" (wanted {wanted}×)" if wanted else ""
        print(f"{name:38} one by one {slow:7.2f} s   together {fast:6.2f} s   {slow / fast:6.1f}×{asked}")
    out = ROOT / "docs/images/bench-agent.svg"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(picture(figures))
    print(out.relative_to(ROOT))
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
