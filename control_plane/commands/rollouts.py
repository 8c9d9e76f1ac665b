"""`surefoot rollout …`: start, watch and steer rollouts."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from control_plane.commands.client import Json, call, fail, out, version_id
from control_plane.domain.errors import InvalidPlan
from control_plane.domain.rollout import OnBusy
from control_plane.plan_file import read_plan

app = typer.Typer(no_args_is_help=True, help="Start, watch and steer rollouts.")

RolloutArgument = Annotated[int, typer.Argument(metavar="ROLLOUT", help="The rollout's number.")]
ReasonOption = Annotated[str, typer.Option("--reason", "-r", help="Why; stands in the history.")]
FINISHED = ("done", "rolled_back")
HISTORY_LIMIT = "500"


@app.command()
def start(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", exists=True, dir_okay=False, help="The plan, a YAML file.")],
    surface: Annotated[str, typer.Option(help="The surface to roll out on.")],
    candidate: Annotated[str, typer.Option(help="The candidate's version id, or its first digits.")],
    on_busy: Annotated[OnBusy, typer.Option(help="If the surface carries another rollout.")] = OnBusy.REJECT,
) -> None:
    """Roll a candidate out on one surface under PLAN; the scheduler takes it from there."""
    text = _plan_text(plan)
    version = version_id(candidate)
    body = {"surface": surface, "candidate": version, "plan_yaml": text, "on_busy": on_busy.value}
    rollout = call("POST", "/v1/rollouts", body=body)
    out.print(f"rollout {rollout['rollout_id']} of {version} on {surface}: {rollout['phase']}")


@app.command()
def status(
    rollout_id: Annotated[int | None, typer.Argument(metavar="[ROLLOUT]", help="All active ones if missing.")] = None,
) -> None:
    """Show where rollouts stand and what they wait for."""
    if rollout_id is not None:
        rollouts = [call("GET", f"/v1/rollouts/{rollout_id}")]
    else:
        rollouts = call("GET", "/v1/rollouts", params={"active": "true"})["rollouts"]
    if not rollouts:
        out.print("no active rollouts")
        return
    for rollout in rollouts:
        out.print(_sentence(rollout), soft_wrap=True)
        pair = f"candidate {rollout['candidate']} against stable {rollout['stable']}"
        out.print(f"  {pair}{_in_what(rollout)}{_behind(rollout)}", soft_wrap=True)


@app.command()
def watch(
    rollout_id: RolloutArgument,
    every_seconds: Annotated[float, typer.Option("--every", min=0.2, help="Seconds between looks.")] = 2.0,
) -> None:
    """Follow a rollout until it is done (exit 0) or rolled back (exit 3)."""
    last = ""
    while True:
        rollout = call("GET", f"/v1/rollouts/{rollout_id}")
        line = _sentence(rollout)
        if line != last:
            out.print(line, soft_wrap=True)
            last = line
        if rollout["phase"] in FINISHED:
            raise typer.Exit(0 if rollout["phase"] == "done" else 3)
        time.sleep(every_seconds)


@app.command()
def advance(rollout_id: RolloutArgument, reason: ReasonOption = "") -> None:
    """Go one step up, on a passing verdict."""
    _command(rollout_id, "advance", reason)


@app.command()
def skip(rollout_id: RolloutArgument, reason: Annotated[str, typer.Option("--reason", "-r", help="Why.")]) -> None:
    """Leave the present step without its gates: bake time, evidence, approvals."""
    _command(rollout_id, "skip", reason)


@app.command()
def restart(
    rollout_id: RolloutArgument,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why.")],
    plan: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Another plan; else its own.")] = None,
) -> None:
    """Begin anew in the shadow: without weight, evidence or approvals, under another plan if one is given."""
    body: Json = {"reason": reason, "seen_generation": _generation(rollout_id)}
    if plan is not None:
        body["plan_yaml"] = _plan_text(plan)
    out.print(_sentence(call("POST", f"/v1/rollouts/{rollout_id}/restart", body=body)), soft_wrap=True)


@app.command()
def hold(rollout_id: RolloutArgument, reason: ReasonOption = "") -> None:
    """Freeze the weights where they are; guardrails go on watching."""
    _command(rollout_id, "hold", reason)


@app.command()
def resume(rollout_id: RolloutArgument, reason: ReasonOption = "") -> None:
    """Let a held or expired rollout go on."""
    _command(rollout_id, "resume", reason)


@app.command()
def approve(rollout_id: RolloutArgument, reason: ReasonOption = "") -> None:
    """Give one approval to the present step."""
    rollout = _command(rollout_id, "approve", reason)
    out.print(f"  approved by {', '.join(rollout['approvals'])}; {rollout['approvals_needed']} more needed")


@app.command()
def rollback(rollout_id: RolloutArgument, reason: ReasonOption = "") -> None:
    """Take the candidate off all traffic, now, from any phase."""
    _command(rollout_id, "roll_back", reason)


@app.command()
def abort(rollout_id: RolloutArgument, reason: ReasonOption = "") -> None:
    """Withdraw a candidate that was not judged harmful."""
    _command(rollout_id, "abort", reason)


def _command(rollout_id: int, command: str, reason: str) -> Json:
    body: Json = {"command": command, "reason": reason}
    if command not in ("roll_back", "abort", "hold"):  # what makes safer never waits for a second look
        body["seen_generation"] = _generation(rollout_id)
    rollout: Json = call("POST", f"/v1/rollouts/{rollout_id}/commands", body=body)
    out.print(_sentence(rollout), soft_wrap=True)
    return rollout


def _generation(rollout_id: int) -> int:
    return int(call("GET", f"/v1/rollouts/{rollout_id}")["generation"])


def _plan_text(path: Path) -> str:
    """A plan that the API will be able to read."""
    text = path.read_text()
    try:
        read_plan(text)
    except InvalidPlan as error:
        fail(f"{path}: {error}")
    return text


def _sentence(rollout: dict[str, Any]) -> str:
    share = f"{rollout['candidate_bp'] / 100:g} %"
    unmonitored = "" if rollout["is_monitored"] else ", unmonitored"
    where = f"rollout {rollout['rollout_id']} on {rollout['surface']}: {rollout['phase']} at {share}{unmonitored}"
    if rollout["phase"] in FINISHED:
        return f"{where}{_ending(rollout)}"
    until = f", until about {_moment(rollout['until'])}" if rollout.get("until") else ""
    return f"{where}: {rollout['waiting_for']}{until}" if rollout.get("waiting_for") else where


def _ending(rollout: dict[str, Any]) -> str:
    """Who ended it, when and why, as the history tells."""
    entries = call("GET", "/v1/history", params={"surface": rollout["surface"], "limit": HISTORY_LIMIT})["history"]
    end = next((entry for entry in entries if entry["rollout_id"] == rollout["rollout_id"]), None)
    if end is None:
        return ""
    why = f": {end['reason']}" if end["reason"] else ""
    return f", {end['command'].replace('_', ' ')} by {end['by']} on {_moment(end['at'])}{why}"


def _in_what(rollout: dict[str, Any]) -> str:
    """Said where weights and inputs stay: such a rollout, and its roll back, touches nothing else."""
    return ", calibrator only" if rollout["changed_parts"] == ["calibrator"] else ""


def _behind(rollout: dict[str, Any]) -> str:
    """What runtimes serve, if that is not what was set."""
    set_bp, served_bp = rollout["candidate_bp"], rollout["acknowledged_bp"]
    return "" if set_bp == served_bp else f"; {set_bp / 100:g} % set, {served_bp / 100:g} % served"


def _moment(iso: str) -> str:
    return f"{datetime.fromisoformat(iso).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
