"""`surefoot db …`: the registry's schema, its soundness, its backups, and what may go."""

import getpass
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from sqlalchemy import Engine

from control_plane.commands.client import err, fail, out
from control_plane.commands.environment import read_settings, told_plainly
from control_plane.commands.progress import counting
from control_plane.domain.errors import InvalidField
from control_plane.domain.model_version import Surface
from control_plane.registry import lost_generations, retention, soundness
from control_plane.registry import session as registry_session
from control_plane.registry.backup import Kind, back_up
from control_plane.registry.manifest_file import Manifest
from control_plane.registry.restore import restore as restore_backup
from control_plane.registry.session import Sessions

app = typer.Typer(no_args_is_help=True, help="The registry's database.")

UNSOUND = 3  # exit code: something is wrong with what is there, as against not being able to look
AGE = re.compile(r"(\d{1,5})\s*(d|w)")
UNITS = {"d": timedelta(days=1), "w": timedelta(weeks=1)}

FolderArgument = Annotated[Path, typer.Argument(metavar="FOLDER", help="The backup, a folder.")]


@app.command()
def upgrade() -> None:
    """Bring the registry's schema up to date."""
    with told_plainly():
        engine = _engine()
        registry_session.upgrade(engine)
    out.print(f"{_shown(engine)} is up to date", soft_wrap=True)


@app.command()
def check(
    schema_only: Annotated[
        bool, typer.Option("--schema-only", help="Only whether the schema is this version's; takes no time.")
    ] = False,
) -> None:
    """Check schema, file, references, history and what serves.

    Exits 1 if the schema is not up to date, 3 if something is wrong with what is there.
    """
    with told_plainly():
        engine = _engine()
        if not registry_session.at_head(engine):
            fail("the registry's schema is not up to date; run `surefoot db upgrade`")
        out.print("the schema is up to date")
        if not schema_only:
            _check_soundness(engine)


@app.command()
def backup(
    folder: FolderArgument,
    kind: Annotated[
        Kind, typer.Option(help="native: the database's own copy; portable: rows, for either database.")
    ] = Kind.AUTO,
) -> None:
    """Back the registry up while it is in use; FOLDER is made, and is there whole or not at all."""
    with told_plainly(), counting("backup") as show:
        made = back_up(_engine(), folder, kind=kind, now=datetime.now(UTC), on_progress=show)
    if made.note:
        err.print(made.note, markup=False, soft_wrap=True)
    out.print(f"backed up to {escape(str(folder))}: {_told(made.manifest)}", soft_wrap=True)
    out.print(made.manifest.sha256, soft_wrap=True)


@app.command()
def restore(
    folder: FolderArgument,
    replace: Annotated[bool, typer.Option("--replace", help="Even over a registry that has rows.")] = False,
) -> None:
    """Put a backup into the registry that SUREFOOT_DATABASE_URL names, then check it. Stop every process before."""
    with told_plainly():
        engine = _engine()
        with counting("restore") as show:
            manifest = restore_backup(engine, folder, replace=replace, on_progress=show)
        out.print(f"restored into {escape(_shown(engine))}: {_told(manifest)}", soft_wrap=True)
        _check_soundness(engine)


@app.command("pass-over")
def pass_over(
    surface: str,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; stands in the history.")],
    generation: Annotated[
        int | None, typer.Option(help="The last generation that was lost; as the runtimes tell if missing.")
    ] = None,
) -> None:
    """After a restore: go past the generations that runtimes hold and the backup did not have yet.

    A runtime never goes back, so until then it would keep to what it was told last.
    """
    by = os.environ.get("SUREFOOT_OPERATOR") or getpass.getuser()
    with told_plainly(), Sessions(_engine()).writing() as session:
        state = lost_generations.pass_over(
            session, Surface(surface), generation, by=by, reason=reason, now=datetime.now(UTC)
        )
    out.print(f"{surface} is at generation {state.generation}")


@app.command()
def prune(
    older_than: Annotated[str, typer.Option("--older-than", metavar="AGE", help="Such as 90d or 12w.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    compact: Annotated[bool, typer.Option("--compact", help="Give the room back to the disk; writers wait.")] = False,
) -> None:
    """Let go of what judges saw of rollouts long over, and of what was only on its way. The history stays."""
    with told_plainly():
        keep = _age(older_than)
        engine = _engine()
        now = datetime.now(UTC)
        if dry_run:
            with Sessions(engine).reading() as session:
                found = retention.survey(session, keep=keep, now=now, wall_now=now)
        else:
            found = retention.prune(Sessions(engine), keep=keep, by="surefoot db prune", now=now, wall_now=now)
            if compact:
                registry_session.vacuum(engine)
    verb = "would go" if dry_run else "went"
    for old in found:
        out.print(f"{old.what.replace('_', ' ')}: {old.rows} {verb}, {_size(old.bytes)}")


def _check_soundness(engine: Engine) -> None:
    with Sessions(engine).reading() as session, counting("check") as show:
        of, done = soundness.steps(session), 0

        def step(steps: int) -> None:
            nonlocal done
            done += steps
            show(done, of)

        problems = list(soundness.problems(session, step))
    for problem in problems:
        err.print(problem, markup=False, soft_wrap=True)
    if problems:
        fail(f"the registry is not sound: {len(problems)} problem(s)", code=UNSOUND)
    out.print("the registry is sound: file, references, history, evidence and what serves")


def _age(given: str) -> timedelta:
    found = AGE.fullmatch(given.strip())
    if found is None:
        raise InvalidField("--older-than", f"must be a number of days or weeks like 90d or 12w, not {given!r}")
    return int(found[1]) * UNITS[found[2]]


def _told(manifest: Manifest) -> str:
    rows = sum(manifest.rows.values())
    made_at = f"{manifest.made_at:%Y-%m-%d %H:%M:%S} UTC"
    return f"{manifest.format} of {made_at}, revision {manifest.revision}, {rows} rows, {_size(manifest.bytes)}"


def _size(count: int) -> str:
    size = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _shown(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=True)


def _engine() -> Engine:
    return registry_session.make_engine(read_settings().registry_url)
