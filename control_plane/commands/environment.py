"""The settings of this process, or a plain sentence about the variable that is wrong."""

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from control_plane.commands.client import fail
from control_plane.domain.errors import ControlPlaneError
from control_plane.settings import Settings


def read_settings() -> Settings:
    """Settings whose data folder exists; exits with 2 if a variable is wrong or the folder cannot be made."""
    settings = _from_environment()
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"SUREFOOT_DATA_DIR {settings.data_dir}: {error.strerror}", code=2)
    return settings


@contextmanager
def told_plainly() -> Iterator[None]:
    """A sentence and exit code 2 where a registry, an event log or a setting is of no use."""
    try:
        yield
    except ControlPlaneError as error:
        fail(str(error), code=2)


def _from_environment() -> Settings:
    try:
        return Settings()
    except ControlPlaneError as error:
        raise fail(str(error), code=2) from None
    except ValidationError as error:
        first = error.errors()[0]
        name = "SUREFOOT_" + "_".join(str(part) for part in first["loc"]).upper()
        rule = first["msg"][:1].lower() + first["msg"][1:]
        raise fail(f"{name}: {rule}, not {first['input']!r}", code=2) from None
