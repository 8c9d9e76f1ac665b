from tests.commands.conftest import Run


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
    assert "recurrence: FREQ must be one of" in refused.stderr
