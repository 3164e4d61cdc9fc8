"""Does the file of keyed RPCs stop growing? A million keys, each claimed and done, of which few are kept at a time.

    python -m bench.keys [--keys 1000000] [--kept 50000] [--bytes 300]

The clock is moved so that about `--kept` records are within their time; printed: the file's size as the keys go by.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import tempfile
import time
from pathlib import Path

from sidecar.store.sqlite import SQLiteStore
from tests.support.clock import FakeClock

AT_ONCE = 1000


async def run(path: Path, keys: int, kept: int, size: int) -> list[dict[str, float]]:
    clock = FakeClock()
    store = SQLiteStore(path, clock)
    claim, answer = b"r" * 250, b"d" * size
    rows = []
    began = time.perf_counter()

    async def once(name: str) -> None:
        assert await store.put(name, None, claim, keep=86_400.0) is True
        assert await store.put(name, claim, answer, keep=float(kept) / AT_ONCE) is True

    for first in range(0, keys, AT_ONCE):
        await asyncio.gather(*(once(f"idempotency:{i:032x}") for i in range(first, first + AT_ONCE)))
        clock.advance(1.0)
        if (first + AT_ONCE) % (keys // 10) == 0:
            files = path.parent.glob(f"{path.name}*")
            rows.append(
                {
                    "keys": first + AT_ONCE,
                    "MiB": round(sum(each.stat().st_size for each in files) / 2**20, 1),
                    "seconds": round(time.perf_counter() - began, 1),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    await store.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.keys", description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--kept", type=int, default=50_000)
    parser.add_argument("--bytes", type=int, default=300)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sidecar-keys-") as folder:
        path = Path(folder) / "s.db"
        asyncio.run(run(path, args.keys, args.kept, args.bytes))
        with sqlite3.connect(path) as connection:
            (left,) = connection.execute("SELECT COUNT(*) FROM records").fetchone()
        connection.close()
        print(json.dumps({"records left": left}))


if __name__ == "__main__":
    main()
