"""`sidecar explain`: which route, rule and limit decide about a call, and why."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import click

from sidecar.cli import options
from sidecar.cli.ask import AdminError, ask
from sidecar.cli.load import load_or_exit

if TYPE_CHECKING:
    from sidecar.config.load import Loaded
    from sidecar.control.explain import Explanation, Question
    from sidecar.control.generation import Generation

REFUSED = 3


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  sidecar explain -c sidecar.yaml --listener inbound --method /p.S/Get \\\n"
        "      --identity spiffe://mesh.local/agent/orders --metadata x-tenant=acme\n"
        "  sidecar explain --admin http://127.0.0.1:9901 --listener inbound --method /p.S/Get\n"
        "  sidecar explain -c new.yaml --replay audit.jsonl   # what a new file would change\n\n"
        "Exit codes: 0 allowed (or nothing would change), 1 failed, 2 wrong usage, 3 refused (or something would change)."
    ),
)
@click.option("-c", "--config", "path", type=click.Path(path_type=Path), help="Judge by this file.")
@click.option(
    "--admin", metavar="URL", help="Judge by what this running sidecar has in force, its limits as they are now."
)
@options.token
@click.option("--listener", help="The listener that takes the call.")
@click.option("--method", help="/package.Service/Method")
@click.option("--identity", help="Who calls.")
@click.option("--metadata", multiple=True, metavar="K=V", help="Metadata of the call; may be repeated.")
@click.option("--authority", default="localhost", show_default=True)
@click.option("--jwt-claims", metavar="JSON", help="Claims of a valid token.")
@click.option(
    "--replay", type=click.Path(path_type=Path, exists=True), help="Judge the calls recorded in this audit log."
)
@click.option("-o", "output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def explain(
    path: Path | None,
    admin: str | None,
    token: str | None,
    listener: str | None,
    method: str | None,
    identity: str | None,
    metadata: tuple[str, ...],
    authority: str,
    jwt_claims: str | None,
    replay: Path | None,
    output: str,
) -> None:
    """Say which route, identity, rule and limit would decide about a call. Takes nothing, changes nothing."""
    if (path is None) == (admin is None):
        raise click.UsageError("give either -c FILE or --admin URL")
    if replay is not None:
        if path is None:
            raise click.UsageError("--replay needs -c FILE")
        _replay(load_or_exit(path), replay, output)
        return
    if listener is None or method is None:
        raise click.UsageError("give --listener and --method")
    question = _question(listener, method, identity, metadata, authority, jwt_claims)
    found = _ask(admin, token, question) if admin is not None else _judge(load_or_exit(path), question)  # type: ignore[arg-type]
    if output == "json":
        click.echo(json.dumps(found, indent=2))
    else:
        _print(found)
    sys.exit(0 if found["allowed"] else REFUSED)


def _question(
    listener: str,
    method: str,
    identity: str | None,
    metadata: tuple[str, ...],
    authority: str,
    jwt_claims: str | None,
) -> Question:
    from sidecar.control.explain import Question

    pairs = []
    for each in metadata:
        name, equals, value = each.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{each!r} is not NAME=VALUE", param_hint="--metadata")
        pairs.append((name, value))
    claims = None
    if jwt_claims is not None:
        try:
            claims = json.loads(jwt_claims)
        except ValueError as error:
            raise click.BadParameter(f"not JSON: {error}", param_hint="--jwt-claims") from None
        if not isinstance(claims, dict):
            raise click.BadParameter("must be a JSON object", param_hint="--jwt-claims")
    return Question(listener, method, identity, tuple(pairs), authority, claims)


def _judge(loaded: Loaded, question: Question) -> dict[str, Any]:
    async def judge() -> dict[str, Any]:
        from sidecar.control.explain import explain as explain_call

        return (await explain_call(_built(loaded), question)).as_dict()

    try:
        return asyncio.run(judge())
    except ValueError as error:
        raise click.ClickException(str(error)) from None


def _built(loaded: Loaded) -> Generation:
    """A generation of `loaded` that serves nobody. Needs a running loop. Raises ValueError."""
    from sidecar.cli.run import make_runtime
    from sidecar.control.certificates import Certificates
    from sidecar.control.generation import Builder
    from sidecar.transport.socket import Flusher

    runtime = make_runtime(loaded)
    builder = Builder(runtime, Flusher(asyncio.get_running_loop()), Certificates(runtime.clock.wall))
    return builder.build(loaded.root, number=1, source_hash=loaded.source_hash)


def _ask(admin: str, token: str | None, question: Question) -> dict[str, Any]:
    asked = [("listener", question.listener), ("method", question.method), ("authority", question.authority)]
    if question.identity is not None:
        asked.append(("identity", question.identity))
    asked += [("metadata", f"{name}={value}") for name, value in question.metadata]
    if question.claims is not None:
        asked.append(("claims", json.dumps(question.claims)))
    try:
        found: dict[str, Any] = ask(admin, f"/explain?{urlencode(asked)}", token=token)
    except AdminError as error:
        raise click.ClickException(str(error)) from None
    return found


def _print(found: dict[str, Any]) -> None:
    click.echo(f"listener  {found['listener']}")
    click.echo(f"caller    {found['identity'] or '(nobody)'}")
    click.echo(f"method    {found['method']}")
    click.echo(f"route     {found['route'] or '(none)'}" + (f" → {found['cluster']}" if found["cluster"] else ""))
    for step in found["steps"]:
        mark = {"pass": "√", "refuse": "×"}.get(step["verdict"], "•")
        click.echo(f"  {mark} {step['policy']:18} {step['why'] or step['verdict']}")
    if found["allowed"]:
        click.secho("allowed", fg="green")
    else:
        click.secho(f"refused: {found['reason']}", fg="red")
        click.echo(f"  {found['message']}")


# ── recorded calls, judged anew ──


def _replay(loaded: Loaded, log: Path, output: str) -> None:
    changes, judged, skipped = asyncio.run(_judge_again(loaded, log))
    if output == "json":
        click.echo(json.dumps({"judged": judged, "skipped": skipped, "changes": changes}, indent=2))
    else:
        for each in changes:
            click.echo(
                f"{each['before']:>5} → {each['after']:5} {each['count']:6} × "
                f"{each['identity'] or '(nobody)'} {each['method']}  {each['why']}"
            )
        click.echo(f"{judged} recorded calls judged, {sum(each['count'] for each in changes)} would change", err=True)
        if skipped:
            click.echo(
                f"{skipped} lines could not be judged: no calls of these listeners, or metadata decides", err=True
            )
    sys.exit(REFUSED if changes else 0)


async def _judge_again(loaded: Loaded, log: Path) -> tuple[list[dict[str, Any]], int, int]:
    """Authorization alone is judged: limits depend on the moment. Where metadata decides, which is not recorded, nobody can say."""
    from sidecar.control.explain import Question
    from sidecar.control.explain import explain as explain_call

    generation = _built(loaded)
    known: dict[tuple[str, str, str | None], Explanation] = {}
    changes: dict[tuple[Any, ...], dict[str, Any]] = {}
    judged = skipped = 0
    with log.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            record = _record(line)
            if record is None or record["listener"] not in generation.edges or not record.get("method"):
                skipped += 1
                continue
            key = (record["listener"], record["method"], record.get("identity") or None)
            found = known.get(key)
            if found is None:
                found = known[key] = await explain_call(generation, Question(*key), only="authz")
            if found.depends_on_metadata:
                skipped += 1
                continue
            judged += 1
            before = "deny" if record["decision"] in {"deny", "would_deny"} else "allow"
            after = "allow" if found.allowed else "deny"
            if before != after:
                why = found.message or next((step.why for step in found.steps), "")
                entry = changes.setdefault(
                    (*key, before, after),
                    {"identity": key[2], "method": key[1], "before": before, "after": after, "why": why, "count": 0},
                )
                entry["count"] += 1
    return sorted(changes.values(), key=lambda each: -each["count"]), judged, skipped


def _record(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or "decision" not in record or "listener" not in record:
        return None
    return record
