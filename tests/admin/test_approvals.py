"""What a rollout waits for from people, what waits behind it, and beginning it anew."""

import re

from control_plane.domain.model_version import Surface
from control_plane.domain.rollout import OnBusy, Phase, Rollout
from control_plane.registry import arrivals, rollouts
from tests.admin.site import HOME_FEED, Site
from tests.admin.test_pages import text_of
from tests.builders import a_plan


def test_approvals_are_shown_with_their_group_and_who_gave_them(grouped: Site) -> None:
    ask_for_two_approvals(grouped)
    grouped.ramp()

    before = text_of(grouped.client.get(f"/rollouts/{grouped.rollout_id}"))
    grouped.command("approve", operator="ann", reason="looked at the logs")
    after = text_of(grouped.client.get(f"/rollouts/{grouped.rollout_id}"))

    assert "Approvals 0 of 2 of oncall 2 more needed, of oncall (ann); not ada, who created it" in before
    assert re.search(r"1 of 2 of oncall ann \d\d:\d\d UTC: looked at the logs 1 more needed, of oncall \(ann\)", after)
    assert "1 of 2 approvals of oncall: ann." in text_of(grouped.client.get("/"))


def test_a_step_without_approvals_says_so(site: Site) -> None:
    site.ramp()

    assert "this step asks for none" in site.read(f"/rollouts/{site.rollout_id}")


def test_the_set_and_the_acknowledged_weight_stand_side_by_side(site: Site) -> None:
    site.ramp()

    lagging = text_of(site.client.get(f"/rollouts/{site.rollout_id}")), text_of(site.client.get("/"))
    site.showcase.heartbeat(seen_at=site.showcase.now.replace(year=2100))
    following = text_of(site.client.get(f"/rollouts/{site.rollout_id}")), text_of(site.client.get("/"))

    assert "Candidate, set 5 %" in lagging[0]
    assert "Candidate, acknowledged 0 % 0 of 2 runtimes" in lagging[0]
    assert "set; 0 % acknowledged" in lagging[1]
    assert "Candidate, acknowledged 5 % 2 of 2 runtimes" in following[0]
    assert "set; 5 % acknowledged" in following[1]


def test_a_rollout_s_page_names_what_is_queued_behind_it(site: Site) -> None:
    site.ramp()
    first, second = queue(site, "joint-2026-04-01"), queue(site, "joint-2026-05-01")

    of_active = text_of(site.client.get(f"/rollouts/{site.rollout_id}"))
    of_queued = text_of(site.client.get(f"/rollouts/{first.rollout_id}"))
    of_last = text_of(site.client.get(f"/rollouts/{second.rollout_id}"))

    one, two = f"rollout {first.rollout_id} of {first.candidate[:8]}", f"rollout {second.rollout_id} of"
    assert re.search(rf"Behind it, once the surface is free: {one} ?, queued by grace; then {two}", of_active)
    assert "once the surface is free: rollout " + str(second.rollout_id) in of_queued
    assert "Behind it" not in of_last


def test_restarting_begins_anew_in_the_shadow_under_the_same_plan(site: Site) -> None:
    site.ramp(2)
    plan = site.rollout().plan

    question = site.read(f"/rollouts/{site.rollout_id}/restart?seen_generation={site.state().generation}")
    answer = site.command("restart", reason="the log had a gap", operator="ann")

    assert "The 10 % of users on candidate" in question
    assert answer.headers["location"] == f"/rollouts/{site.rollout_id}"
    assert (site.rollout().phase, site.rollout().plan) == (Phase.SHADOW, plan)
    assert site.state().candidate_bp == 0
    change = site.last_change()
    assert (change.command, change.by, change.reason) == ("restart", "ann", "the log had a gap")


def test_restarting_needs_a_reason_and_the_present_generation(site: Site) -> None:
    site.ramp()
    before = site.state()

    silent = site.command("restart")
    late = site.command("restart", reason="a test", seen_generation=before.generation - 1)

    assert (silent.status_code, late.status_code) == (422, 409)
    assert site.state() == before


def test_what_has_not_begun_or_is_over_offers_no_restart(site: Site) -> None:
    pending = site.read(f"/rollouts/{site.rollout_id}")
    site.ramp()
    ramping = site.read(f"/rollouts/{site.rollout_id}")
    site.command("roll_back")
    over = site.read(f"/rollouts/{site.rollout_id}")

    assert ["command-restart" in page for page in (pending, ramping, over)] == [False, True, False]
    assert site.command("restart", reason="again").status_code == 409


def ask_for_two_approvals(site: Site) -> None:
    steps = [{"share": "1%", "approvals": 2, "approval_group": "oncall"}, {"share": "100%"}]
    with site.showcase.sessions.writing() as session:
        rollouts.restart(
            session,
            site.rollout_id,
            plan=a_plan(steps=steps),
            by="ada",
            reason="two pairs of eyes",
            now=site.showcase.now,
            seen_generation=None,
        )


def queue(site: Site, run: str) -> Rollout:
    version_id = site.showcase.register(HOME_FEED, run)
    with site.showcase.sessions.writing() as session:
        return arrivals.create(
            session, Surface(HOME_FEED), version_id, a_plan(), by="grace", now=site.showcase.now, on_busy=OnBusy.QUEUE
        )
