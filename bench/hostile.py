"""Each known attack at full speed from one peer, while another, well-behaved one sends 200 RPCs a second: what does the latter notice?

    make hostile                   (HOSTILE_ARGS="--seconds 5 --json FILE")
    python -m bench.hostile --only ping "slow reader"

Real processes: a sidecar (inbound), an agent behind it, the attacker, the good peer. The listener that strangers reach has a rate limit,
without which any caller may keep an agent busy with RPCs that are no attack at all; loop, upstream connection and agent are the same.
Before and after each attack the same good peer is measured alone, and beside two processes that only burn a core each: on a machine of
few cores an attacker that sends all it can takes one for itself and one for whoever has to read it, from everybody else.
`others` is what everything else on the machine used meanwhile, in cores: figures with much of that say little.
Exit code 1: an RPC failed, p99 grew by more than 3 on both counts, memory grew, or something was left.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench.__main__ import HERE, cpu_seconds, rss_mib
from bench.attacks import ATTACKS
from tests.journeys.agent_process import AgentProcess
from tests.support.pki import Pki
from tests.support.processes import Sidecar

WORST_RATIO = 3.0
GROWTH = 32.0
"""MiB that a sidecar may have grown by after an attack; what it may hold for streams that are open is much more (wire.md)."""
RECOVERY = 5.0
"""Seconds after an attack until everything must be as before."""
RECOVERY_LIMIT = 60.0
RATE = 200
BURNERS = 2

CONFIG = """
node: {{name: bench}}
admin: {{bind: "127.0.0.1:0"}}
listeners:
  - name: ours
    direction: inbound
    bind: "127.0.0.1:0"
    routes: [{{name: all, match: {{method: "/*"}}, to: local}}]
  - name: strangers
    direction: inbound
    bind: "127.0.0.1:0"
    limits: {{header_timeout: 2s}}
    policies: {{rate_limit: [{{name: strangers, rate: {limit}/1s, burst: {burst}}}]}}
    routes: [{{name: all, match: {{method: "/*"}}, to: local}}]
  - name: tls
    direction: inbound
    bind: "127.0.0.1:0"
    tls: {{certificate: {leaf.certificate}, private_key: {leaf.private_key}, trusted_ca: {leaf.ca}, client_certificate: require}}
    limits: {{header_timeout: 2s}}
    routes: [{{name: all, match: {{method: "/*"}}, to: local}}]
clusters:
  local: {{endpoints: ["{agent}"]}}
