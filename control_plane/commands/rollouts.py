"""`surefoot rollout …`: start, watch and steer rollouts."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from control_plane.commands.client import Json, call, fail, out
from control_plane.domain.errors import InvalidPlan
from control_plane.plan_file import read_plan

app = typer.Typer(no_args_is_help=True, help="Start, watch and steer rollouts.")

RolloutArgument = Annotated[int, typer.Argument(metavar="ROLLOUT", help="The rollout's number.")]
ReasonOption = Annotated[str, typer.Option("--reason", "-r", help="Why; stands in the history.")]
FINISHED = ("done", "rolled_back")


@app.command()
def start(
    plan: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The plan, a YAML file.")],
    surface: Annotated[str, typer.Option(help="The surface to roll out on.")],
    candidate: Annotated[str, typer.Option(help="The candidate's version id.")],
) -> None:
    """Arm PLAN for a candidate on one surface; the scheduler takes it from there."""
    text = plan.read_text()
    try:
        read_plan(text)
    except InvalidPlan as error:
        fail(f"{plan}: {error}")
    rollout = call("POST", "/v1/rollouts", body={"surface": surface, "candidate": candidate, "plan_yaml": text})
    out.print(f"rollout {rollout['rollout_id']} of {candidate} on {surface}: {rollout['phase']}")


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
    out.print(_table(rollouts))


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
            out.print(line)
            last = line
        if rollout["phase"] in FINISHED:
            raise typer.Exit(0 if rollout["phase"] == "done" else 3)
        time.sleep(every_seconds)


@app.command()
def advance(rollout_id: RolloutArgument, reason: ReasonOption = "") -> None:
    """Go one step up; against the judge only with a --reason."""
    _command(rollout_id, "advance", reason)


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
    _command(rollout_id, "approve", reason)


@app.command()
def rollback(rollout_id: RolloutArgument, reason: ReasonOption = "") -> None:
    """Take the candidate off all traffic, now, from any phase."""
    _command(rollout_id, "roll_back", reason)


@app.command()
def abort(rollout_id: RolloutArgument, reason: ReasonOption = "") -> None:
    """Withdraw a candidate that was not judged harmful."""
    _command(rollout_id, "abort", reason)


def _command(rollout_id: int, command: str, reason: str) -> None:
    body: Json = {"command": command, "reason": reason}
    if command not in ("roll_back", "abort", "hold"):  # what makes safer never waits for a second look
        body["seen_generation"] = call("GET", f"/v1/rollouts/{rollout_id}")["generation"]
    out.print(_sentence(call("POST", f"/v1/rollouts/{rollout_id}/commands", body=body)))


def _sentence(rollout: dict[str, Any]) -> str:
    share = f"{rollout['candidate_bp'] / 100:g} %"
    wait = f": {rollout['waiting_for']}" if rollout.get("waiting_for") else ""
    until = f", until about {rollout['until']}" if rollout.get("until") else ""
    return f"rollout {rollout['rollout_id']} on {rollout['surface']}: {rollout['phase']} at {share}{wait}{until}"


def _table(rollouts: list[dict[str, Any]]) -> Table:
    fixed = [Column(name, no_wrap=True) for name in ("rollout", "surface", "candidate", "phase", "weight")]
    table = Table(*fixed, "waiting for", "until about")
    for rollout in rollouts:
        table.add_row(
            str(rollout["rollout_id"]),
            rollout["surface"],
            rollout["candidate"],
            rollout["phase"],
            _weight(rollout),
            rollout.get("waiting_for") or "",
            str(rollout.get("until") or ""),
        )
    return table


def _weight(rollout: dict[str, Any]) -> str:
    """What was set, and what runtimes serve if that is not the same."""
    weight, served = f"{rollout['candidate_bp'] / 100:g} %", f"{rollout['acknowledged_bp'] / 100:g} %"
    return weight if weight == served else f"{weight} set, {served} served"
