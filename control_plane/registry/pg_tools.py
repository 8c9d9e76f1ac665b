"""PostgreSQL's own programs for dumping and restoring, where they are installed and new enough for the server."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from sqlalchemy import Connection, Engine, text

from control_plane.domain.errors import BackupFailed

MAJOR = re.compile(r"\(PostgreSQL\)\s+(\d+)")


def lacking(engine: Engine, program: str) -> str:
    """Why a program cannot be used here; empty if it can."""
    path = shutil.which(program)
    if path is None:
        return f"{program} is not on PATH"
    shown = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    found = MAJOR.search(shown)
    with engine.connect() as connection:
        server = int(connection.execute(text("SHOW server_version_num")).scalar_one()) // 10_000
    if found is None or int(found[1]) < server:
        return f"{program} is of version {found[1] if found else 'unknown'}, older than the server's {server}"
    return ""


def dump(connection: Connection, path: Path) -> None:
    """The very moment that `connection` sees, in pg_dump's custom format."""
    snapshot = connection.execute(text("SELECT pg_export_snapshot()")).scalar_one()
    _run(
        connection.engine,
        path,
        ["pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--snapshot={snapshot}", f"--file={path}"],
    )


def restore(engine: Engine, path: Path) -> None:
    """All of it or nothing, over what is there of the same names."""
    options = ["--no-owner", "--no-privileges", "--single-transaction", "--exit-on-error", "--clean", "--if-exists"]
    _run(engine, path, ["pg_restore", *options, str(path)])


def _run(engine: Engine, path: Path, command: list[str]) -> None:
    """The password goes by the environment: arguments are there for everybody to see."""
    url = engine.url.set(drivername="postgresql", password=None)
    environment = {**os.environ, "PGPASSWORD": engine.url.password or os.environ.get("PGPASSWORD", "")}
    target = f"--dbname={url.render_as_string(hide_password=False)}"
    done = subprocess.run(
        [command[0], target, *command[1:]], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise BackupFailed(str(path.parent), said[0] if said else f"{command[0]} ended with {done.returncode}")