"""


class Ground:
    """The sidecar and its agent, and one phase after the other on them."""

    def __init__(self, sidecar: Sidecar, agent: int, seconds: float) -> None:
        self.sidecar = sidecar
        self.agent = agent
        self.seconds = seconds

    def phase(self, attack: str | None) -> dict:
        """The good peer for so long, alone or beside `attack` ("spin" = beside processes that burn a core each)."""
        listener = "tls" if attack in ATTACKS and ATTACKS[attack].tls else "strangers"
        good = _start("bench.steady", self.sidecar.addresses["ours"], str(RATE), str(self.seconds))
        address, seconds = self.sidecar.addresses[listener], str(self.seconds + 0.2)
        count = 0 if attack is None else BURNERS if attack == "spin" else 1
        hostile = [_start("bench.attacks", str(attack), address, seconds) for _ in range(count)]
        processes = {"sidecar": self.sidecar.pid, "agent": self.agent, "good": good.pid}
        processes |= {"attacker" if number == 0 else f"attacker {number + 1}": each.pid for number, each in enumerate(hostile)}
        before = {name: cpu_seconds(pid) for name, pid in processes.items()}
        machine, began = machine_seconds(), time.monotonic()
        with _peak(self.sidecar.pid) as peak:
            # What a process has used can be read until it has been waited for.
            os.waitid(os.P_PID, good.pid, os.WEXITED | os.WNOWAIT)
            took = time.monotonic() - began
            cpu = {name: round((cpu_seconds(pid) - before[name]) / took, 2) for name, pid in processes.items()}
            cpu["others"] = round((machine_seconds() - machine) / took - sum(cpu.values()), 2)
            found = _result(good)
            sent = [_result(each) for each in hostile]
        return {**found, "cpu": cpu, "peak_rss_mib": round(max(peak), 1), "attacker": sent[0] if sent else {}}

    def attack(self, name: str, before: dict, spin_before: dict) -> dict:
        """One attack, and what is measured after it; `before` and `spin_before` are what followed the former attack."""
        rss = rss_mib(self.sidecar.pid)
        during = self.phase(name)
        recovery = self.recover()
        left = self.connections_left()
        after, spin_after = self.phase(None), self.phase("spin")
        return {
            "attack": name,
            "about": ATTACKS[name].about,
            **during,
            "p99_before_ms": before["p99_ms"],
            "p99_after_ms": after["p99_ms"],
            "p99_spin_ms": [spin_before["p99_ms"], spin_after["p99_ms"]],
            "ratio": ratio(during["p99_ms"], before["p99_ms"], after["p99_ms"]),
            "ratio_spin": ratio(during["p99_ms"], spin_before["p99_ms"], spin_after["p99_ms"]),
            "failed_around": before["failed"] + after["failed"],
            "growth_mib": round(rss_mib(self.sidecar.pid) - rss, 1),
            "recovery_s": recovery,
            "connections_left": left,
            "after": after,
            "spin_after": spin_after,
        }

    def recover(self) -> float:
        """Seconds until the sidecar answers promptly and rests again; what attackers left in its queues is worked off by then."""
        began = time.monotonic()
        while (took := time.monotonic() - began) < RECOVERY_LIMIT:
            used, asked = cpu_seconds(self.sidecar.pid), time.monotonic()
            with contextlib.suppress(OSError):
                prompt = self.sidecar.get("/readyz")[0] == 200 and time.monotonic() - asked < 0.1
                time.sleep(0.3)
                if prompt and cpu_seconds(self.sidecar.pid) - used < 0.1:
                    break
        return round(took, 1)

    def connections_left(self) -> int:
        """What is still open once the attacker and the good peer are gone; given two seconds. -1 = it does not say."""
        limit = time.monotonic() + 2
        while (found := self._connections()) and time.monotonic() < limit:
            time.sleep(0.1)
        return found

    def _connections(self) -> int:
        with contextlib.suppress(OSError):
            status, page = self.sidecar.get("/metrics")
            if status == 200:
                lines = [line for line in page.splitlines() if line.startswith("sidecar_connections_active{")]
                return round(sum(float(line.rsplit(" ", 1)[1]) for line in lines))
        return -1


def machine_seconds() -> float:
    """CPU seconds that all processes and the kernel have used since boot (Linux)."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()
    user, nice, system, _idle, _waiting, interrupts, soft, stolen = map(int, fields[1:9])
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")


def ratio(during: float, *baselines: float) -> float:
    """To the mean of the baselines around it."""
    return round(during / (sum(baselines) / len(baselines) or 1e-9), 2)


def problems(found: dict) -> list[str]:
    """What an attack did that it must not be able to do."""
    said = []
    if found["failed"]:
        said.append(f"{found['failed']} RPCs of the good peer failed: {found['failures']}")
    if found["ratio"] > WORST_RATIO and found["ratio_spin"] > WORST_RATIO:
        said.append(f"p99 {found['p99_ms']} ms is {found['ratio']} times what it was alone, {found['ratio_spin']} times beside two busy cores")
    if found["growth_mib"] > GROWTH:
        said.append(f"the sidecar grew by {found['growth_mib']} MiB")
    if found["recovery_s"] > RECOVERY:
        said.append(f"the sidecar was busy for {found['recovery_s']} s more")
    if found["connections_left"]:
        said.append(f"{found['connections_left']} connections are still open")
    return said


def _start(module: str, *arguments: str) -> subprocess.Popen[str]:
    """Start and wait until it says that it is ready."""
    process = subprocess.Popen([sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, text=True, cwd=HERE.parent)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line == "ready\n", (module, line)
    return process


def _result(process: subprocess.Popen[str]) -> dict:
    out, _ = process.communicate(timeout=120)
    return json.loads(out)


@contextlib.contextmanager
def _peak(pid: int) -> Iterator[list[float]]:
    seen = [rss_mib(pid)]
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.25):
            seen.append(rss_mib(pid))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        done.set()
        looking.join()


