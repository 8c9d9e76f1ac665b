"""What goes after a while, and above all what stays."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from control_plane.domain.errors import Deposed, InputsPruned, InvalidField
from control_plane.domain.model_version import VersionId
from control_plane.domain.moments import ServingCounts
from control_plane.domain.rollout import Command, Phase, RolloutId
from control_plane.domain.verdict import Outcome
from control_plane.registry import (
    evidence,
    history,
    idempotency,
    leases,
    outbox,
    retention,
    rollouts,
    runtimes,
    surfaces,
)
from control_plane.registry.retention import What
from control_plane.registry.session import Sessions
from control_plane.registry.tables import IdempotencyRow, OutboxRow, RetentionPassRow, RuntimeCountsRow, VerdictRow
from tests.builders import HOME_FEED, NOON, a_verdict
from tests.registry import scene

KEEP = timedelta(days=90)
MUCH_LATER = NOON + timedelta(days=200)


def a_look(session: Session, rollout_id: RolloutId, inputs: bytes) -> int:
    """A verdict that nothing was done on."""
    generation = surfaces.get(session, HOME_FEED).generation
    verdict = a_verdict(Outcome.HOLD, generation=generation)
    return evidence.record_verdict(session, rollout_id, verdict, inputs, now=NOON, next_check_at=NOON)


@pytest.fixture
def looks(sessions: Sessions) -> list[int]:
    """Three looks at a rollout that was rolled back on a fourth: all with inputs of their own."""
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)
        found = [a_look(session, rollout_id, f"inputs {number}".encode()) for number in range(3)]
        moved = a_look(session, rollout_id, b"what it was rolled back on")
        rollouts.apply_command(
            session, rollout_id, Command.ROLL_BACK, by="scheduler", now=NOON, reason="harm", verdict_id=moved
        )
        return [*found, moved]


def prune(sessions: Sessions, **overrides: object) -> dict[What, int]:
    arguments = {"keep": KEEP, "by": "ann", "now": MUCH_LATER, "wall_now": MUCH_LATER, **overrides}
    found = retention.prune(sessions, **arguments)  # type: ignore[arg-type]  # overrides are the tests' own
    return {old.what: old.rows for old in found}


def test_inputs_of_looks_that_changed_nothing_go_and_the_verdicts_stay(sessions: Sessions, looks: list[int]) -> None:
    assert prune(sessions)[What.VERDICT_INPUTS] == 3

    with sessions.reading() as session:
        assert session.scalar(select(func.count()).select_from(VerdictRow)) == 6
        for verdict_id in looks[:3]:
            assert evidence.get_verdict(session, verdict_id).verdict.outcome is Outcome.HOLD
            with pytest.raises(InputsPruned, match=rf"verdict {verdict_id} were pruned on 2026-09-19"):
                evidence.inputs(session, verdict_id)


def test_inputs_of_a_verdict_that_moved_something_stay(sessions: Sessions, looks: list[int]) -> None:
    prune(sessions)

    with sessions.reading() as session:
        assert evidence.inputs(session, looks[3]) == b"what it was rolled back on"


def test_inputs_of_a_rollouts_last_verdict_stay(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)
        first, last = (a_look(session, rollout_id, content) for content in (b"first", b"last"))
        scene.commanded(session, rollout_id, Command.ROLL_BACK)

    prune(sessions)

    with sessions.reading() as session:
        assert evidence.inputs(session, last) == b"last"
        with pytest.raises(InputsPruned):
            evidence.inputs(session, first)


def test_inputs_of_a_rollout_still_on_its_way_stay_however_old(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)
        a_look(session, rollout_id, b"first")
        a_look(session, rollout_id, b"second")

    assert prune(sessions)[What.VERDICT_INPUTS] == 0


def test_inputs_of_a_rollout_that_ended_lately_stay(sessions: Sessions, looks: list[int]) -> None:
    assert prune(sessions, now=NOON + timedelta(days=89))[What.VERDICT_INPUTS] == 0


def test_the_history_holds_after_pruning(sessions: Sessions, looks: list[int]) -> None:
    with sessions.reading() as session:
        before = history.count(session)

    prune(sessions)

    with sessions.reading() as session:
        assert history.count(session) == before
        assert history.verify(session) == []


def test_a_survey_counts_rows_and_bytes_and_changes_nothing(sessions: Sessions, looks: list[int]) -> None:
    with sessions.reading() as session:
        found = {old.what: old for old in retention.survey(session, keep=KEEP, now=MUCH_LATER, wall_now=MUCH_LATER)}
        assert evidence.inputs(session, looks[0]) == b"inputs 0"

    assert (found[What.VERDICT_INPUTS].rows, found[What.VERDICT_INPUTS].bytes) == (3, 3 * len(b"inputs 0"))


def test_every_pass_is_written_down(sessions: Sessions, looks: list[int]) -> None:
    prune(sessions)

    with sessions.reading() as session:
        row = session.scalars(select(RetentionPassRow).where(RetentionPassRow.what == "verdict_inputs")).one()
        assert (row.by, row.rows, row.finished_at) == ("ann", 3, MUCH_LATER)


def test_outside_a_pass_the_database_keeps_every_input(sessions: Sessions, looks: list[int]) -> None:
    prune(sessions)

    with pytest.raises(IntegrityError, match="append-only"), sessions.writing() as session:
        session.execute(text("UPDATE verdict_inputs SET content = '' WHERE pruned_at IS NULL"))


def test_even_a_pass_may_not_take_rows_out(sessions: Sessions, looks: list[int]) -> None:
    def delete_in_a_pass() -> None:
        with sessions.writing() as session:
            session.add(RetentionPassRow(by="eve", started_at=NOON, what="verdict_inputs", rows=0, bytes=0))
            session.flush()
            session.execute(text("DELETE FROM verdict_inputs"))

    with pytest.raises(IntegrityError, match="append-only"):
        delete_in_a_pass()


def test_what_comes_again_after_it_was_pruned_is_kept_again(sessions: Sessions, looks: list[int]) -> None:
    prune(sessions)

    with sessions.writing() as session:
        verdict_id = a_look(session, rollouts.list_rollouts(session)[0].rollout_id, b"inputs 1")

    with sessions.reading() as session:
        assert evidence.inputs(session, verdict_id) == b"inputs 1"
        assert evidence.inputs(session, looks[1]) == b"inputs 1"


def test_a_deposed_scheduler_prunes_nothing(sessions: Sessions, looks: list[int]) -> None:
    with sessions.writing() as session:
        epoch = leases.acquire(session, leases.SCHEDULER, "me", 10.0)
    assert epoch is not None

    with pytest.raises(Deposed):
        prune(sessions, epoch=epoch - 1)

    with sessions.reading() as session:
        assert evidence.inputs(session, looks[0]) == b"inputs 0"


def test_events_that_nobody_is_still_to_be_told_of_go(sessions: Sessions, looks: list[int]) -> None:
    with sessions.reading() as session:
        events = session.scalar(select(func.count()).select_from(OutboxRow)) or 0
        newest = outbox.last_id(session)

    assert prune(sessions)[What.OUTBOX] == events - 1

    with sessions.reading() as session:
        assert session.scalars(select(OutboxRow.outbox_id)).all() == [newest]


def test_answers_to_old_keys_go_and_those_that_still_count_stay(sessions: Sessions) -> None:
    ages = {"old": timedelta(days=100), "lately": timedelta(hours=23)}
    with sessions.writing() as session:
        for key, age in ages.items():
            session.add(
                IdempotencyRow(
                    operator="ann",
                    key=key,
                    request_digest="sha256:" + "0" * 64,
                    status=200,
                    headers={},
                    body="{}",
                    at=MUCH_LATER - age,
                )
            )

    assert prune(sessions, keep=timedelta(days=1))[What.IDEMPOTENCY] == 1

    with sessions.reading() as session:
        assert session.scalars(select(IdempotencyRow.key)).all() == ["lately"]
    assert timedelta(days=1) >= idempotency.KEPT


def heard(sessions: Sessions, runtime_id: str, version: str, at: datetime) -> None:
    beat = runtimes.Heartbeat(
        runtime_id=runtime_id,
        generations={"home_feed": 1},
        loaded=(),
        counts={VersionId(version): ServingCounts(requests=7)},
        shadow_dropped=0,
        splits_mode="push",
    )
    with sessions.writing() as session:
        runtimes.record_heartbeat(session, beat, now=at, seen_at=at)


def test_runtimes_long_gone_are_forgotten_with_their_counts(sessions: Sessions) -> None:
    heard(sessions, "gone", "f" * 16, NOON)
    heard(sessions, "alive", "f" * 16, MUCH_LATER)

    assert prune(sessions)[What.RUNTIMES] == 1

    with sessions.reading() as session:
        assert [runtime.runtime_id for runtime in runtimes.live(session, since=NOON)] == ["alive"]
        assert session.scalars(select(RuntimeCountsRow.runtime_id)).all() == ["alive"]


def test_a_runtime_that_counted_for_a_rollout_on_its_way_stays(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        candidate = rollouts.get(session, scene.a_rollout_in(session, Phase.RAMPING)).candidate
    heard(sessions, "gone", candidate, NOON)

    assert prune(sessions)[What.RUNTIMES] == 0


@pytest.mark.parametrize("keep", [timedelta(0), timedelta(hours=23), timedelta(days=-1)])
def test_what_is_younger_than_a_day_is_never_pruned(sessions: Sessions, keep: timedelta) -> None:
    with pytest.raises(InvalidField, match=r"^older_than: must be at least one day"):
        prune(sessions, keep=keep)


def test_more_than_fits_one_transaction_goes_too(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "ROWS_AT_ONCE", 2)
    for number in range(5):
        heard(sessions, f"gone {number}", "f" * 16, NOON)

    assert prune(sessions)[What.RUNTIMES] == 5

    with sessions.reading() as session:
        assert runtimes.live(session, since=NOON) == []
