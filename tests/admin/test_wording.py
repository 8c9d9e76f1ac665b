from datetime import UTC, datetime, timedelta

import pytest

from control_plane.admin import wording
from control_plane.domain.rollout import Command, Phase
from control_plane.domain.verdict import Answer, Blame, Outcome, Rule
from tests.builders import NOON, a_rollout


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3_599, "59 min"),
        (3_600, "1 h"),
        (5_400, "1 h 30 min"),
        (86_400, "1 d"),
        (100_000, "1 d 3 h"),
        (-5, "0 s"),
    ],
)
def test_durations_are_as_long_as_a_glance(seconds: float, words: str) -> None:
    assert wording.duration(seconds) == words


def test_a_wait_ends_at_a_clock_time_and_after_a_while() -> None:
    assert wording.about_until(NOON + timedelta(minutes=38), NOON) == "about until 12:38 UTC, in 38 min"
    assert wording.about_until(NOON + timedelta(days=2), NOON) == "about until 5 Mar 12:00 UTC, in 2 d"
    assert wording.about_until(NOON - timedelta(minutes=1), NOON).endswith("any moment now")
    assert wording.about_until(None, NOON) == ""


def test_another_year_is_not_mistaken_for_this_one() -> None:
    assert wording.moment(datetime(2025, 3, 3, 12, tzinfo=UTC), NOON) == "3 Mar 2025 12:00 UTC"


def test_a_phase_says_its_share_while_users_see_the_candidate() -> None:
    assert wording.phase_chip(a_rollout(Phase.RAMPING, step=1)).words == "ramping at 25 %"
    assert wording.phase_chip(a_rollout(Phase.HELD, step=1, paused_phase=Phase.RAMPING)).words == "held at 25 %"
    assert wording.phase_chip(a_rollout(Phase.ROLLED_BACK)).words == "rolled back"


def test_everything_that_can_be_said_has_words() -> None:
    assert set(wording.PHASE_TONES) == set(Phase)
    assert set(wording.ANSWER_TONES) == set(wording.ANSWER_WORDS) == set(Answer)
    assert set(wording.OUTCOME_CHIPS) == set(Outcome)
    assert set(wording.RULE_WORDS) == set(Rule)
    assert set(wording.BLAME_WORDS) == set(Blame)
    assert set(wording.COMMAND_WORDS) == set(wording.COMMAND_ICONS) == set(Command)


def test_a_rollout_on_hold_does_not_look_like_a_judge_who_says_hold() -> None:
    held = wording.phase_chip(a_rollout(Phase.HELD, paused_phase=Phase.RAMPING))

    assert wording.OUTCOME_CHIPS[Outcome.HOLD].icon not in {
        held.icon,
        *(tone.icon for tone in wording.PHASE_TONES.values()),
    }


def test_a_withdrawn_rollout_does_not_look_like_a_harmful_one() -> None:
    chip = wording.phase_chip(a_rollout(Phase.ROLLED_BACK), is_withdrawn=True)

    assert (chip.words, chip.colour) == ("withdrawn", "neutral")
