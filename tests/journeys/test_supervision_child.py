"""One supervised process, for real: how it starts, what it says, whether it serves, how it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecar.clock import Deadlines, LoopClock
from sidecar.proxy.holding import Holding
from sidecar.runtime import Runtime
from sidecar.supervision.child import Child, Launch, NotServing
from sidecar.supervision.ended import Ended
from sidecar.supervision.serving import Answer
from sidecar.telemetry.metrics import Metrics
from tests.support.processes import ROOT

LIMIT = 20.0


class Heard(logging.Handler):
    """Records, and a way to wait for one."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.changed = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self.changed:
            self.records.append(record)
            self.changed.notify_all()

    def lines(self) -> list[str]:
        return [record.__dict__["line"] for record in self.records if record.getMessage() == "output"]


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
async def runtime(heard: Heard) -> Runtime:
    clock = LoopClock(asyncio.get_running_loop())
    log = logging.Logger("test", logging.INFO)  # noqa: LOG001 - of this test alone
    log.addHandler(heard)
    return Runtime(
        clock=clock,
        deadlines=Deadlines(clock),
        holding=Holding(clock),
        random=random.Random(1),
        metrics=Metrics(),
        log=log,
    )


async def started(runtime: Runtime, *command: str, address: str | None = None, **how: object) -> Child:
    child = Child(Launch(command, address=address, **how), runtime)  # type: ignore[arg-type]
    await child.start()
    return child


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT):
        while not holds():
            await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=0.01)


