"""`surefoot webhooks list|dead|replay|test`: who is told of changes, and what could not be told."""

from typing import Annotated, Any

import typer

from control_plane.commands.client import call, fail, out

app = typer.Typer(no_args_is_help=True, help="Who is told of changes, and what could not be told.")

NameArgument = Annotated[str, typer.Argument(help="The subscriber's name in SUREFOOT_WEBHOOKS.")]


@app.command("list")
def list_webhooks() -> None:
    """Show every subscriber, and what it is still to be told."""
    subscribers = call("GET", "/v1/webhooks")["webhooks"]
    if not subscribers:
        _say("nobody is told; SUREFOOT_WEBHOOKS names subscribers")
    for subscriber in subscribers:
        _say(f"{subscriber['name']}  {subscriber['origin']}  {subscriber['format']}  {', '.join(subscriber['events'])}")
        _say(f"    {_backlog(subscriber)}")


@app.command("dead")
def list_dead(
    name: Annotated[str | None, typer.Option("--subscriber", help="Of one subscriber only.")] = None,
) -> None:
    """Show the events that were given up, the latest first, each with its id."""
    params = {} if name is None else {"subscriber": name}
    dead = call("GET", "/v1/webhooks/dead", params=params)["dead"]
    if not dead:
        _say("no event was given up")
    for entry in dead:
        event = entry["event"]
        _say(f"{entry['event_id']}  {entry['subscriber']}  {event['type']} of {event['subject']} at {event['time']}")
        _say(f"    given up {entry['dead_at']} after {entry['attempts']} attempts: {entry['last_error']}")


@app.command("replay")
def replay(
    name: NameArgument,
    event_id: Annotated[int | None, typer.Argument(help="One event; without it all that were given up.")] = None,
) -> None:
    """Send once more what was given up."""
    path = f"/v1/webhooks/{name}/replay" if event_id is None else f"/v1/webhooks/{name}/dead/{event_id}/replay"
    count = call("POST", path)["replayed"]
    _say(f"{count} event{'' if count == 1 else 's'} will be sent to {name} again")


@app.command("test")
def test(name: NameArgument) -> None:
    """Send an event of no meaning to a subscriber, now; exit 1 unless it takes it."""
    outcome = call("POST", f"/v1/webhooks/{name}/test")
    if outcome["ending"] != "delivered":
        fail(f"{name}: {outcome['detail']}")
    _say(f"{name} took it")


def _backlog(subscriber: dict[str, Any]) -> str:
    if not subscriber["pending"]:
        waits = "told of everything"
    else:
        waits = f"{subscriber['pending']} pending, the oldest of {subscriber['oldest_pending_at']}"
    if subscriber["last_error"]:
        waits += f" ({subscriber['last_error']})"
    return waits + (f"; {subscriber['dead']} given up" if subscriber["dead"] else "")


def _say(text: str) -> None:
    out.print(text, highlight=False, markup=False, soft_wrap=True)
