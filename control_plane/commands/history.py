"""`surefoot history …`: what served when, and whether the record of it still holds."""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from control_plane.commands.client import Json, call, err, fail, out, stream_lines
from control_plane.commands.progress import counting
from control_plane.domain.errors import InvalidField
from control_plane.registry import history_file
from control_plane.registry.whole_files import written_whole

app = typer.Typer(no_args_is_help=True, help="What served when, who changed it, and whether the record holds.")

SurfaceOption = Annotated[str | None, typer.Option("--surface", help="One surface; all if missing.")]
BROKEN = 3  # exit code: a history that was altered, as against one that could not be read


@app.command("at")
def served_at(
    surface: str,
    at: Annotated[str, typer.Argument(metavar="WHEN", help="'2026-11-17 14:05', 'tuesday 14:05' or '14:05'.")],
    zone: Annotated[str, typer.Option("--zone", "-z", help="Time zone of WHEN, unless it has an offset.")] = "UTC",
) -> None:
    """Show what served on a surface at a moment, who had set it, and why."""
    served = call("GET", f"/v1/surfaces/{surface}/served", params={"at": at, "zone": zone})
    out.print(_told(served), markup=False, soft_wrap=True)


@app.command()
def export(
    to: Annotated[Path | None, typer.Option("--file", "-f", help="Where to; standard output if missing.")] = None,
    surface: SurfaceOption = None,
) -> None:
    """Write every change as JSON lines: who, why, before, after, evidence, queries, version of the code."""
    lines = _exported(surface)
    if to is None:
        for line in lines:
            typer.echo(line, nl=False)
        return
    try:
        with written_whole(to) as file:
            file.writelines(line.encode() for line in lines)
    except OSError as error:
        fail(f"{to}: {error.strerror}; nothing was written", code=2)
    out.print(f"exported to {to}", soft_wrap=True)


@app.command()
def verify(
    exported: Annotated[
        Path | None, typer.Option("--file", "-f", exists=True, dir_okay=False, help="An export, to check offline.")
    ] = None,
    surface: SurfaceOption = None,
) -> None:
    """Walk the hash chains here, on this machine; exit 3 if a change was altered, inserted or taken out."""
    try:
        if exported is None:
            report = _checked(_exported(surface))
        else:
            with exported.open(encoding="utf-8") as file:
                report = _checked(file)
    except InvalidField as error:
        fail(f"{exported or 'what the control plane sent'}: {error}", code=2)
    except UnicodeDecodeError as error:
        fail(f"{exported}: is no UTF-8 ({error})", code=2)
    for problem in report.problems:
        err.print(problem, markup=False, soft_wrap=True)
    if report.problems:
        fail(f"the history does not hold: {len(report.problems)} problem(s)", code=BROKEN)
    for name, head in sorted(report.heads.items()):
        out.print(f"{name}: {head.changes} changes, the last is {head.hash}", markup=False, soft_wrap=True)
    out.print(f"the history holds: {report.changes} changes")


def _checked(lines: Iterable[str]) -> history_file.Report:
    with counting("changes") as show:
        return history_file.check(lines, show)


def _exported(surface: str | None) -> Iterable[str]:
    params = {} if surface is None else {"surface": surface}
    return stream_lines("/v1/history/export", params=params)


def _told(served: Json) -> str:
    where = f"{served['surface']} at {_moment(served['at'])} (generation {served['generation']})"
    weight = f"{served['weight_bp'] / 100:g} %"
    candidate = f", candidate {served['candidate']} at {weight}" if served["candidate"] else ""
    shadow = f", {served['shadow']} in its shadow" if served["shadow"] else ""
    until = f"until {_moment(served['until'])}" if served["until"] else "and still does"
    rollout = f" for rollout {served['rollout_id']}" if served["rollout_id"] is not None else ""
    verdict = f", on verdict {served['verdict_id']}" if served["verdict_id"] is not None else ""
    why = f": {served['reason']}" if served["reason"] else ""
    return "\n".join(
        [
            f"{where}: stable {served['stable']}{candidate}{shadow}",
            f"  since {_moment(served['since'])} {until}",
            f"  set by {served['by']} ({served['command'].replace('_', ' ')}{rollout}{verdict}){why}",
            f"  {_acknowledged(served)}",
        ]
    )


def _acknowledged(served: Json) -> str:
    """What is known of the runtimes that were to serve it; where nothing is, that it is not."""
    at, live = served["acknowledged_at"], served["live_runtimes"]
    present = "" if live is None else f"{served['serving_runtimes']} of {live} live runtimes serve it at present"
    if at is None:
        return present or "ordered; when the runtimes took it on is not known"
    if served["was_acknowledged"]:
        took = f"the runtimes had taken it on by {_moment(at)}"
    else:
        took = f"the runtimes took it on by {_moment(at)}; at the moment asked for, some still served what was before"
    return f"{took}; {present}" if present else took


def _moment(iso: str) -> str:
    return f"{datetime.fromisoformat(iso).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