@pytest.mark.parametrize(
    ("code", "ended", "exit_code", "said"),
    [
        ("raise SystemExit(0)", Ended(0), 0, "code 0"),
        ("raise SystemExit(7)", Ended(7), 7, "code 7"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", Ended(-15), 143, "signal SIGTERM"),
        ("import os; os.abort()", Ended(-6), 134, "signal SIGABRT"),
    ],
)
async def test_how_it_ended_is_told(runtime: Runtime, code: str, ended: Ended, exit_code: int, said: str) -> None:
    child = await started(runtime, *python(code))
    assert await child.wait() == ended
    assert (ended.exit_code, str(ended), child.is_running) == (exit_code, said, False)


async def test_every_line_it_writes_is_in_the_log(runtime: Runtime, heard: Heard) -> None:
    code = "import sys; print('one\\n\\ntwo'); print('three', end='', file=sys.stderr)"
    child = await started(runtime, *python(code), labels={"version": "v2"})
    await child.wait()
    assert sorted(heard.lines()) == ["one", "three", "two"]
    fields = next(each for each in heard.records if each.__dict__.get("line") == "three").__dict__
    assert (fields["stream"], fields["child"], fields["version"], fields["pid"]) == (
        "stderr",
        "agent",
        "v2",
        child.pid,
    )


async def test_a_process_that_keeps_the_pipe_open_does_not_keep_us(runtime: Runtime) -> None:
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'], start_new_session=True)"
    child = await started(runtime, *python(code))
    async with asyncio.timeout(LIMIT):
        assert await child.wait() == Ended(0)


@pytest.mark.parametrize("command", ["no-such-command-anywhere", "./no-such-file"])
async def test_a_command_that_does_not_exist_is_an_error_at_once(runtime: Runtime, command: str) -> None:
    with pytest.raises(FileNotFoundError, match="no such command"):
        await started(runtime, command)


async def test_a_file_that_is_no_program_is_an_error_at_once(runtime: Runtime, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("x")
    with pytest.raises(PermissionError, match="not executable"):
        await started(runtime, str(tmp_path / "data"))


async def test_an_agent_serves_and_stops_in_good_order(runtime: Runtime, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/agent.sock"
    child = await started(
        runtime, sys.executable, "-m", "agent_server", "run", "--bind", address, folder=ROOT, address=address
    )
    await child.serving(LIMIT)
    assert child.has_health_service is True
    assert await child.ask(1.0) is Answer.SERVING
    assert child.memory() > 10_000_000
    assert await child.stop(grace=LIMIT) == Ended(0)
    assert (child.memory(), await child.ask(1.0)) == (0, Answer.NOBODY)


async def test_a_server_without_health_service_serves_when_it_takes_rpcs(runtime: Runtime, tmp_path: Path) -> None:
    code = (
        "import concurrent.futures as f, grpc\n"
        "s = grpc.server(f.ThreadPoolExecutor(1)); s.add_insecure_port(%r); s.start(); s.wait_for_termination()"
    )
    address = f"unix:{tmp_path}/bare.sock"
    child = await started(runtime, *python(code % address), address=address)
    await child.serving(LIMIT)
    assert child.has_health_service is False
    assert await child.stop(grace=1.0) == Ended(-15)


async def test_one_that_ends_instead_of_serving_is_told_at_once(runtime: Runtime, tmp_path: Path) -> None:
    child = await started(runtime, *python("raise SystemExit(3)"), address=f"unix:{tmp_path}/never.sock")
    with pytest.raises(NotServing, match="code 3 before it served") as caught:
        await child.serving(LIMIT)
    assert caught.value.ended == Ended(3)


async def test_one_that_never_serves_is_told_when_time_is_over(runtime: Runtime, tmp_path: Path) -> None:
    child = await started(runtime, *python("import signal; signal.pause()"), address=f"unix:{tmp_path}/never.sock")
    with pytest.raises(NotServing, match="nothing listens at its address"):
        await child.serving(0.2)
    assert await child.stop(grace=LIMIT) == Ended(-15)


async def test_what_ignores_term_is_killed_with_all_it_started(runtime: Runtime, heard: Heard) -> None:
    code = (
        "import signal, subprocess, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import signal; signal.signal(15, signal.SIG_IGN); print(1, flush=True); signal.pause()'])\n"
        "print('child', p.pid, flush=True)\n"
        "p.wait()"
    )
    child = await started(runtime, *python(code))
    await until(lambda: len(heard.lines()) == 2)
    grandchild = int(next(line for line in heard.lines() if line.startswith("child")).split()[1])
    assert await child.stop(grace=0.1) == Ended(-9)
    await until(lambda: not is_alive(grandchild))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


OWNER = """
import asyncio, logging, random, sys
from sidecar.clock import Deadlines, LoopClock
from sidecar.proxy.holding import Holding
from sidecar.runtime import Runtime
from sidecar.supervision.child import Child, Launch
from sidecar.telemetry.metrics import Metrics

async def main():
    clock = LoopClock(asyncio.get_running_loop())
    runtime = Runtime(clock=clock, deadlines=Deadlines(clock), holding=Holding(clock), random=random.Random(),
                      metrics=Metrics(), log=logging.getLogger())
    child = Child(Launch((sys.executable, "-c", "import signal; signal.pause()")), runtime)
    await child.start()
    print(child.pid, flush=True)
    await child.wait()

asyncio.run(main())
"""


async def test_it_does_not_outlive_an_owner_that_is_killed() -> None:
    owner = subprocess.Popen(  # noqa: ASYNC220 - starting one takes no time
        [sys.executable, "-c", OWNER], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert owner.stdout is not None
        pid = int(await asyncio.to_thread(owner.stdout.readline))
        # It has become its command, so it has asked the kernel before.
        await until(
            lambda: (
                b"pause" in Path(f"/proc/{pid}/cmdline").read_bytes()
                and b"keeper" not in Path(f"/proc/{pid}/cmdline").read_bytes()
            )
        )
        owner.kill()
        owner.wait()
        await until(lambda: not is_alive(pid))
    finally:
        owner.kill()
        owner.wait()
        assert owner.stdout is not None
        owner.stdout.close()


def test_signals_have_their_names() -> None:
    assert Ended(-int(signal.SIGKILL)).signal is signal.SIGKILL
    assert Ended(1).signal is None
    assert os.name == "posix"
