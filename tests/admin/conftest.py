from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from control_plane.app import create_app
from control_plane.clock import system_clock
from control_plane.settings import Settings
from tests.admin.showcase import SOUND, Scene, Showcase, seed_showcase
from tests.admin.site import Site
from tests.http_client import in_process


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Home feed with a pending rollout and two live runtimes, looked at through the admin page."""
    yield from site_with(tmp_path, Settings(data_dir=tmp_path, runs_scheduler=False))


@pytest.fixture
def guarded_site(tmp_path: Path) -> Iterator[Site]:
    """The same, where only holders of a token may act."""
    yield from site_with(tmp_path, Settings(data_dir=tmp_path, runs_scheduler=False, tokens="grace=s3cret"))


@pytest.fixture
def grouped(tmp_path: Path) -> Iterator[Site]:
    """The same as `site`, where ann is of the group that may overrule freezes."""
    yield from site_with(tmp_path, Settings(data_dir=tmp_path, runs_scheduler=False, groups="oncall=ann"))


@pytest.fixture(scope="session")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Scene]:
    """A registry file with every state worth looking at; copy it before writing."""
    root = tmp_path_factory.mktemp("showcase")
    showcase, scene = seed_showcase(root, check=timedelta(hours=6))
    showcase.close()
    return root / "registry.db", scene


def site_with(root: Path, settings: Settings) -> Iterator[Site]:
    showcase = Showcase(settings.registry_url)
    showcase.open("home_feed")
    rollout_id = showcase.roll_out("home_feed", SOUND, seed=1)
    showcase.heartbeat(seen_at=system_clock() + timedelta(days=1))
    with in_process(create_app(settings, lambda: showcase.now), headers={"Sec-Fetch-Site": "same-origin"}) as client:
        yield Site(client=client, showcase=showcase, rollout_id=rollout_id)
    showcase.close()
