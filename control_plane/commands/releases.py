"""`surefoot release …`: one checkpoint over several surfaces."""

from pathlib import Path
from typing import Annotated, Any

import typer

from control_plane.commands.client import call, fail, out, version_id
from control_plane.domain.errors import InvalidPlan
from control_plane.domain.plan import RolloutPlan
from control_plane.domain.plan_mapping import plan_to_mapping
from control_plane.domain.release_mapping import ReleaseFile, edges_to_mapping
from control_plane.domain.rollout import OnBusy
from control_plane.plan_file import read_plan, read_release

app = typer.Typer(no_args_is_help=True, help="One checkpoint over several surfaces, in the order its edges allow.")

ReleaseArgument = Annotated[int, typer.Argument(metavar="RELEASE", help="The release's number.")]


@app.command()
def start(
    release: Annotated[
        Path,
        typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="YAML with candidates, plan and edges."),
    ],
    on_busy: Annotated[OnBusy, typer.Option(help="Where a surface carries another rollout.")] = OnBusy.REJECT,
) -> None:
    """Roll candidates out on several surfaces; each starts when the edges that lead to it are satisfied."""
    read = _read(release)
    body = {
        "candidates": {surface: version_id(given) for surface, given in read.candidates.items()},
        "plan": plan_to_mapping(_plan_of(read, release)),
        "edges": edges_to_mapping(read.edges),
        "on_busy": on_busy.value,
    }
    _show(call("POST", "/v1/releases", body=body))


@app.command()
def status(
    release_id: Annotated[int | None, typer.Argument(metavar="[RELEASE]", help="The latest ones if missing.")] = None,
) -> None:
    """Show how far a release is on each surface, and what the others wait for."""
    if release_id is not None:
        _show(call("GET", f"/v1/releases/{release_id}"))
        return
    releases = call("GET", "/v1/releases", params={"limit": "10"})["releases"]
    if not releases:
        out.print("no releases")
    for release in releases:
        _show(release)


@app.command()
def rollback(
    release_id: ReleaseArgument,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; stands in the history.")] = "",
) -> None:
    """Take every surface of a release off its candidate, now, in one go."""
    release = call("POST", f"/v1/releases/{release_id}/rollback", body={"reason": reason})
    _show(release)
    if release["stays"]:
        fail("; ".join(f"{surface} stays: {why}" for surface, why in release["stays"].items()))


def _read(release: Path) -> ReleaseFile:
    try:
        return read_release(release.read_text())
    except InvalidPlan as error:
        fail(f"{release}: {error}")
        raise


def _plan_of(read: ReleaseFile, release: Path) -> RolloutPlan:
    """The plan, from its own file where the release names one: a path from the release's folder."""
    if isinstance(read.plan, RolloutPlan):
        return read.plan
    path = release.parent / read.plan
    try:
        return read_plan(path.read_text())
    except OSError as error:
        fail(f"{release}: plan: {path} cannot be read: {error.strerror}")
        raise
    except InvalidPlan as error:
        fail(f"{path}: {error}")
        raise


def _show(release: dict[str, Any]) -> None:
    out.print(f"release {release['release_id']} by {release['created_by']}")
    for rollout in release["rollouts"]:
        waits = release["blocked"].get(rollout["surface"])
        where = f"{rollout['phase']} at {rollout['candidate_bp'] / 100:g} %"
        line = f"  {rollout['surface']}: rollout {rollout['rollout_id']} {where}"
        out.print(f"{line}, waiting for {waits}" if waits else line, soft_wrap=True)
    for edge in release["edges"]:
        out.print(f"  {_condition(edge)}", soft_wrap=True)


def _condition(edge: dict[str, Any]) -> str:
    green = ", guardrails green" if edge["needs_green"] else ""
    held = f"{edge['share_bp'] / 100:g} % for {edge['held_seconds'] / 3600:g} h"
    below = {
        "hold": "is held with it",
        "cascade": "goes back with it",
        "ignore": "goes on without it",
    }
    follows = below[edge["on_rollback"]]
    return f"{edge['downstream']} follows {edge['upstream']} at {held}{green}; {follows}"
