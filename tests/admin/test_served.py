from datetime import timedelta

import pytest

from tests.admin.site import Site
from tests.admin.test_pages import text_of


def test_the_history_page_asks_what_served_and_a_page_answers(site: Site) -> None:
    site.ramp()
    candidate, at = site.state().candidate, site.showcase.now
    site.showcase.now += timedelta(hours=1)
    site.command("roll_back", reason="clicks fell", operator="ann")
    site.showcase.now += timedelta(hours=1)

    form = site.read("/history")
    then = text_of(site.client.get(f"/history/served?surface=home_feed&at={at + timedelta(minutes=5):%H:%M}"))
    now = text_of(site.client.get(f"/history/served?surface=home_feed&at={site.showcase.now:%H:%M}"))

    assert 'action="/history/served"' in form
    assert candidate is not None
    assert f"Candidate 5 % {candidate[:8]}" in then
    assert f"From {at:%Y-%m-%d %H:%M:%S} UTC until" in then
    assert "set by anonymous with skip : a test." in then
    assert "it serves still: set by ann with roll back : clicks fell." in now
    assert "Candidate none" in now


def test_a_time_is_read_in_the_zone_that_is_asked_for(site: Site) -> None:
    site.showcase.now = site.showcase.now.replace(month=7, hour=12, minute=30)

    page = text_of(site.client.get("/history/served?surface=home_feed&at=14:05&zone=Europe/Berlin"))

    assert "Home feed at 2026-07-02 12:05:00 UTC" in page


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("surface=home_feed&at=yesterday", "must be a moment like"),
        ("surface=home_feed&at=2199-01-01 10:00", "lies in the future"),
        ("surface=home_feed&at=2020-01-01 10:00", "served nothing yet"),
        ("surface=home_feed&at=14:05&zone=Mars", "must be a time zone"),
        ("surface=nowhere&at=2026-01-01 10:00", "nowhere"),
        ("surface=home_feed", "at"),
    ],
)
def test_what_cannot_be_answered_is_told_and_leads_back_to_the_form(site: Site, query: str, words: str) -> None:
    answer = site.client.get(f"/history/served?{query}")

    assert answer.status_code in (404, 422)
    assert words in answer.text
    assert 'href="/history"' in answer.text


def test_a_moment_may_be_written_by_anyone_and_is_never_run(site: Site) -> None:
    answer = site.client.get("/history/served?surface=home_feed&at=<script>alert(1)</script>")

    assert answer.status_code == 422
    assert "<script>alert" not in answer.text
