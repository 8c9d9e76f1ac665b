from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from control_plane.domain.errors import InputsPruned
from control_plane.domain.rollout import Command, Phase
from control_plane.domain.verdict import Outcome
from control_plane.registry import evidence, leases
from control_plane.registry.session import Sessions, make_engine, upgrade
from control_plane.scheduler.housekeeping import Housekeeper
from control_plane.settings import Settings
from tests.builders import NOON, a_verdict
from tests.registry import scene

MUCH_LATER = NOON + timedelta(days=200)


@pytest.fixture
def sessions(tmp_path: Path) -> Iterator[Sessions]:
    engine = make_engine(f"sqlite:///{tmp_path / 'registry.db'}")
    upgrade(engine)
    yield Sessions(engine)
    engine.dispose()


@pytest.fixture
def old_verdict(sessions: Sessions) -> int:
    """One that nothing was done on, of a rollout long over."""
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)
        verdict = a_verdict(Outcome.HOLD, generation=5)
        first, _ = (
            evidence.record_verdict(session, rollout_id, verdict, inputs, now=NOON, next_check_at=NOON)
            for inputs in (b"first", b"last")
        )
        scene.commanded(session, rollout_id, Command.ROLL_BACK)
    return first


def sweep(sessions: Sessions, *, keep_days: float, holds_lease: bool = True) -> None:
    epoch = None
    if holds_lease:
        with sessions.writing() as session:
            epoch = leases.acquire(session, leases.SCHEDULER, "me", 10.0)
    Housekeeper(sessions, lambda: MUCH_LATER, keep_days=keep_days).sweep(epoch)


def test_the_scheduler_that_acts_lets_go_of_what_is_old(sessions: Sessions, old_verdict: int) -> None:
    sweep(sessions, keep_days=90)

    with sessions.reading() as session, pytest.raises(InputsPruned):
        evidence.inputs(session, old_verdict)


@pytest.mark.parametrize(("keep_days", "holds_lease"), [(0, True), (90, False), (365, True)])
def test_nothing_goes_without_a_setting_without_the_lease_or_before_its_time(
    sessions: Sessions, old_verdict: int, keep_days: float, holds_lease: bool
) -> None:
    sweep(sessions, keep_days=keep_days, holds_lease=holds_lease)

    with sessions.reading() as session:
        assert evidence.inputs(session, old_verdict) == b"first"


def test_an_epoch_that_is_not_the_leases_prunes_nothing_and_does_not_raise(
    sessions: Sessions, old_verdict: int
) -> None:
    Housekeeper(sessions, lambda: MUCH_LATER, keep_days=90).sweep(41)

    with sessions.reading() as session:
        assert evidence.inputs(session, old_verdict) == b"first"


@pytest.mark.parametrize("days", ["0.5", "-1", "a year"])
def test_a_retention_of_less_than_a_day_is_refused_at_the_start(days: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUREFOOT_RETENTION_DAYS", days)

    with pytest.raises(ValidationError, match="retention_days"):
        Settings()
