from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.databases import EACH_KIND, empty_database


@pytest.fixture(params=EACH_KIND)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    with empty_database(request, tmp_path / "registry.db") as found:
        yield found
