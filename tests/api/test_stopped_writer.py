import sqlite3
import sys
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.pool import ConnectionPoolEntry

from tests.api.deployment import Deployment
from tests.stopped_writer import stopped_writer

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux: locks are read from /proc")


def wait_less(connection: sqlite3.Connection, _record: ConnectionPoolEntry) -> None:
    connection.execute("PRAGMA busy_timeout = 200")


def test_while_a_stopped_process_holds_the_lock_writers_are_told_so_and_when_to_ask_again(
    deployment: Deployment,
) -> None:
    deployment.open_surface()
    engine = deployment.parts.sessions.engine
    engine.dispose()
    event.listen(engine, "connect", wait_less)

    with stopped_writer(Path(engine.url.database or "")) as pid:
        refused = deployment.client.post("/v1/surfaces", json={"surface": "search", "view_types": ["grid"]})
        read = deployment.client.get("/v1/surfaces/home_feed")
    again = deployment.client.post("/v1/surfaces", json={"surface": "search", "view_types": ["grid"]})

    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert refused.json()["type"] == "urn:surefoot:registry-locked"
    assert f"process {pid} holds its write lock and is stopped" in refused.json()["detail"]
    assert (read.status_code, again.status_code) == (200, 201)
