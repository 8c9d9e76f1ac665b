import json
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, replace
from hashlib import sha256

import pytest
from sqlalchemy import delete, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from control_plane.domain.rollout import Phase
from control_plane.registry import chain, history
from control_plane.registry.session import Sessions
from control_plane.registry.tables import HistoryRow, SplitRow, SurfaceRow, VerdictRow
from tests.builders import HOME_FEED, NOON, a_version
from tests.registry import long_history, scene
from tests.registry.conftest import ON_POSTGRESQL
from tests.registry.tampering import tampering

HASHED_IN_REVISION_1 = [
    *("surface", "seq", "at", "by", "command", "reason", "before", "after"),
    *("rollout_id", "verdict_id", "code_version"),
]


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


def test_a_change_made_on_a_verdict_carries_the_verdicts_digest_in_its_hash(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        scene.a_rollout_in(session, Phase.RAMPING)

        entry = history.list_history(session, limit=1)[0]
        verdict = session.scalars(select(VerdictRow).where(VerdictRow.verdict_id == entry.verdict_id)).one()
        digest = chain.evidence_digest(verdict.verdict, verdict.inputs_digest)

    assert entry.evidence_digest == digest
    assert chain.hash_of(entry) == entry.hash
    assert chain.hash_of(replace(entry, evidence_digest=None)) != entry.hash


def test_a_change_without_a_verdict_is_hashed_as_it_was_before_evidence_was_kept(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        entry = history.list_history(session, limit=1)[0]

    told = asdict(entry) | {"at": entry.at.isoformat(timespec="microseconds")}
    content = {name: told[name] for name in HASHED_IN_REVISION_1}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert entry.evidence_digest is None
    assert entry.hash == "sha256:" + sha256(f"{entry.previous_hash}\n{text}".encode()).hexdigest()


@pytest.mark.parametrize("table", ["history", "verdict", "verdict_inputs"])
@pytest.mark.parametrize("statement", ["DELETE FROM {}", "UPDATE {} SET {} = {}"])
def test_the_database_refuses_to_rewrite_what_was_written(sessions: Sessions, table: str, statement: str) -> None:
    column = {"history": "seq", "verdict": "generation", "verdict_inputs": "digest"}[table]
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        scene.a_rollout_in(session, Phase.RAMPING)

    with pytest.raises(IntegrityError, match=f"{table} is append-only"), sessions.writing() as session:
        session.execute(text(statement.format(table, column, column)))


@ON_POSTGRESQL  # SQLite has no TRUNCATE
def test_postgresql_refuses_to_empty_the_history_at_once(sessions: Sessions) -> None:
    with pytest.raises(IntegrityError, match="append-only"), sessions.writing() as session:
        session.execute(text("TRUNCATE history"))


def tampered(session: Session) -> None:
    session.execute(update(HistoryRow).where(HistoryRow.seq == 2).values(reason="nothing to see"))


def shortened(session: Session) -> None:
    session.execute(delete(HistoryRow).where(HistoryRow.seq == 5))


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


def split_slipped_in(session: Session) -> None:
    session.add(
        SplitRow(
            surface=HOME_FEED,
            generation=9,
            at=NOON,
            stable="f" * 16,
            candidate_bp=0,
            shadow_sample_bp=0,
            salt="",
        )
    )


def verdict_altered(session: Session) -> None:
    session.execute(update(VerdictRow).values(verdict="{}"))


def verdict_lost(session: Session) -> None:
    session.execute(delete(VerdictRow))


def evidence_swapped(session: Session) -> None:
    session.execute(update(HistoryRow).where(HistoryRow.seq == 5).values(evidence_digest="sha256:" + "0" * 64))


@pytest.mark.parametrize(
    ("tamper", "problem"),
    [
        (tampered, "change 2 was altered"),
        (shortened, "its history ends at 4, it is at generation 5"),
        (holed, "changes between 1 and 3 are missing"),
        (beheaded, "its first change is missing"),
        (moved_by_hand, "it is not what change 5 left"),
        (reweighted, "the split of generation 4 is not what its change made"),
        (split_lost, "the split of generation 4 is missing"),
        (split_slipped_in, "the split of generation 9 has no change"),
        (verdict_altered, "verdict 1, on which change 4 was made, was altered"),
        (verdict_lost, "verdict 1, on which change 4 was made, is missing"),
        (evidence_swapped, "change 5 was altered"),
    ],
)
def test_verify_finds_what_was_changed_behind_the_writers_back(
    sessions: Sessions, tamper: Callable[[Session], None], problem: str
) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        scene.a_serving_surface(session, a_version("a", surface="search"))
        scene.a_rollout_in(session, Phase.RAMPING)
        assert history.verify(session) == []

    with tampering(sessions) as session:
        tamper(session)

    with sessions.reading() as session:
        assert f"home_feed: {problem}" in history.verify(session)


def test_verify_holds_no_more_of_a_long_history_in_memory_than_of_a_short_one(sessions: Sessions) -> None:
    """Six times the rows would take six times the memory if they were kept."""

    def peak_bytes(rows: int) -> int:
        with tampering(sessions) as session:
            long_history.write(session, HOME_FEED, rows)
        with sessions.reading() as session:
            tracemalloc.start()
            assert history.verify(session) == []
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return peak

    with sessions.writing() as session:
        scene.a_serving_surface(session)
    peak_bytes(100)  # what is loaded once

    assert peak_bytes(5_000) < 1.5 * peak_bytes(1_000)
