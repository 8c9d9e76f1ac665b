import pytest

from control_plane.domain.errors import Deposed
from control_plane.registry import leases
from control_plane.registry.session import Sessions
from tests.builders import NOON

LEASE = "scheduler"


def test_a_holder_renews_and_keeps_its_epoch(sessions: Sessions) -> None:
    with sessions.writing() as session:
        first = leases.acquire(session, LEASE, "one", 60)
        second = leases.acquire(session, LEASE, "one", 120)
        lease = leases.current(session, LEASE)

    assert (first, second) == (1, 1)
    assert lease is not None
    assert 110 < lease.seconds_left <= 120


def test_others_wait_while_it_is_held(sessions: Sessions) -> None:
    with sessions.writing() as session:
        leases.acquire(session, LEASE, "one", 60)

        assert leases.acquire(session, LEASE, "two", 60) is None


def test_one_that_ran_out_is_taken_over_under_the_next_epoch(sessions: Sessions) -> None:
    with sessions.writing() as session:
        leases.acquire(session, LEASE, "one", 0)

        assert leases.acquire(session, LEASE, "two", 60) == 2
        assert leases.acquire(session, LEASE, "one", 60) is None
        with pytest.raises(Deposed, match="epoch 1, the lease is at 2"):
            leases.check(session, LEASE, 1)


def test_one_that_ran_out_and_nobody_took_still_fences(sessions: Sessions) -> None:
    with sessions.writing() as session:
        leases.acquire(session, LEASE, "one", 0)

        leases.check(session, LEASE, 1)


def test_letting_go_lets_the_next_one_in_at_once(sessions: Sessions) -> None:
    with sessions.writing() as session:
        leases.acquire(session, LEASE, "one", 60)

        leases.release(session, LEASE, "a stranger")
        assert leases.acquire(session, LEASE, "two", 60) is None
        leases.release(session, LEASE, "one")
        assert leases.acquire(session, LEASE, "two", 60) == 2


def test_without_a_lease_every_epoch_is_stale(sessions: Sessions) -> None:
    with sessions.writing() as session:
        assert leases.current(session, LEASE) is None
        with pytest.raises(Deposed):
            leases.check(session, LEASE, 1)


def test_the_last_tick_is_the_holders_own(sessions: Sessions) -> None:
    with sessions.writing() as session:
        leases.acquire(session, LEASE, "one", 60)
        leases.note_tick(session, LEASE, 7, NOON)
        before = leases.current(session, LEASE)
        leases.note_tick(session, LEASE, 1, NOON)
        after = leases.current(session, LEASE)

    assert before is not None
    assert after is not None
    assert (before.last_tick_at, after.last_tick_at) == (None, NOON)
