"""`surefoot surface|register|quarantine|db …`: what may serve where."""

from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Engine

from control_plane.commands.client import call, fail, out, version_id
from control_plane.commands.environment import read_settings, told_plainly
from control_plane.domain.errors import ControlPlaneError
from control_plane.registry import session as registry_session
from control_plane.registry.artifacts import verify_artifact

DigestArgument = Annotated[str, typer.Argument(help="sha256:…, whole; the version's page shows it for each part.")]

surface_app = typer.Typer(no_args_is_help=True, help="Surfaces and what serves on them.")
quarantine_app = typer.Typer(no_args_is_help=True, help="Digests that may serve nowhere.")
db_app = typer.Typer(no_args_is_help=True, help="The registry's database.")


@surface_app.command("add")
def add_surface(
    surface: str,
    view_types: Annotated[list[str], typer.Argument(help="The surface's view types, one or more.")],
) -> None:
    """Make a surface known, with its view types."""
    call("POST", "/v1/surfaces", body={"surface": surface, "view_types": view_types})
    out.print(f"{surface}: {', '.join(view_types)}")


@surface_app.command("list")
def list_surfaces() -> None:
    """Show what serves where."""
    for state in call("GET", "/v1/surfaces")["surfaces"]:
        candidate = (
            f", candidate {state['candidate']} at {state['candidate_bp'] / 100:g} %" if state["candidate"] else ""
        )
        stable = state["stable"] or "none yet; `surefoot surface adopt` sets it"
        out.print(f"{state['surface']} (generation {state['generation']}): stable {stable}{candidate}")


@surface_app.command("adopt")
def adopt(
    surface: str,
    version: Annotated[str, typer.Argument(metavar="VERSION_ID", help="The version's id, or its first digits.")],
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why this version is trusted unjudged.")],
) -> None:
    """Set a surface's stable version by hand: its first one, or after a disaster."""
    seen = call("GET", f"/v1/surfaces/{surface}")["generation"]
    body = {"version_id": version_id(version), "reason": reason, "seen_generation": seen}
    state = call("PUT", f"/v1/surfaces/{surface}/stable", body=body)
    out.print(f"{surface}: stable is {state['stable']}")


@surface_app.command("rollback")
def roll_back(
    surface: str, reason: Annotated[str, typer.Option("--reason", "-r", help="Why; stands in the history.")] = ""
) -> None:
    """Take the candidate off, or stable back to the last proven version if no rollout is active."""
    seen = call("GET", f"/v1/surfaces/{surface}")["generation"]
    state = call("POST", f"/v1/surfaces/{surface}/rollback", body={"reason": reason})
    if state["generation"] == seen:
        out.print(f"{surface}: nothing to do, it was rolled back already; all traffic is on stable {state['stable']}")
    else:
        out.print(f"{surface}: rolled back; all traffic is on stable {state['stable']}")


def register(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="A folder with manifest.json.")],
) -> None:
    """Check an exported model version and register it; prints its version id."""
    try:
        verify_artifact(folder)
    except ControlPlaneError as error:
        fail(str(error))
    registered = call("POST", "/v1/versions", body={"artifact_uri": str(folder.resolve())})
    out.print(registered["version_id"], highlight=False)


@quarantine_app.command("add")
def quarantine(digest: DigestArgument, reason: Annotated[str, typer.Option("--reason", "-r", help="Why.")]) -> None:
    """Take a digest off every surface at once, and keep it off."""
    moved = call("POST", "/v1/quarantine", body={"digest": digest, "reason": reason})["surfaces"]
    out.print(f"quarantined; moved off: {', '.join(moved) or 'nothing was using it'}")


@quarantine_app.command("list")
def list_quarantined() -> None:
    """Show what may serve nowhere, and why."""
    entries = call("GET", "/v1/quarantine")["quarantined"]
    if not entries:
        out.print("nothing is quarantined")
    for entry in entries:
        out.print(f"{entry['digest']}  {entry['at']}  {entry['by']}: {entry['reason']}", soft_wrap=True)


@quarantine_app.command("release")
def release(digest: DigestArgument, reason: Annotated[str, typer.Option("--reason", "-r", help="Why.")]) -> None:
    """Let a digest serve again."""
    call("DELETE", f"/v1/quarantine/{digest}", params={"reason": reason})
    out.print("released")


@db_app.command("upgrade")
def upgrade() -> None:
    """Bring the registry's schema up to date."""
    with told_plainly():
        engine = _engine()
        registry_session.upgrade(engine)
    out.print(f"{engine.url.render_as_string(hide_password=True)} is up to date")


@db_app.command("check")
def check() -> None:
    """Exit 1 unless the registry's schema is the one this version needs."""
    with told_plainly():
        is_at_head = registry_session.at_head(_engine())
    if not is_at_head:
        fail("the registry's schema is not up to date; run `surefoot db upgrade`")
    out.print("the schema is up to date")


def _engine() -> Engine:
    return registry_session.make_engine(read_settings().registry_url)
