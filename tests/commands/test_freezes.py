from datetime import UTC, datetime, timedelta

import pytest

from tests.commands.conftest import Run
from tests.stories.world import World


def test_the_line_is_stopped_shown_and_let_go(surefoot: Run) -> None:
    frozen = surefoot("freeze", "add", "home_feed", "--reason", "holidays", "--owner", "release team")
    shown = surefoot("freeze", "list")
    lifted = surefoot("unfreeze", 1, "--reason", "back at work")
    after = surefoot("freeze", "list")
    every = surefoot("freeze", "list", "--all")

    assert [result.exit_code for result in (frozen, shown, lifted, after, every)] == [0] * 5, frozen.output
    standing = "freeze 1 of home_feed, stands until it is lifted, by release team: holidays\n"
    assert frozen.output == shown.output == standing
    assert lifted.output == every.output
    assert "lifted by ann (back at work)" in lifted.output
    assert after.output == "nothing is frozen\n"


def test_a_calendar_says_when_it_begins(surefoot: Run) -> None:
    weekends = ("--every", "FREQ=WEEKLY;BYDAY=FR", "--from", "2030-03-08T17:00", "--for", "64h")

    frozen = surefoot("freeze", "add", "--reason", "weekend", *weekends, "--zone", "America/New_York")

    assert frozen.output == "freeze 1 of all surfaces, begins on 2030-03-08 22:00 UTC, by ann: weekend\n"


def test_a_freeze_for_a_while_says_until_when(surefoot: Run) -> None:
    frozen = surefoot("freeze", "add", "--reason", "launch", "--until", "2031-01-01T09:00", "--zone", "Europe/Berlin")

    assert "freeze 1 of all surfaces, stands until 2031-01-01 08:00 UTC" in frozen.output


def test_a_wrong_calendar_is_named_by_its_field(surefoot: Run) -> None:
    refused = surefoot(
        "freeze", "add", "--reason", "launch", "--every", "FREQ=SOMETIMES", "--from", "2030-03-08", "--for", "1h"
    )

    assert refused.exit_code == 1
    assert "--every: FREQ must be one of" in refused.stderr


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        (["--from", "yesterday"], "--from: must be a moment like 2026-12-18T17:00 (read in --zone, else UTC), "),
        (["--until", "in a while"], "2026-12-18T17:00+01:00 or 'in 2h', not 'in a while'"),
        (["--until", "2001-01-01"], "--until: must come after the freeze begins"),
        (["--for", "soon"], "--for: "),
        (["--bypass", "nobodies"], "--bypass: "),
        (["--zone", "Mars/Base"], "--zone: must be"),
    ],
)
def test_a_wrong_option_is_named_as_it_was_typed(surefoot: Run, options: list[str], refusal: str) -> None:
    refused = surefoot("freeze", "add", "--reason", "launch", *options)

    assert refused.exit_code in (1, 2)
    assert refusal in refused.stderr


def test_a_freeze_may_begin_in_a_while_from_now(surefoot: Run, world: World) -> None:
    world.now = datetime.now(UTC)

    frozen = surefoot("freeze", "add", "--reason", "launch", "--from", "in 2h", "--for", "1h")

    begins = datetime.now(UTC) + timedelta(hours=2)
    assert f"begins on {begins:%Y-%m-%d %H:}" in frozen.output


def test_what_a_freeze_stops_is_told_with_the_command_that_lifts_it(surefoot: Run, world: World) -> None:
    rollout_id = world.roll_out("home_feed", world.candidate("home_feed"))
    surefoot("freeze", "add", "--reason", "holidays")

    refused = surefoot("rollout", "start", rollout_id, "--reason", "now")
    lifted = surefoot("unfreeze", 1, "--reason", "back")
    started = surefoot("rollout", "start", rollout_id)

    assert "`surefoot unfreeze 1 --reason …` lifts it, which anyone may" in refused.stderr
    assert lifted.exit_code == started.exit_code == 0
