import json

import pytest
from sqlalchemy import text

from control_plane.admin.forms import OPERATOR_COOKIE
from control_plane.domain.model_version import digest_of
from control_plane.domain.rollout import Phase
from control_plane.registry import arrivals, freezes, rollouts
from tests.admin.site import HOME_FEED, Site
from tests.builders import NOON, a_plan


def test_roll_back_button_takes_the_candidate_off_and_returns_to_its_page(site: Site) -> None:
    site.ramp()

    answer = site.command("roll_back", reason="looks wrong", operator="ada")

    assert answer.headers["location"] == f"/rollouts/{site.rollout_id}"
    assert site.state().candidate is None
    change = site.last_change()
    assert (change.command, change.by, change.reason) == ("roll_back", "ada", "looks wrong")


def test_rolling_back_does_not_care_who_moved_meanwhile(site: Site) -> None:
    site.ramp()
    seen = site.state().generation
    site.command("hold")

    answer = site.command("roll_back", seen_generation=seen)

    assert answer.status_code == 303
    assert site.rollout().phase is Phase.ROLLED_BACK


def test_a_surface_s_roll_back_button_ends_its_rollout(site: Site) -> None:
    site.ramp()

    answer = site.press("/surfaces/home_feed/roll_back")

    assert answer.headers["location"] == "/"
    assert site.rollout().phase is Phase.ROLLED_BACK


def test_pressing_a_surface_s_roll_back_button_twice_does_not_go_beyond_stable(site: Site) -> None:
    site.ramp()
    stable, seen = site.state().stable, site.state().generation
    site.press("/surfaces/home_feed/roll_back", seen_generation=seen)

    again = site.press("/surfaces/home_feed/roll_back", seen_generation=seen)

    assert again.status_code == 409
    assert site.state().stable == stable


def test_a_surface_without_a_rollout_goes_to_last_proven(site: Site) -> None:
    site.showcase.open("search")
    before = site.state("search")

    site.press("/surfaces/search/roll_back", seen_generation=before.generation, reason="clicks fell")

    assert site.state("search").stable == before.last_proven


def test_beside_a_candidate_that_answers_nobody_the_button_takes_stable_back_and_says_so(site: Site) -> None:
    site.showcase.open("search")
    before = site.state("search")
    candidate = site.showcase.register("search", "joint-2026-03-02")
    with site.showcase.sessions.writing() as session:
        arrivals.create(session, before.surface, candidate, a_plan(), by="ada", now=NOON)
    seen = site.state("search").generation

    question = site.read(f"/surfaces/search/roll_back?seen_generation={seen}")
    site.press("/surfaces/search/roll_back", seen_generation=seen)
    again = site.press("/surfaces/search/roll_back", seen_generation=seen)

    assert "moves from stable" in question
    assert "its version may be tried again" in question
    assert (site.state("search").stable, site.state("search").rollout_id) == (before.last_proven, None)
    assert again.status_code == 409


def test_a_surface_that_was_rolled_back_offers_no_button_to_go_further(site: Site) -> None:
    site.ramp()
    site.press("/surfaces/home_feed/roll_back")

    page = site.read("/")

    assert "already rolled back" in page
    assert 'action="/surfaces/home_feed/roll_back"' not in page


def test_other_commands_are_refused_on_a_generation_that_is_gone(site: Site) -> None:
    site.ramp()
    before = site.state()

    answer = site.command("hold", seen_generation=before.generation - 1)

    assert answer.status_code == 409
    assert "look again" in answer.text
    assert site.state() == before


def test_skipping_needs_a_reason(site: Site) -> None:
    site.ramp()

    answer = site.command("skip", reason="  ")

    assert answer.status_code == 422
    assert "to skip, give a reason" in answer.text
    assert site.rollout().step == 0


def test_skipping_with_a_reason_goes_on_and_is_kept(site: Site) -> None:
    site.ramp()

    site.command("skip", reason="the log was down, clicks are fine", operator="grace")

    assert site.rollout().step == 1
    change = site.last_change()
    assert (change.command, change.by, change.reason) == ("skip", "grace", "the log was down, clicks are fine")


