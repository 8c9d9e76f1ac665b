from datetime import UTC, datetime, timedelta

import httpx
import pytest
from sqlalchemy import text

from control_plane.admin.freezes import repeats_words
from control_plane.domain.freeze import Calendar, Freeze
from control_plane.registry import freezes
from tests.admin.site import Site
from tests.admin.test_pages import text_of

EVERYWHERE = ("/", "/rollouts", "/rollouts/1", "/versions", "/history", "/freezes", "/freezes/declare", "/rollouts/999")


def test_stopping_the_line_stops_what_grows_on_every_surface_until_it_is_lifted(site: Site) -> None:
    site.ramp()

    declared = stop(site, reason="the checkout is on fire", operator="ann")
    refused = site.command("skip", reason="the launch is today")
    site.press("/freezes/1/lift", reason="it was the monitor", operator="ann")
    let_go = site.command("skip", reason="the launch is today")

    assert (declared.status_code, declared.headers["location"]) == (303, "/freezes")
    assert refused.status_code == 423
    assert "all surfaces" in site.read("/freezes/1/lift")
    assert let_go.status_code == 303
    assert (the_freeze(site).surface, the_freeze(site).lift_reason) == (None, "it was the monitor")


def test_every_page_says_at_its_top_who_stopped_the_line_why_and_until_when_and_offers_to_lift_it(site: Site) -> None:
    stop(site, reason="the holidays.", operator="carol", duration="4h")
    until = site.showcase.now + timedelta(hours=4)

    for path in EVERYWHERE:
        page = site.client.get(path)
        words = text_of(page) if page.status_code == 200 else page.text
        assert words.count("All surfaces are frozen by carol: the holidays.") == 1, path
        assert f"until {until:%H:%M} UTC, in 4 h. Nothing grows meanwhile" in words, path
        assert 'action="/freezes/1/lift"' in page.text


def test_a_freeze_that_does_not_stand_yet_or_any_more_is_not_at_the_top(site: Site) -> None:
    stop(site, reason="a short one", duration="1h")
    stop(site, reason="tomorrow", starts_at=f"{site.showcase.now + timedelta(days=1):%Y-%m-%dT%H:%M}")
    site.showcase.now += timedelta(hours=1)

    page = text_of(site.client.get("/"))

    assert "frozen by" not in page


def test_stopping_the_line_needs_a_reason(site: Site) -> None:
    answer = stop(site, reason=" ")

    assert answer.status_code == 422
    assert "say why nothing may grow" in answer.text
    assert all_freezes(site) == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"duration": "soon"}, "duration"),
        ({"starts_at": "yesterday"}, "starts_at"),
        ({"repeat": "FREQ=DAILY"}, "starts_at: must say from when on"),
        ({"repeat": "FREQ=DAILY", "starts_at": "2026-03-03T09:00"}, "duration: must say how long"),
        ({"recurrence": "every day", "starts_at": "2026-03-03T09:00", "duration": "1h"}, "recurrence"),
        ({"time_zone": "Mars/Base"}, "must be an IANA time zone"),
        ({"bypass_group": "nobodies"}, "no group"),
        ({"surface": "nowhere"}, "nowhere"),
    ],
)
def test_a_freeze_that_cannot_be_is_refused_in_words(site: Site, fields: dict[str, str], words: str) -> None:
    answer = stop(site, reason="a test", **fields)

    assert answer.status_code in (404, 422)
    assert words in answer.text
    assert 'href="/freezes"' in answer.text
    assert all_freezes(site) == []


def test_one_surface_alone_can_be_frozen(site: Site) -> None:
    site.showcase.open("search")

    stop(site, surface="search", reason="an index is rebuilt", operator="ann")

    assert "Search is frozen by ann: an index is rebuilt." in site.read("/")
    assert site.command("start").status_code == 303


