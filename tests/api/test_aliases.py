from pathlib import Path

import pytest

from control_plane.app import create_app
from control_plane.registry import stables
from control_plane.registry.change_mark import ChangeMark
from control_plane.registry.session import Sessions, make_engine, upgrade
from control_plane.settings import Settings
from tests.api.deployment import BOTH_DATABASES, Deployment, MovedClock
from tests.builders import NOON
from tests.http_client import in_process


@BOTH_DATABASES
def test_an_alias_names_the_version_that_serves_and_the_generation(deployment: Deployment) -> None:
    stable = deployment.open_surface()

    answer = deployment.client.get("/v1/surfaces/home_feed/versions/stable")

    assert answer.status_code == 200
    assert answer.json() == deployment.client.get(f"/v1/versions/{stable}").json()
    assert answer.headers["ETag"] == '"1"'


@BOTH_DATABASES
def test_aliases_follow_every_change_at_once(deployment: Deployment) -> None:
    rollout = deployment.create_rollout()

    def aliases() -> list[str | None]:
        answers = [
            deployment.client.get(f"/v1/surfaces/home_feed/versions/{alias}")
            for alias in ("stable", "candidate", "last_proven")
        ]
        return [answer.json().get("version_id") for answer in answers]

    stable, candidate = rollout["stable"], rollout["candidate"]
    seen = [aliases(), aliases()]
    deployment.ramp(rollout["rollout_id"])
    seen += [aliases(), aliases()]
    deployment.command(rollout["rollout_id"], "roll_back")
    seen += [aliases(), aliases()]

    assert seen == [[stable, None, None]] * 2 + [[stable, candidate, None]] * 2 + [[stable, None, None]] * 2


@BOTH_DATABASES
def test_a_change_by_another_process_shows_in_the_very_next_answer(deployment: Deployment) -> None:
    deployment.open_surface()
    other = deployment.register("other")
    first = deployment.client.get("/v1/surfaces/home_feed/versions/stable").json()["version_id"]
    engine = make_engine(deployment.parts.sessions.engine.url.render_as_string(hide_password=False))

    with Sessions(engine).writing() as session:
        stables.adopt(session, "home_feed", other, seen_generation=None, by="ada", reason="x", now=NOON)  # type: ignore[arg-type]  # plain texts
    engine.dispose()
    second = deployment.client.get("/v1/surfaces/home_feed/versions/stable")

    assert (first == other, second.json()["version_id"], second.headers["ETag"]) == (False, other, '"2"')


@BOTH_DATABASES
@pytest.mark.parametrize(
    ("path", "status"),
    [("home_feed/versions/candidate", 404), ("nowhere/versions/stable", 404), ("home_feed/versions/best", 422)],
)
def test_what_is_not_there_is_told(deployment: Deployment, path: str, status: int) -> None:
    deployment.open_surface()

    answers = [deployment.client.get(f"/v1/surfaces/{path}") for _ in range(2)]

    assert [answer.status_code for answer in answers] == [status, status]


def test_what_is_remembered_costs_the_database_no_query(deployment: Deployment) -> None:
    deployment.open_surface()
    path = "/v1/surfaces/home_feed/versions/stable"
    first = deployment.client.get(path)
    deployment.parts.sessions.engine.dispose()

    again = [deployment.client.get(path) for _ in range(3)]

    assert {answer.content for answer in again} == {first.content}
    assert {answer.headers["ETag"] for answer in again} == {first.headers["ETag"]}
    assert deployment.parts.sessions.engine.pool.checkedin() == 0  # type: ignore[attr-defined]  # of a QueuePool


def test_the_mark_moves_with_the_commits_of_others(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'registry.db'}")
    upgrade(engine)
    mark, sessions = ChangeMark(engine), Sessions(engine)
    before = mark.read()
    with sessions.reading():
        pass

    assert before is not None
    assert mark.read() == before
    with sessions.writing() as session:
        stables.create_surface(session, "search", ["list"], by="ada", now=NOON)  # type: ignore[arg-type, list-item]  # plain texts
        assert mark.read() == before
    assert mark.read() != before
    mark.close()
    engine.dispose()


def test_a_registry_without_a_file_bears_no_mark(tmp_path: Path) -> None:
    assert ChangeMark(make_engine("postgresql+psycopg://nobody@127.0.0.1:1/none")).read() is None
    assert ChangeMark(make_engine(f"sqlite:///{tmp_path}")).read() is None


def test_a_registry_that_is_away_is_told_of_instead_of_what_is_remembered(tmp_path: Path) -> None:
    clock = MovedClock()
    app = create_app(Settings(data_dir=tmp_path / "data", runs_scheduler=False), clock.read)
    with in_process(app) as client:
        made = Deployment(client=client, app=app, clock=clock, artifacts=tmp_path / "artifacts")
        made.open_surface()
        assert client.get("/v1/surfaces/home_feed/versions/stable").status_code == 200
        made.parts.memory.close()
        made.parts.sessions.engine.dispose()
        for file in (tmp_path / "data").glob("registry.db*"):
            file.unlink()
        (tmp_path / "data" / "registry.db").mkdir()

        assert client.get("/v1/surfaces/home_feed/versions/stable").status_code == 503
