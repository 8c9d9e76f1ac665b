"""`surefoot surface|register|quarantine …`: what may serve where."""

from pathlib import Path
from typing import Annotated

import typer

from control_plane.commands.client import call, fail, out, version_id
from control_plane.domain.errors import ControlPlaneError
from control_plane.registry.artifacts import verify_artifact

DigestArgument = Annotated[str, typer.Argument(help="sha256:…, whole; the version's page shows it for each part.")]

surface_app = typer.Typer(no_args_is_help=True, help="Surfaces and what serves on them.")
version_app = typer.Typer(no_args_is_help=True, help="Model versions that are registered.")
quarantine_app = typer.Typer(no_args_is_help=True, help="Digests that may serve nowhere.")


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
    surfaces = call("GET", "/v1/surfaces")["surfaces"]
    if not surfaces:
        out.print("no surfaces yet; `surefoot surface add` names one")
    for state in surfaces:
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
    surface: str,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; stands in the history.")] = "",
    seen_generation: Annotated[
        int | None,
        typer.Option(help="The present one: stable goes although users were taken home already."),
    ] = None,
) -> None:
    """Take back what users got last: a candidate with weight or, without one, stable, for the last proven version."""
    seen = call("GET", f"/v1/surfaces/{surface}")["generation"]
    body = {"reason": reason, "seen_generation": seen_generation}
    state = call("POST", f"/v1/surfaces/{surface}/rollback", body=body)
    if state["generation"] == seen:
        out.print(f"{surface}: nothing to do, it was rolled back already; all traffic is on stable {state['stable']}")
        out.print(f"to leave that, too: surefoot surface rollback {surface} --seen-generation {seen}", soft_wrap=True)
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


@version_app.command("list")
def list_versions(
    surface: Annotated[str | None, typer.Option("--surface", help="One surface; all if missing.")] = None,
) -> None:
    """Show what is registered, and what may not be rolled out any more."""
    found = call("GET", "/v1/versions", params={} if surface is None else {"surface": surface})["versions"]
    if not found:
        out.print("no versions yet; `surefoot register` adds one")
    for version in found:
        flaws = ["taken back"] if version["is_aborted"] else []
        flaws += [f"{part} quarantined" for part in version["quarantined_parts"]]
        marked = f"  ({', '.join(flaws)})" if flaws else ""
        line = f"{version['version_id']}  {version['surface']}  {version['training_run']}{marked}"
        out.print(line, highlight=False, markup=False, soft_wrap=True)


@version_app.command("history")
def version_history(
    version: Annotated[str, typer.Argument(metavar="VERSION_ID", help="The version's id, or its first digits.")],
) -> None:
    """Show who registered a version, when, and where it was read from since."""
    for entry in call("GET", f"/v1/versions/{version_id(version)}/history")["history"]:
        line = f"{entry['at']}  {entry['by']}  {entry['command']}  {entry['artifact_uri']}"
        out.print(line, highlight=False, markup=False, soft_wrap=True)


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
