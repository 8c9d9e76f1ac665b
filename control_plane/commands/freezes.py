"""`surefoot freeze …` and `surefoot unfreeze`: stop the line, and let it go on."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from control_plane.commands.client import call, fail, out
from control_plane.domain.errors import InvalidPlan
from control_plane.domain.plan_reader import Reader

app = typer.Typer(no_args_is_help=True, help="Times in which nothing grows; rolling back always works.")

FLAGS = {
    "surface": "SURFACE",
    "starts_at": "--from",
    "ends_at": "--until",
    "duration": "--for",
    "recurrence": "--every",
    "time_zone": "--zone",
    "bypass_group": "--bypass",
    "owner": "--owner",
    "reason": "--reason",
}


@app.command("add")
def add(
    surface: Annotated[str | None, typer.Argument(help="One surface; all of them if missing.")] = None,
    *,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why nothing may grow.")],
    duration: Annotated[
        str | None, typer.Option("--for", help="How long, like 90m or 64h; of each occurrence with --every.")
    ] = None,
    starts_at: Annotated[
        str | None, typer.Option("--from", help="From when on, like 2026-12-18T17:00 or 'in 2h'; now if missing.")
    ] = None,
    ends_at: Annotated[
        str | None, typer.Option("--until", help="Until when, like --from; until `surefoot unfreeze` if missing.")
    ] = None,
    recurrence: Annotated[str, typer.Option("--every", help="An iCalendar RRULE, like FREQ=WEEKLY;BYDAY=FR.")] = "",
    time_zone: Annotated[
        str, typer.Option("--zone", help="In which these times are read, like Europe/Berlin.")
    ] = "UTC",
    owner: Annotated[str, typer.Option(help="Whom to ask; you if missing.")] = "",
    bypass_group: Annotated[str, typer.Option("--bypass", help="A group that may overrule it with a reason.")] = "",
) -> None:
    """Let nothing grow: at once, or at given times. Holds, aborts and roll backs go through as ever."""
    given = {
        "surface": surface,
        "duration": duration,
        "starts_at": _moment_given("--from", starts_at),
        "ends_at": _moment_given("--until", ends_at),
    }
    body = {
        **{name: value for name, value in given.items() if value is not None},
        "reason": reason,
        "recurrence": recurrence,
        "time_zone": time_zone,
        "owner": owner,
        "bypass_group": bypass_group,
    }
    out.print(_sentence(call("POST", "/v1/freezes", body=body, flags=FLAGS)), soft_wrap=True)


@app.command("list")
def list_freezes(
    shows_all: Annotated[bool, typer.Option("--all", help="Those lifted or over, too.")] = False,
) -> None:
    """Show what is frozen, or will be."""
    found = call("GET", "/v1/freezes", params={"open": "false" if shows_all else "true"})["freezes"]
    if not found:
        out.print("nothing is frozen")
    for freeze in found:
        out.print(_sentence(freeze), soft_wrap=True)


def unfreeze(
    freeze_id: Annotated[int, typer.Argument(metavar="FREEZE", help="The freeze's number.")],
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why things may grow again.")],
) -> None:
    """Lift a freeze, for good."""
    out.print(_sentence(call("POST", f"/v1/freezes/{freeze_id}/lift", body={"reason": reason})), soft_wrap=True)


def _moment_given(flag: str, given: str | None) -> str | None:
    """As the API takes it: a time without an offset is read there in --zone; 'in 2h' counts from now on."""
    if given is None:
        return None
    text = given.strip()
    try:
        if text.startswith("in "):
            seconds = Reader({flag: text.removeprefix("in ").strip()}).duration(flag, 0.0)
            return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
        datetime.fromisoformat(text)
    except (InvalidPlan, OverflowError, ValueError):
        forms = "2026-12-18T17:00 (read in --zone, else UTC), 2026-12-18T17:00+01:00 or 'in 2h'"
        fail(f"{flag}: must be a moment like {forms}, not {given!r}", code=2)
    return text


def _sentence(freeze: dict[str, Any]) -> str:
    where = freeze["surface"] or "all surfaces"
    may = f"; {freeze['bypass_group']} may overrule it" if freeze["bypass_group"] else ""
    return (
        f"freeze {freeze['freeze_id']} of {where}, {_standing(freeze)}, by {freeze['owner']}: {freeze['reason']}{may}"
    )


def _standing(freeze: dict[str, Any]) -> str:
    if freeze["lifted_at"]:
        return f"lifted by {freeze['lifted_by']} ({freeze['lift_reason']})"
    if freeze["stands"]:
        return f"stands until {_moment(freeze['until']) if freeze['until'] else 'it is lifted'}"
    return f"begins on {_moment(freeze['next_at'])}" if freeze["next_at"] else "over"


def _moment(iso: str) -> str:
    return f"{datetime.fromisoformat(iso).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
