from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from control_plane.registry import runtimes
from control_plane.registry.session import make_engine, upgrade
from tests.commands.conftest import Run
from tests.registry.tampering import tampering
from tests.stories.world import World


@pytest.mark.parametrize("command", ["upgrade", "check"])
def test_a_registry_that_cannot_be_opened_is_a_plain_sentence(
    surefoot: Run, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("SUREFOOT_DATABASE_URL", "sqlite:////dev/null/registry.db")

    refused = surefoot("db", command)

    assert refused.exit_code == 2
    assert refused.stderr.startswith("error: ")
    assert "registry" in refused.stderr


def test_a_sound_registry_is_told_as_such(surefoot: Run) -> None:
    checked = surefoot("db", "check")

    assert checked.exit_code == 0, checked.output
    assert "the schema is up to date" in checked.output
    assert "the registry is sound" in checked.output


def test_a_registry_that_someone_altered_is_told_with_what_is_wrong(surefoot: Run, world: World) -> None:
    with tampering(world.sessions) as session:
        session.execute(text("UPDATE history SET reason = 'nothing to see' WHERE seq = 1"))

    checked = surefoot("db", "check")

    assert checked.exit_code == 3
    assert "home_feed: change 1 was altered" in checked.stderr
    assert surefoot("db", "check", "--schema-only").exit_code == 0


def test_an_old_schema_is_told_with_what_to_do(surefoot: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    engine = make_engine(url)
    upgrade(engine, "0001")
    engine.dispose()
    monkeypatch.setenv("SUREFOOT_DATABASE_URL", url)

    before = surefoot("db", "check")
    surefoot("db", "upgrade")

    assert before.exit_code == 1
    assert "run `surefoot db upgrade`" in before.stderr
    assert surefoot("db", "check").exit_code == 0


def test_a_registry_in_use_is_backed_up_and_restored_elsewhere(
    surefoot: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = surefoot("db", "backup", tmp_path / "backup")
    assert made.exit_code == 0, made.output
    assert "sqlite of" in made.output
    assert "sha256:" in made.output

    monkeypatch.setenv("SUREFOOT_DATABASE_URL", f"sqlite:///{tmp_path / 'elsewhere.db'}")
    restored = surefoot("db", "restore", tmp_path / "backup")

    assert restored.exit_code == 0, restored.output
    assert "the registry is sound" in restored.output


def test_a_restore_over_a_registry_with_rows_asks_to_be_told(surefoot: Run, tmp_path: Path) -> None:
    surefoot("db", "backup", tmp_path / "backup")

    refused = surefoot("db", "restore", tmp_path / "backup")
    replaced = surefoot("db", "restore", tmp_path / "backup", "--replace")

    assert refused.exit_code == 2
    assert "restore with --replace" in refused.stderr
    assert replaced.exit_code == 0, replaced.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["backup", "{}"], "exists already"),
        (["restore", "{}"], "has no manifest.json that can be read"),
        (["prune", "--older-than", "90"], "--older-than: must be a number of days or weeks like 90d or 12w"),
        (["prune", "--older-than", "0d"], "older_than: must be at least one day"),
    ],
)
def test_what_cannot_be_done_is_a_plain_sentence(
    surefoot: Run, tmp_path: Path, arguments: list[str], told: str
) -> None:
    refused = surefoot("db", *(argument.format(tmp_path) for argument in arguments))

    assert refused.exit_code == 2
    assert told in refused.stderr.replace("\n", "")


def test_pruning_says_what_would_go_before_it_goes(surefoot: Run, world: World) -> None:
    with world.sessions.writing() as session:
        for key in ("old", "older"):
            session.execute(
                text("INSERT INTO idempotency VALUES ('ann', :key, 'd', 200, '{}', '{}', :at)"),
                {"key": key, "at": f"{world.now - timedelta(days=400):%Y-%m-%d %H:%M:%S.%f}"},
            )

    first = surefoot("db", "prune", "--older-than", "52w", "--dry-run")
    second = surefoot("db", "prune", "--older-than", "365d", "--compact")
    after = surefoot("db", "prune", "--older-than", "365d", "--dry-run")

    assert "idempotency: 2 would go, 4 bytes" in first.output
    assert "idempotency: 2 went, 4 bytes" in second.output
    assert "idempotency: 0 would go" in after.output


def test_generations_that_a_restore_lost_are_found_and_passed_over(surefoot: Run, world: World) -> None:
    beat = runtimes.Heartbeat(
        runtime_id="runtime-1",
        generations={"home_feed": 4},
        loaded=(),
        counts={},
        shadow_dropped=0,
        splits_mode="push",
    )
    with world.sessions.writing() as session:
        runtimes.record_heartbeat(session, beat, now=world.now, seen_at=world.now)

    lost = surefoot("db", "check")
    passed = surefoot("db", "pass-over", "home_feed", "--reason", "restored last night's backup")
    after = surefoot("db", "check")

    assert "home_feed: runtime-1 serves generation 4, which this registry has lost" in lost.stderr
    assert "home_feed is at generation 5" in passed.output
    assert after.exit_code == 0, after.output
