"""The crash trial at full size: 2,000 keyed RPCs from 8 callers with duplicates, sidecars killed every 0.5 to 2 s.

    python -m bench.crash [--store sqlite|redis] [--sidecars N] [--keys 1000] [--per-key 2]

Exit code 1: a key was executed twice, or an answer that had been given was lost or different.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

from tests.support.crash import trial
from tests.support.redis import RedisServer


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.crash", description=__doc__)
    parser.add_argument("--store", choices=["sqlite", "redis"], default="sqlite")
    parser.add_argument("--sidecars", type=int, default=1)
    parser.add_argument("--keys", type=int, default=1000)
    parser.add_argument("--per-key", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sidecar-crash-") as made:
        folder = Path(made)
        server = (
            RedisServer(folder, "--appendonly", "yes", "--appendfsync", "always") if args.store == "redis" else None
        )
        if server is not None:
            server.start()
        url = server.url if server is not None else "sqlite:///crash.db"
        try:
            findings, agent = asyncio.run(
                trial(
                    folder,
                    url,
                    keys=args.keys,
                    per_key=args.per_key,
                    sidecars=args.sidecars,
                    seed=args.seed,
                    pause=(0.5, 2.0),
                )
            )
        finally:
            if server is not None:
                server.stop()
        executions = agent.executions()
        different = sum(len(each) > 1 for each in findings.answers.values())
        double = sum(count > 1 for count in executions.values())
        print(
            json.dumps(
                {
                    "store": args.store,
                    "sidecars": args.sidecars,
                    "keys": args.keys,
                    "rpcs": args.keys * args.per_key,
                    "tries": findings.tries,
                    "kills": findings.kills,
                    "ends": findings.ends,
                    "executed": len(executions),
                    "executed twice": double,
                    "answers that differ": different,
                }
            )
        )
        return 1 if double or different or findings.ends["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
