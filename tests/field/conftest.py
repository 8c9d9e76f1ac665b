"""What other rollout systems got wrong or were asked for: each test is named after the report it answers."""

from pathlib import Path

import pytest

from tests.registry.conftest import registry_url as registry_url
from tests.registry.conftest import sessions as sessions
from tests.registry.conftest import sqlite_template as sqlite_template
from tests.stories.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, "home_feed")