def test_the_freezes_page_lists_each_time_that_comes_in_the_next_fourteen_days(site: Site) -> None:
    site.showcase.now = datetime(2026, 3, 4, 12, tzinfo=UTC)  # a Wednesday
    stop(
        site,
        reason="weekends",
        starts_at="2026-03-06T17:00",
        duration="64h",
        repeat="FREQ=WEEKLY",
        time_zone="Europe/Berlin",
    )
    stop(site, reason="in a month", starts_at="2026-04-06T17:00", duration="1h")

    page = text_of(site.client.get("/freezes"))

    coming, later = page.split("In the next 14 days")[1].split("Later Where")
    assert coming.count("every week, 2 d 16 h each, Europe/Berlin") == 2
    assert "6 Mar 16:00 UTC" in coming
    assert "9 Mar 08:00 UTC" in coming
    assert "13 Mar 16:00 UTC" in coming
    assert "in a month" in later
    assert "None: rollouts may grow." in page


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("FREQ=DAILY", "every day"),
        ("FREQ=WEEKLY;BYDAY=FR,SA", "every Friday, Saturday"),
        ("rrule:freq=weekly;byday=fr", "every Friday"),
        ("FREQ=MONTHLY;BYDAY=-1FR", "FREQ=MONTHLY;BYDAY=-1FR"),
    ],
)
def test_a_calendar_is_told_in_words_where_there_are_short_ones(rule: str, words: str) -> None:
    calendar = Calendar(recurrence=rule, duration_seconds=64 * 3_600.0, time_zone="Europe/Berlin")

    assert repeats_words(calendar) == f"{words}, 2 d 16 h each, Europe/Berlin"


def test_the_freezes_page_keeps_who_lifted_what_and_why(site: Site) -> None:
    stop(site, reason="a fire", operator="ann")
    site.press("/freezes/1/lift", reason="put out", operator="bob")
    stop(site, reason="a drill", duration="30m")
    site.showcase.now += timedelta(hours=1)

    over = text_of(site.client.get("/freezes")).split(" Over ")[1]

    assert "lifted by bob: put out" in over
    assert "ended by itself" in over


def test_only_who_may_overrule_a_freeze_lifts_it_and_a_reason_is_needed(grouped: Site) -> None:
    assert "oncall" in grouped.read("/freezes/declare")
    stop(grouped, reason="the holidays", operator="carol", bypass_group="oncall")

    stranger = grouped.press("/freezes/1/lift", reason="I want to ship", operator="grace")
    silent = grouped.press("/freezes/1/lift", operator="ann")
    stands = the_freeze(grouped).lifted_at is None
    member = grouped.press("/freezes/1/lift", reason="carol said so", operator="ann")

    assert (stranger.status_code, silent.status_code, member.status_code) == (403, 422, 303)
    assert stands
    assert "Only carol and members of oncall may." in grouped.read("/freezes/1/lift")


def test_rolling_back_by_the_button_works_while_the_line_is_stopped(site: Site) -> None:
    site.ramp()
    stop(site, reason="a fire")

    site.command("roll_back", reason="clicks fell")

    assert site.state().candidate is None


def test_a_page_about_a_failure_is_shown_even_where_freezes_cannot_be_read(site: Site) -> None:
    with site.showcase.sessions.engine.begin() as connection:
        connection.execute(text("DROP TABLE freeze_window"))

    overview, wrong = site.client.get("/"), site.client.get("/rollouts/x/hold")

    assert (overview.status_code, wrong.status_code) == (503, 422)
    assert all(answer.headers["content-type"].startswith("text/html") for answer in (overview, wrong))
    assert "Stop the line" in wrong.text


def test_a_form_from_elsewhere_stops_nothing(site: Site) -> None:
    answer = site.client.post("/freezes/declare", data={"reason": "a prank"}, headers={"Sec-Fetch-Site": "cross-site"})

    assert answer.status_code == 403
    assert all_freezes(site) == []


def stop(site: Site, **fields: str) -> httpx.Response:
    return site.press("/freezes/declare", **fields)


def all_freezes(site: Site) -> list[Freeze]:
    with site.showcase.sessions.reading() as session:
        return freezes.list_freezes(session, now=site.showcase.now)


def the_freeze(site: Site) -> Freeze:
    return all_freezes(site)[0]
