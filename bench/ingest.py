"""One million records through Ingest into a real agent server, and the memory it takes meanwhile.

python -m bench.ingest [RECORDS]
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from clients.python import AgentClient


def rss(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(pid)


async def ingest(address, pid, count):
    sizes = []

    async def records():
        for number in range(count):
            if number and number % max(count // 10, 1) == 0:
                sizes.append(rss(pid))
                print(f"{number:>9,} records  {sizes[-1]:7.1f} MiB", flush=True)
            yield {"id": number, "name": f"record {number}"}

    async with AgentClient(address, timeout=None) as client:
        began = time.perf_counter()
        target = {"table": "records", "columns": {"id": "INTEGER", "name": "TEXT"}, "key": ["id"], "batch_size": 5000}
        summary = await client.ingest(records(), target)
        print(summary, f"{count / (time.perf_counter() - began):,.0f} records/s")
    growth = sizes[-1] - sizes[0]
    print(f"RSS after a tenth {sizes[0]:.1f} MiB, at the end {sizes[-1]:.1f} MiB: {growth:+.1f} MiB")
    return growth


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "agent_server", "run", "--bind", "127.0.0.1:0", "--database", f"{folder}/a.db"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            address = process.stdout.readline().split()[-1]
            growth = asyncio.run(ingest(address, process.pid, count))
        finally:
            process.terminate()
            process.wait()
    return 0 if growth < 16 else 1


if __name__ == "__main__":
    sys.exit(main())
