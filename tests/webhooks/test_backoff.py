import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.webhooks.backoff import LONGEST_RETRY_AFTER, Backoff


def test_waits_double_up_to_an_hour() -> None:
    waits = [Backoff().wait_seconds(attempts, at_random=1.0) for attempts in range(1, 13)]

    assert waits == [5, 10, 20, 40, 80, 160, 320, 640, 1_280, 2_560, 3_600, 3_600]


def test_a_jittered_wait_is_up_to_a_quarter_shorter() -> None:
    assert Backoff().wait_seconds(1, at_random=0.0) == 3.75


def test_after_the_last_attempt_there_is_no_wait() -> None:
    backoff = Backoff(max_attempts=3)

    assert backoff.wait_seconds(2, at_random=0.5) is not None
    assert backoff.wait_seconds(3, at_random=0.5) is None


def test_an_event_is_given_up_after_some_nine_hours() -> None:
    waits = [Backoff().wait_seconds(attempts, at_random=0.5) or 0.0 for attempts in range(1, 20)]

    assert sum(waits) / 3_600 == pytest.approx(9.1, abs=0.1)


@given(attempts=st.integers(1, 10_000), at_random=st.floats(0, 1, exclude_max=True), asked=st.floats(0, 1e9))
def test_a_receiver_that_asks_for_time_gets_a_day_at_most(attempts: int, at_random: float, asked: float) -> None:
    wait = Backoff(max_attempts=20_000).wait_seconds(attempts, at_random=at_random, retry_after_seconds=asked)

    assert wait is not None
    assert min(asked, LONGEST_RETRY_AFTER) <= wait <= max(3_600, LONGEST_RETRY_AFTER)
