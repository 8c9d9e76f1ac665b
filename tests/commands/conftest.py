from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from control_plane.__main__ import app as command_line
from control_plane.app import create_app
from control_plane.settings import Settings
from tests.api.live_server import serving
from tests.stories.world import World

Run = Callable[..., Result]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, "home_feed")


@pytest.fixture
def surefoot(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """The `surefoot` command against a served control plane whose registry and log are the world's."""
    settings = Settings(data_dir=tmp_path, runs_scheduler=False, runtime_silent_seconds=1e9)
    monkeypatch.setenv("SUREFOOT_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("SUREFOOT_OPERATOR", "ann")
    monkeypatch.setenv("COLUMNS", "200")
    with serving(create_app(settings, lambda: world.now)) as url:
        monkeypatch.setenv("SUREFOOT_URL", url)

        def run(*arguments: object) -> Result:
            return CliRunner().invoke(command_line, [str(argument) for argument in arguments])

        yield run
