import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from control_plane.registry import deliveries, outbox
from control_plane.settings import Settings
from control_plane.webhooks.subscribers import Format, Subscriber
from tests.admin.conftest import site_with
from tests.admin.site import Site
from tests.admin.test_pages import text_of

LAKE = Subscriber(name="lake", url="https://events.example.com/hook/s3cretpath", secrets=(b"0" * 32,))
ONCALL = Subscriber(name="oncall", url="https://hooks.example.com/T0/B0", format=Format.SLACK, events=("surefoot.*",))


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Site]:
    """Two subscribers; the lake was told of nothing, and two of its events were given up."""
    settings = Settings(data_dir=tmp_path, runs_scheduler=False, webhooks=(LAKE, ONCALL))
    for site in site_with(tmp_path, settings):
        with site.showcase.sessions.writing() as session:
            entries = outbox.read(session)
            deliveries.register(session, "lake")
            deliveries.fan_out(session, "lake", entries, fanned_out_to=entries[-1].outbox_id)
            for entry in entries[:2]:
                deliveries.note_failed(
                    session,
                    "lake",
                    entry.outbox_id,
                    error="answered 500",
                    next_attempt_at=None,
                    now=site.showcase.now,
                )
        yield site


def test_subscribers_are_shown_with_what_they_are_still_to_be_told_and_without_secrets(told: Site) -> None:
    page = told.read("/webhooks")

    words = text_of(told.client.get("/webhooks"))
    assert re.search(rf"lake https://events.example.com, cloudevents everything {pending(told)} oldest .*? 2 ", words)
    assert "oncall https://hooks.example.com, slack, unsigned surefoot.* 0 0" in words
    assert "s3cretpath" not in page


def test_dead_letters_are_shown_with_their_last_error(told: Site) -> None:
    page = text_of(told.client.get("/webhooks"))

    assert page.count("after 1 try answered 500") == 2
    assert len(dead(told)) == 2


def test_one_dead_letter_is_sent_once_more_by_its_button(told: Site) -> None:
    first, second = dead(told)
    before = pending(told)

    question = told.read(f"/webhooks/lake/dead/{first}/replay")
    answer = told.press(f"/webhooks/lake/dead/{first}/replay", operator="ann")

    assert f"Send lake event {first} once more?" in question
    assert answer.headers["location"] == "/webhooks"
    assert dead(told) == [second]
    assert pending(told) == before + 1


def test_all_dead_letters_of_a_subscriber_are_sent_once_more_by_one_button(told: Site) -> None:
    question = told.read("/webhooks/lake/replay")

    told.press("/webhooks/lake/replay")

    assert "Send lake all 2 dead events once more?" in question
    assert dead(told) == []
    assert "None: nothing was given up." in told.read("/webhooks")


def test_what_is_not_dead_or_not_subscribed_is_a_readable_page(told: Site) -> None:
    gone = told.press("/webhooks/lake/dead/999/replay")
    stranger = told.press("/webhooks/nobody/replay")

    assert (gone.status_code, stranger.status_code) == (404, 404)
    assert 'href="/webhooks"' in gone.text
    assert len(dead(told)) == 2


def test_a_subscriber_that_left_the_settings_is_shown_and_offers_nothing(told: Site) -> None:
    with told.showcase.sessions.writing() as session:
        deliveries.register(session, "formerly")

    assert "formerly in no settings here" in text_of(told.client.get("/webhooks"))
    assert "/webhooks/formerly/" not in told.read("/webhooks")


def test_a_form_from_elsewhere_replays_nothing(told: Site) -> None:
    answer = told.client.post("/webhooks/lake/replay", headers={"Sec-Fetch-Site": "cross-site"})

    assert answer.status_code == 403
    assert len(dead(told)) == 2


def test_without_subscribers_the_page_says_where_they_are_named(site: Site) -> None:
    page = text_of(site.client.get("/webhooks"))

    assert "Nobody: name subscribers in SUREFOOT_WEBHOOKS" in page


def dead(site: Site) -> list[int]:
    with site.showcase.sessions.reading() as session:
        return [found.outbox_id for found in deliveries.list_dead(session)]


def pending(site: Site) -> int:
    with site.showcase.sessions.reading() as session:
        return next(queue.pending for queue in deliveries.queues(session) if queue.subscriber == "lake")