def table(found: list[dict]) -> str:
    lines = [
        f"{'attack':36} {'frames':>9} {'conns':>6} | {'RPCs':>5} {'failed':>6} {'p50 ms':>7} {'p99 ms':>7} "
        f"{'alone':>13} {'×':>6} {'two busy':>13} {'×':>6} | {'CPU':>5} {'atk':>5} {'agent':>5} {'others':>6} {'peak':>6} {'grew':>6} {'rest s':>6} {'left':>4}  ended as"
    ]
    for each in found:
        sent, cpu = each["attacker"], each["cpu"]
        ends = ", ".join(f"{name} {count}" for name, count in list(sent["ends"].items())[:3])
        alone = f"{each['p99_before_ms']:.1f}/{each['p99_after_ms']:.1f}"
        busy = "/".join(f"{each:.1f}" for each in each["p99_spin_ms"])
        lines.append(
            f"{each['attack']:36} {sent['frames']:9} {sent['connections']:6} | {each['rpcs']:5} {each['failed']:6} {each['p50_ms']:7.2f} "
            f"{each['p99_ms']:7.2f} {alone:>13} {each['ratio']:6.2f} {busy:>13} {each['ratio_spin']:6.2f} | {cpu['sidecar']:5.2f} "
            f"{cpu['attacker']:5.2f} {cpu['agent']:5.2f} {cpu['others']:6.2f} {each['peak_rss_mib']:6.1f} {each['growth_mib']:6.1f} {each['recovery_s']:6.1f} "
            f"{each['connections_left']:4}  {ends}"
        )
    return "\n".join(lines)


@contextlib.contextmanager
def _agent(kind: str) -> Iterator[tuple[str, int]]:
    """(address, pid) of what stands behind the sidecar."""
    if kind == "real":
        with AgentProcess() as agent:
            assert agent._process is not None
            yield agent.address, agent._process.pid
        return
    echo = _start("bench.load", "echo", "127.0.0.1:19000")
    try:
        yield "127.0.0.1:19000", echo.pid
    finally:
        echo.kill()
        echo.communicate()


def report(found: list[dict], seconds: float) -> str:
    """All figures as JSON; written after each attack, so that a run that is ended early is not lost."""
    bad = {each["attack"]: said for each in found if (said := problems(each))}
    return json.dumps({"cores": os.cpu_count(), "seconds": seconds, "rate": RATE, "attacks": found, "problems": bad}, indent=2) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.hostile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5, help="of each phase; three phases for each attack")
    parser.add_argument("--only", nargs="+", choices=ATTACKS, default=list(ATTACKS), metavar="ATTACK")
    parser.add_argument("--agent", choices=("real", "echo"), default="real", help="the agent server, or an echo that costs next to nothing")
    parser.add_argument("--limit", type=int, default=100, help="RPCs per second that reach the agent from the attacker's listener")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    found: list[dict] = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sidecar-hostile-")))
        address, pid = stack.enter_context(_agent(args.agent))
        config = CONFIG.format(leaf=Pki(folder / "certs").leaf("server"), agent=address, limit=args.limit, burst=max(1, args.limit // 5))
        sidecar = stack.enter_context(Sidecar(config, folder))
        ground = Ground(sidecar, pid, args.seconds)
        ground.phase(None)
        quiet, spin = ground.phase(None), ground.phase("spin")
        for name in args.only:
            found.append(ground.attack(name, quiet, spin))
            quiet, spin = found[-1]["after"], found[-1]["spin_after"]
            if args.json:
                args.json.write_text(report(found, args.seconds))
            print(table(found[-1:]).splitlines()[-1] if len(found) > 1 else table(found), flush=True)
    bad = {each["attack"]: said for each in found if (said := problems(each))}
    for name, said in bad.items():
        for each in said:
            print(f"NOT WELL: {name}: {each}", file=sys.stderr)
    print(f"{len(found)} attacks, {len(bad)} of them hurt")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