def test_an_advance_without_a_passing_verdict_leads_to_the_skip(site: Site) -> None:
    site.ramp()

    answer = site.command("advance", reason="the launch is today")

    assert answer.status_code == 409
    assert "skip this step with a reason" in answer.text
    assert site.rollout().step == 0


def test_in_a_freeze_nothing_grows_but_by_who_may_overrule_it_and_rolling_back_works(grouped: Site) -> None:
    grouped.ramp()
    with grouped.showcase.sessions.writing() as session:
        freezes.declare(
            session, None, by="carol", reason="the holidays", now=grouped.showcase.now, bypass_group="oncall"
        )

    refused = grouped.command("skip", reason="the launch is today", operator="grace")
    overruled = grouped.command("skip", reason="a fix", operator="ann")
    grouped.command("roll_back", operator="grace")

    assert refused.status_code == 423
    assert "frozen until it is lifted by carol: the holidays; oncall may overrule" in refused.text
    assert overruled.status_code == 303
    assert grouped.rollout().phase is Phase.ROLLED_BACK


def test_hold_and_resume_keep_the_weight(site: Site) -> None:
    site.ramp()

    site.command("hold")
    held = site.state()
    site.command("resume")

    assert held.candidate_bp == site.state().candidate_bp == 500
    assert site.rollout().phase is Phase.RAMPING


def test_a_command_that_the_phase_forbids_is_a_readable_page(site: Site) -> None:
    answer = site.command("resume")

    assert answer.status_code == 409
    assert answer.headers["content-type"].startswith("text/html")
    assert "pending does not take resume" in answer.text
    assert f'href="/rollouts/{site.rollout_id}"' in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {},
    ],
)
def test_a_form_from_elsewhere_changes_nothing(site: Site, headers: dict[str, str]) -> None:
    site.ramp()
    del site.client.headers["Sec-Fetch-Site"]

    answer = site.client.post(f"/rollouts/{site.rollout_id}/roll_back", headers=headers)

    assert answer.status_code == 403
    assert site.rollout().phase is Phase.RAMPING


def test_a_browser_that_sends_only_the_origin_may_act(site: Site) -> None:
    site.ramp()
    del site.client.headers["Sec-Fetch-Site"]

    answer = site.client.post(
        f"/rollouts/{site.rollout_id}/roll_back", headers={"Origin": "http://testserver"}, follow_redirects=False
    )

    assert answer.status_code == 303


@pytest.mark.parametrize("token", ["", "wrong", "grace"])
def test_without_its_token_nobody_acts_where_tokens_are_set(guarded_site: Site, token: str) -> None:
    answer = guarded_site.command("start", token=token, operator="grace")

    assert answer.status_code == 401
    assert guarded_site.rollout().phase is Phase.PENDING


def test_a_token_signs_with_its_owner_s_name(guarded_site: Site) -> None:
    guarded_site.command("start", token="s3cret", operator="somebody else")

    assert guarded_site.last_change().by == "grace"
    assert guarded_site.client.cookies[OPERATOR_COOKIE] == "grace"


def test_a_name_is_remembered_for_the_next_form(site: Site) -> None:
    site.command("start", operator="ada")

    form = site.read(f"/rollouts/{site.rollout_id}/roll_back?seen_generation=4")

    assert 'value="ada"' in form


@pytest.mark.parametrize("name", ["<script>", "-", "x" * 101])
def test_a_name_that_is_none_is_refused(site: Site, name: str) -> None:
    answer = site.command("start", operator=name)

    assert answer.status_code == 422
    assert site.rollout().phase is Phase.PENDING


def test_quarantining_a_part_takes_its_version_off_and_releasing_lifts_it(site: Site) -> None:
    site.ramp()
    candidate = site.state().candidate
    assert candidate is not None
    trunk = site.read(f"/versions/{candidate}").split('name="digest" value="')[1].split('"')[0]

    site.press("/quarantine", digest=trunk, reason="exploding scores")
    quarantined = site.read("/")
    site.press("/quarantine/release", digest=trunk, reason="it was the feature store")

    assert site.state().candidate is None
    assert "exploding scores" in quarantined
    with site.showcase.sessions.reading() as session:
        assert rollouts.list_quarantined(session) == []


