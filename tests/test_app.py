import time
from pathlib import Path

from control_plane.app import create_app
from control_plane.registry import leases
from control_plane.registry.session import Sessions, at_head, make_engine
from control_plane.settings import Settings
from tests.api.deployment import MovedClock
from tests.http_client import in_process

PATIENCE_SECONDS = 20.0


def test_the_app_brings_its_registry_up_to_date_and_lets_go_of_it(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "not there yet", runs_scheduler=False)

    with in_process(create_app(settings, MovedClock().read)) as client:
        assert client.get("/v1/health").json()["scheduler"] is None
        assert at_head(make_engine(settings.registry_url))


def test_the_app_carries_a_scheduler_and_gives_its_lease_up_at_the_end(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, tick_seconds=0.05)

    with in_process(create_app(settings, MovedClock().read)) as client:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (health := client.get("/v1/health").json())["last_tick_at"] is None and time.monotonic() < deadline:
            time.sleep(0.02)

    assert health["last_tick_at"] == "2026-03-03T12:00:00Z"
    assert health["scheduler"]["epoch"] == 1
    engine = make_engine(settings.registry_url)
    with Sessions(engine).reading() as session:
        lease = leases.current(session, leases.SCHEDULER)
    engine.dispose()
    assert lease is not None
    assert lease.seconds_left == 0


def test_the_admin_page_is_served_beside_the_api(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, runs_scheduler=False)

    with in_process(create_app(settings, MovedClock().read)) as client:
        answer = client.get("/")

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
