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
    what: Annotated[
        str, typer.Argument(metavar="PLAN|ROLLOUT", help="The plan, a YAML file; or the number of a pending rollout.")
    ],
    surface: Annotated[str, typer.Option(help="The surface to roll out on.")] = "",
    candidate: Annotated[str, typer.Option(help="The candidate's version id, or its first digits.")] = "",
    on_busy: Annotated[OnBusy, typer.Option(help="If the surface carries another rollout.")] = OnBusy.REJECT,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why a pending ROLLOUT starts; ends a cool-down.")] = "",
) -> None:
    """Roll a candidate out on one surface under PLAN; the scheduler takes it from there.

    With the number of a pending ROLLOUT: start it now, by hand. With a --reason that overrules a cool-down; a freeze,
    only if you are of its bypass group. A number is always a rollout's: write ./7 for a plan of that name.
    """
    if what.isdecimal():
        if surface or candidate:
            raise typer.BadParameter(f"rollout {what} has its surface and candidate; give them with a PLAN only")
        _command(int(what), "start", reason)
        return
    if not surface or not candidate:
        raise typer.BadParameter("with a PLAN, --surface and --candidate say what is rolled out where")
    if reason:
        raise typer.BadParameter("--reason goes with the number of a pending rollout, not with a PLAN")
    _create(Path(what), surface, candidate, on_busy)


def _create(plan: Path, surface: str, candidate: str, on_busy: OnBusy) -> None:
    text = _plan_text(plan)
    version = version_id(candidate)
    body = {"surface": surface, "candidate": version, "plan_yaml": text, "on_busy": on_busy.value}
    rollout = call("POST", "/v1/rollouts", body=body)
    out.print(f"rollout {rollout['rollout_id']} of {version} on {surface}: {rollout['phase']}")


@app.command()
def status(
    rollout_id: Annotated[int | None, typer.Argument(metavar="[ROLLOUT]", help="All active ones if missing.")] = None,
    shows_all: Annotated[bool, typer.Option("--all", help="Those that are over, too; the latest 100.")] = False,
) -> None:
    """Show where rollouts stand and what they wait for."""
    if rollout_id is not None:
        rollouts = [call("GET", f"/v1/rollouts/{rollout_id}")]
    else:
        rollouts = call("GET", "/v1/rollouts", params={} if shows_all else {"active": "true"})["rollouts"]
    if not rollouts:
        out.print("no rollouts" if shows_all else "no active rollouts")
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
    """Go one step up now: on a passing verdict of what serves now and the step's approvals, before the bake is over.

    Not in a freeze. From warming, where nothing is judged yet, it waits for neither.
    """
    _command(rollout_id, "advance", reason)


@app.command()
def skip(rollout_id: RolloutArgument, reason: Annotated[str, typer.Option("--reason", "-r", help="Why.")]) -> None:
    """Leave the present step now, without bake time, verdict or approvals; only a freeze stops it.

    The guardrails go on watching, and may roll it back at their next check.
    """
    _command(rollout_id, "skip", reason)


@app.command()
def restart(
    rollout_id: RolloutArgument,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why.")],
    plan: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Another plan; else its own.")] = None,
) -> None:
    """Begin anew in the shadow: without weight, evidence or approvals, under another plan if one is given.

    Waits for nothing, and works in a freeze: it takes the candidate off its users. It grows again past every gate.
    """
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
    """Let a held or expired rollout go on, where it stood; it bakes again. Not in a freeze."""
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
    try:
        text = path.read_text()
        read_plan(text)
    except OSError as error:
        fail(f"{path}: {error.strerror}", code=2)
    except UnicodeDecodeError:
        fail(f"{path}: is no text in UTF-8", code=2)
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
