from collections.abc import Callable

import pytest
from sqlalchemy import delete, update
from sqlalchemy.orm import Session

from control_plane.domain.rollout import Phase
from control_plane.registry import history
from control_plane.registry.session import Sessions
from control_plane.registry.tables import HistoryRow, SplitRow, SurfaceRow
from tests.builders import HOME_FEED, a_version
from tests.registry import scene


def test_every_change_has_its_row_without_gaps(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        scene.a_rollout_in(session, Phase.SHADOW)

        entries = history.list_history(session, HOME_FEED)

    assert [entry.seq for entry in entries] == [4, 3, 2, 1, 0]
    assert [entry.command for entry in entries] == ["advance", "start", "create", "adopt", "create_surface"]


def test_a_row_tells_the_rollouts_phase_before_and_after(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        scene.a_rollout_in(session, Phase.RAMPING)

        entry = history.list_history(session, limit=1)[0]

    assert '"phase":"shadow"' in entry.before
    assert '"phase":"ramping"' in entry.after
    assert entry.verdict_id is not None


def tampered(session: Session) -> None:
    session.execute(update(HistoryRow).where(HistoryRow.seq == 2).values(reason="nothing to see"))


def shortened(session: Session) -> None:
    session.execute(delete(HistoryRow).where(HistoryRow.seq == 4))


def holed(session: Session) -> None:
    session.execute(delete(HistoryRow).where(HistoryRow.seq == 2))


def beheaded(session: Session) -> None:
    session.execute(delete(HistoryRow).where(HistoryRow.seq == 0))


def moved_by_hand(session: Session) -> None:
    session.execute(update(SurfaceRow).values(stable="f" * 16))


def reweighted(session: Session) -> None:
    session.execute(update(SplitRow).where(SplitRow.generation == 4).values(shadow_sample_bp=1))


def split_lost(session: Session) -> None:
    session.execute(delete(SplitRow).where(SplitRow.generation == 4))


@pytest.mark.parametrize(
    ("tamper", "problem"),
    [
        (tampered, "change 2 was altered"),
        (shortened, "its history ends at 3, it is at generation 4"),
        (holed, "changes between 1 and 3 are missing"),
        (beheaded, "its first change is missing"),
        (moved_by_hand, "it is not what change 4 left"),
        (reweighted, "the split of generation 4 is not what its change made"),
        (split_lost, "the split of generation 4 is missing"),
    ],
)
def test_verify_finds_what_was_changed_behind_the_writers_back(
    sessions: Sessions, tamper: Callable[[Session], None], problem: str
) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        scene.a_serving_surface(session, a_version("a", surface="search"))
        scene.a_rollout_in(session, Phase.SHADOW)
        assert history.verify(session) == []

    with sessions.writing() as session:
        tamper(session)

    with sessions.reading() as session:
        assert f"home_feed: {problem}" in history.verify(session)