def test_quarantining_needs_a_reason(site: Site) -> None:
    answer = site.press("/quarantine", digest="sha256:" + "0" * 64)

    assert answer.status_code == 422


def test_a_form_that_is_no_form_is_refused(site: Site) -> None:
    answer = site.client.post(f"/rollouts/{site.rollout_id}/start", content=b"\xff\xfe=1")

    assert answer.status_code == 422
    assert site.rollout().phase is Phase.PENDING


@pytest.mark.parametrize(
    "command", ["start", "skip", "advance", "hold", "resume", "approve", "roll_back", "abort", "expire"]
)
def test_every_command_asks_before_it_is_carried_out(site: Site, command: str) -> None:
    before = site.state()

    question = site.read(f"/rollouts/{site.rollout_id}/{command}?seen_generation={before.generation}")

    assert 'method="post"' in question
    assert f'name="seen_generation" value="{before.generation}"' in question
    assert site.state() == before


def test_the_question_says_who_is_moved_where(site: Site) -> None:
    site.ramp()
    state = site.state()
    assert state.stable is not None

    question = site.read(f"/surfaces/{HOME_FEED}/roll_back?seen_generation={state.generation}")

    assert "The 5 % of users" in question
    assert state.stable[:8] in question


def test_every_form_carries_a_key_of_its_own(site: Site) -> None:
    forms = ("/freezes/declare", f"/rollouts/{site.rollout_id}/start?seen_generation=3", "/freezes/declare")

    keys = [key_of(site.read(path)) for path in forms]

    assert len(set(keys)) == 3


def test_a_form_that_is_sent_twice_is_carried_out_once_and_answered_alike(site: Site) -> None:
    site.ramp()
    key, seen = key_of(site.read("/freezes/declare")), site.state().generation

    once, twice = (site.command("skip", key=key, reason="a fix", seen_generation=seen) for _ in range(2))

    assert once.status_code == twice.status_code == 303
    assert once.headers["location"] == twice.headers["location"]
    assert "Idempotency-Replayed" in twice.headers
    assert site.rollout().step == 1


def test_a_form_that_was_sent_and_comes_again_with_other_words_is_refused(site: Site) -> None:
    key = key_of(site.read("/freezes/declare"))
    site.press("/freezes/declare", key=key, reason="a fire")

    changed = site.press("/freezes/declare", key=key, reason="a flood")

    assert changed.status_code == 422
    assert "carried out as it was then. To do something else, open it anew." in changed.text
    with site.showcase.sessions.reading() as session:
        assert [freeze.reason for freeze in freezes.list_freezes(session, now=site.showcase.now)] == ["a fire"]


def test_a_form_that_was_refused_may_be_sent_again_under_its_key(site: Site) -> None:
    key = key_of(site.read("/freezes/declare"))

    refused = site.press("/freezes/declare", key=key, reason="a fire", duration="soon")
    mended = site.press("/freezes/declare", key=key, reason="a fire", duration="1h")

    assert (refused.status_code, mended.status_code) == (422, 303)


def test_a_key_that_no_page_wrote_is_refused(site: Site) -> None:
    assert site.command("start", key="x" * 300).status_code == 422
    assert site.rollout().phase is Phase.PENDING


def test_a_token_is_in_nothing_that_is_kept_of_a_form(guarded_site: Site) -> None:
    guarded_site.command("start", key="0" * 32, token="s3cret")

    with guarded_site.showcase.sessions.engine.connect() as connection:
        kept = connection.execute(text("SELECT * FROM idempotency")).one()

    body = {"reason": "", "seen_generation": str(guarded_site.state().generation - 1)}
    content = json.dumps({name: value for name, value in body.items() if value}, sort_keys=True)
    assert kept.request_digest == digest_of(f"/rollouts/{guarded_site.rollout_id}/start\n{content}".encode())
    assert "s3cret" not in str(kept)


def key_of(page: str) -> str:
    return page.split('name="key" value="')[1].split('"')[0]
