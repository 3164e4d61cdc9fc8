"""Keyed RPCs with real processes: sidecars that are killed, stores that are lost, operators that settle."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import grpc.aio
import pytest

from tests.support.crash import CONFIG, METHOD, Findings, Payments, free_port, trial
from tests.support.crash import pay as repeat
from tests.support.processes import ROOT, Sidecar
from tests.support.redis import RedisServer


def check(findings: Findings, agent: Payments, keys: int) -> None:
    executions = agent.executions()
    assert max(executions.values()) == 1, "a key was executed twice"
    assert all(len(each) == 1 for each in findings.answers.values()), "an answer differs from the first one"
    ends = findings.ends
    assert set(ends) <= {"ok", "unknown", "lost"}
    assert ends["lost"] == 0
    assert ends["ok"] > keys


async def test_sigkill_again_and_again_executes_nothing_twice(tmp_path: Path) -> None:
    findings, agent = await trial(tmp_path, "sqlite:///crash.db", keys=50, per_key=3, seed=3, pause=(0.2, 0.5))
    assert findings.kills >= 1
    check(findings, agent, 50)


async def test_two_sidecars_and_a_redis_execute_nothing_twice(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, "--appendonly", "yes", "--appendfsync", "always")
    server.start()
    try:
        findings, agent = await trial(tmp_path, server.url, keys=50, per_key=3, sidecars=2, seed=4, pause=(0.2, 0.5))
    finally:
        server.stop()
    assert findings.kills >= 1
    check(findings, agent, 50)


async def test_a_redis_that_is_restarted_keeps_what_was_done(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, "--appendonly", "yes", "--appendfsync", "always")
    server.start()
    async with Payments(tmp_path / "executions", 1) as agent:
        config = CONFIG.format(store=server.url, port=0, agent=agent.address)
        try:
            with Sidecar(config, tmp_path) as sidecar:
                async with grpc.aio.insecure_channel(sidecar.addresses["inbound"]) as channel:
                    pay = channel.unary_unary(METHOD)
                    first = await pay(b"a", metadata=(("idempotency-key", "a"),))
                    server.stop()
                    with pytest.raises(grpc.aio.AioRpcError) as lost:
                        await pay(b"b", metadata=(("idempotency-key", "b"),))
                    assert lost.value.code() is grpc.StatusCode.UNAVAILABLE
                    assert await pay(b"c"), "keyless traffic is not touched"
                    server.start()
                    again = Findings()
                    await asyncio.wait_for(repeat([channel], "a", again, random.Random(1)), 20)
                    assert again.answers == {"a": {first}}
        finally:
            server.stop()
        assert agent.executions() == {"a": 1, "c": 1}


def operator(sidecar: Sidecar, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sidecar", "idempotency", *arguments, "--admin", f"http://{sidecar.admin}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("flag", "executions", "code"),
    [("--not-executed", 2, grpc.StatusCode.OK), ("--executed", 1, grpc.StatusCode.FAILED_PRECONDITION)],
)
async def test_an_operator_settles_what_nobody_knows(
    tmp_path: Path, flag: str, executions: int, code: grpc.StatusCode
) -> None:
    async with Payments(tmp_path / "executions", 1) as agent:
        config = CONFIG.format(store="sqlite:///s.db", port=free_port(), agent=agent.address).replace(
            "policies:", f'policies:\n  audit: {{sink: "file://{tmp_path}/audit.jsonl"}}'
        )
        sidecar = Sidecar(config, tmp_path)
        sidecar.start()
        try:
            async with grpc.aio.insecure_channel(sidecar.addresses["inbound"]) as channel:
                pay = channel.unary_unary(METHOD)
                call = pay(b"a", metadata=(("idempotency-key", "a"),))
                await asyncio.wait_for(agent.busy.wait(), 10)
                await asyncio.to_thread(sidecar.kill)
                with pytest.raises(grpc.aio.AioRpcError):
                    await call
                await asyncio.to_thread(sidecar.start)
            async with grpc.aio.insecure_channel(sidecar.addresses["inbound"]) as channel:
                pay = channel.unary_unary(METHOD)
                with pytest.raises(grpc.aio.AioRpcError) as unknown:
                    await pay(b"a", metadata=(("idempotency-key", "a"),))
                assert unknown.value.code() is grpc.StatusCode.ABORTED
                shown = await asyncio.to_thread(operator, sidecar, "list", "--state", "unknown", "--json")
                (record,) = json.loads(shown.stdout)
                assert record["method"] == METHOD
                assert record["record"] in (unknown.value.details() or "")
                done = await asyncio.to_thread(operator, sidecar, "resolve", record["record"], flag, "--by", "ann")
                assert done.returncode == 0, done.stderr
                again = await asyncio.to_thread(operator, sidecar, "resolve", record["record"], flag)
                assert again.returncode == 1
                assert "only what is unknown can be settled" in again.stderr
                repeated = pay(b"a", metadata=(("idempotency-key", "a"),))
                assert await repeated.code() is code
        finally:
            await asyncio.to_thread(sidecar.stop)
        assert agent.executions()["a"] == executions
        noted = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
        (settled,) = [each for each in noted if each["kind"] == "idempotency"]
        assert (settled["record"], settled["by"]) == (record["record"], "ann")


async def test_a_store_that_cannot_be_written_executes_nothing_keyed(tmp_path: Path) -> None:
    (tmp_path / "s.db").write_bytes(b"this is no database, and was never one" * 100)
    async with Payments(tmp_path / "executions", 1) as agent:
        config = CONFIG.format(store="sqlite:///s.db", port=0, agent=agent.address)
        with Sidecar(config, tmp_path) as sidecar:
            async with grpc.aio.insecure_channel(sidecar.addresses["inbound"]) as channel:
                pay = channel.unary_unary(METHOD)
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await pay(b"a", metadata=(("idempotency-key", "a"),))
                assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
                assert await pay(b"b")
        assert agent.executions() == {"b": 1}


async def test_a_locked_store_is_waited_for_no_longer_than_it_says(tmp_path: Path) -> None:
    async with Payments(tmp_path / "executions", 1) as agent:
        config = CONFIG.format(store="sqlite:///s.db", port=0, agent=agent.address)
        with Sidecar(config, tmp_path) as sidecar:
            async with grpc.aio.insecure_channel(sidecar.addresses["inbound"]) as channel:
                pay = channel.unary_unary(METHOD)
                first = await pay(b"a", metadata=(("idempotency-key", "a"),))
                other = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await pay(b"b", metadata=(("idempotency-key", "b"),), timeout=8)
                assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
                other.execute("ROLLBACK")
                other.close()
                assert await pay(b"a", metadata=(("idempotency-key", "a"),)) == first
        assert agent.executions() == {"a": 1}
