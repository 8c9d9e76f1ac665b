import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from control_plane.registry import leases
from control_plane.registry.session import Sessions, make_engine, upgrade
from control_plane.scheduler.lease_keeper import LeaseKeeper

LEASE_SECONDS = 1.5


@pytest.fixture
def sessions(tmp_path: Path) -> Iterator[Sessions]:
    engine = make_engine(f"sqlite:///{tmp_path / 'registry.db'}")
    upgrade(engine)
    yield Sessions(engine)
    engine.dispose()


def acquire(sessions: Sessions, holder: str) -> int | None:
    with sessions.writing() as session:
        return leases.acquire(session, leases.SCHEDULER, holder, LEASE_SECONDS)


def a_keeper(sessions: Sessions, *, stalled_seconds: float = 60.0) -> LeaseKeeper:
    return LeaseKeeper(sessions, leases.SCHEDULER, "one", lease_seconds=LEASE_SECONDS, stalled_seconds=stalled_seconds)


def test_a_tick_longer_than_the_lease_keeps_it(sessions: Sessions) -> None:
    epoch = acquire(sessions, "one")
    assert epoch is not None

    with a_keeper(sessions).keeping(epoch):
        time.sleep(3 * LEASE_SECONDS)

        assert acquire(sessions, "two") is None


def test_after_the_tick_nobody_renews(sessions: Sessions) -> None:
    epoch = acquire(sessions, "one")
    assert epoch is not None
    with a_keeper(sessions).keeping(epoch):
        pass
    time.sleep(1.5 * LEASE_SECONDS)

    assert acquire(sessions, "two") == epoch + 1


def test_a_tick_that_hangs_loses_the_lease_and_one_that_gets_on_does_not(sessions: Sessions) -> None:
    epoch = acquire(sessions, "one")
    assert epoch is not None
    keeper = a_keeper(sessions, stalled_seconds=2 * LEASE_SECONDS)

    with keeper.keeping(epoch):
        for _ in range(6):
            time.sleep(0.5 * LEASE_SECONDS)
            keeper.get_on()
        while_it_got_on = acquire(sessions, "two")
        time.sleep(4 * LEASE_SECONDS)
        once_it_hung = acquire(sessions, "two")

    assert (while_it_got_on, once_it_hung) == (None, epoch + 1)


def test_a_lease_that_another_took_is_never_taken_back(sessions: Sessions) -> None:
    epoch = acquire(sessions, "one")
    assert epoch is not None
    with sessions.writing() as session:
        leases.release(session, leases.SCHEDULER, "one")
    taken = acquire(sessions, "two")

    with a_keeper(sessions).keeping(epoch):
        time.sleep(LEASE_SECONDS)
        with sessions.reading() as session:
            lease = leases.current(session, leases.SCHEDULER)

    assert lease is not None
    assert (lease.holder, lease.epoch) == ("two", taken)
    assert not [thread for thread in threading.enumerate() if thread.name == "lease-keeper"]
