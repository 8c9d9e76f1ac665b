from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from control_plane.domain.errors import InvalidPlan, NoSafeVersion, SurfaceBusy, UnknownName
from control_plane.domain.model_version import Part, Surface, digest_of
from control_plane.domain.rollout import Command, Phase, RolloutId
from control_plane.domain.surface_graph import Edge, OnUpstreamRollback, blocked_by
from control_plane.domain.verdict import Answer, Finding, Outcome, Rule
from control_plane.registry import arrivals, evidence, history, release_rows, releases, rollouts, surfaces
from control_plane.registry.session import Sessions
from control_plane.registry.tables import ReleaseRow
from tests.builders import HOME_FEED, NOON, a_plan, a_verdict, a_version
from tests.registry import scene
from tests.registry.scene import LATER, RELATED_PINS, SEARCH, SURFACES
from tests.registry.test_races import outcomes

HOLD, CASCADE, IGNORE = OnUpstreamRollback
EDGE = Edge(upstream=HOME_FEED, downstream=SEARCH, share_bp=100, held_seconds=3_600.0)
BELOW = replace(EDGE, upstream=SEARCH, downstream=RELATED_PINS)


def a_release(session: Session) -> int:
    candidates = {}
    for surface in (HOME_FEED, SEARCH):
        scene.a_serving_surface(session, a_version("a", surface=surface))
        candidates[surface] = scene.registered(session, a_version("b", surface=surface))
    return arrivals.create_release(session, candidates, a_plan(), [EDGE], by="ada", now=NOON)


def rollout_on(session: Session, surface: str) -> RolloutId:
    return next(rollout.rollout_id for rollout in rollouts.list_rollouts(session) if rollout.surface == surface)


def test_a_release_makes_one_pending_rollout_a_surface(sessions: Sessions) -> None:
    with sessions.writing() as session:
        release_id = a_release(session)

        made = rollouts.list_rollouts(session, release_id=release_id)

        assert {rollout.surface for rollout in made} == {HOME_FEED, SEARCH}
        assert {(rollout.phase, rollout.release_id) for rollout in made} == {(Phase.PENDING, release_id)}
        assert releases.edges(session, release_id) == (EDGE,)


def test_a_release_is_made_whole_or_not_at_all(sessions: Sessions) -> None:
    with sessions.writing() as session:
        for surface in (HOME_FEED, SEARCH):
            scene.a_serving_surface(session, a_version("a", surface=surface))
            scene.registered(session, a_version("b", surface=surface))
        busy = scene.a_pending_rollout(session, a_version("c", surface=SEARCH))
    candidates = {surface: a_version("b", surface=surface).version_id for surface in (HOME_FEED, SEARCH)}

    with pytest.raises(SurfaceBusy), sessions.writing() as session:
        arrivals.create_release(session, candidates, a_plan(), [], by="ada", now=NOON)

    with sessions.reading() as session:
        assert [rollout.rollout_id for rollout in rollouts.list_rollouts(session)] == [busy]


def test_edges_that_lead_out_of_the_release_are_refused(sessions: Sessions) -> None:
    with sessions.writing() as session, pytest.raises(InvalidPlan, match=r"edges\[0\].upstream"):
        arrivals.create_release(session, {}, a_plan(), [EDGE], by="ada", now=NOON)


def test_search_waits_until_home_feed_held_its_share_with_green_guardrails(sessions: Sessions) -> None:
    with sessions.writing() as session:
        release_id = a_release(session)

        def blocker() -> str | None:
            progress = releases.progress(session, release_id)
            return blocked_by(SEARCH, releases.edges(session, release_id), progress, now=LATER)

        home_feed = rollout_on(session, HOME_FEED)
        assert blocker() == "home_feed to reach 1 %"
        scene.walk(session, home_feed, until=Phase.RAMPING)
        assert blocker() is None
        harm = Finding(metric="ctr", segment="*", answer=Answer.HARM, gates=True)
        evidence.record_verdict(session, home_feed, a_verdict(findings=(harm,)), b"", now=LATER, next_check_at=LATER)
        assert blocker() == "home_feed's guardrails to be green"
        scene.commanded(session, home_feed, Command.ROLL_BACK)
        assert blocker() == "a person: home_feed was rolled back"


def test_a_share_counts_from_when_it_was_reached_over_holds_and_done(sessions: Sessions) -> None:
    with sessions.writing() as session:
        release_id = a_release(session)
        home_feed = rollout_on(session, HOME_FEED)
        scene.walk(session, home_feed, until=Phase.WATCHING)
        scene.commanded(session, home_feed, Command.HOLD, now=LATER)
        scene.commanded(session, home_feed, Command.RESUME, now=LATER)
        scene.walk(session, home_feed, until=Phase.DONE)

        progress = releases.progress(session, release_id)[HOME_FEED]

    assert (progress.candidate_bp, progress.share_since(10_000), progress.is_green) == (10_000, NOON, True)


def test_without_a_verdict_nothing_is_green(sessions: Sessions) -> None:
    with sessions.writing() as session:
        release_id = a_release(session)

        assert not releases.progress(session, release_id)[SEARCH].is_green
        scene.a_stored_verdict(session, rollout_on(session, SEARCH), Outcome.HOLD)
        assert releases.progress(session, release_id)[SEARCH].is_green


@pytest.mark.parametrize("rule", [Rule.SAMPLE_RATIO, Rule.ERROR, Rule.STALE, Rule.LIMIT, Rule.MISSING_EVIDENCE])
def test_guardrails_that_cannot_be_believed_or_are_beyond_a_limit_are_not_green(sessions: Sessions, rule: Rule) -> None:
    with sessions.writing() as session:
        release_id = a_release(session)
        verdict = a_verdict(Outcome.HOLD, rule=rule)
        rollout_id = rollout_on(session, HOME_FEED)
        evidence.record_verdict(session, rollout_id, verdict, b"", now=LATER, next_check_at=LATER)

        assert not releases.progress(session, release_id)[HOME_FEED].is_green


def test_an_unknown_release_is_named(sessions: Sessions) -> None:
    with sessions.reading() as session, pytest.raises(UnknownName, match="release '404'"):
        releases.edges(session, 404)


def a_chain(session: Session, policy: OnUpstreamRollback, below: OnUpstreamRollback | None = None) -> int:
    """home_feed → search → related_pins, under one policy each."""
    candidates = {}
    for surface in SURFACES:
        scene.a_serving_surface(session, a_version("a", surface=surface))
        candidates[surface] = scene.registered(session, a_version("b", surface=surface, trunk="new"))
    edges = [replace(EDGE, on_rollback=policy), replace(BELOW, on_rollback=below or policy)]
    return arrivals.create_release(session, candidates, a_plan(), edges, by="ada", now=NOON)


def phases(session: Session) -> dict[str, Phase]:
    return {rollout.surface: rollout.phase for rollout in rollouts.list_rollouts(session)}


def shares(session: Session, among: Sequence[Surface] = SURFACES) -> dict[str, int]:
    return {surface: surfaces.get(session, surface).candidate_bp for surface in among}


def ramped(session: Session, *which: Surface) -> None:
    for surface in which:
        scene.walk(session, rollout_on(session, surface), until=Phase.RAMPING)


def rolled_back(session: Session, surface: Surface = HOME_FEED) -> None:
    rollouts.apply_command(
        session, rollout_on(session, surface), Command.ROLL_BACK, by="on-call", now=LATER, reason="clicks fell"
    )


def test_an_upstreams_roll_back_takes_what_follows_it_along_furthest_downstream_first(sessions: Sessions) -> None:
    with sessions.writing() as session:
        a_chain(session, CASCADE)
        ramped(session, *SURFACES)

        rolled_back(session)

        assert set(phases(session).values()) == {Phase.ROLLED_BACK}
        assert shares(session) == dict.fromkeys(SURFACES, 0)
        told = [history.list_history(session, surface, 1)[0] for surface in (HOME_FEED, SEARCH, RELATED_PINS)]
        assert {entry.command for entry in told} == {"roll_back"}
        assert [entry.reason for entry in told] == ["clicks fell", *["home_feed was rolled back: clicks fell"] * 2]
        assert history.verify(session) == []


def test_what_went_back_with_its_upstream_may_be_rolled_out_again(sessions: Sessions) -> None:
    with sessions.writing() as session:
        a_chain(session, CASCADE)
        rolled_back(session)

        scene.a_pending_rollout(session, a_version("b", surface=SEARCH, trunk="new"))


def test_an_upstreams_roll_back_holds_what_runs_below_it_and_keeps_the_rest_from_starting(sessions: Sessions) -> None:
    with sessions.writing() as session:
        release_id = a_chain(session, HOLD)
        ramped(session, HOME_FEED, SEARCH)

        rolled_back(session)

        assert phases(session) == {
            HOME_FEED: Phase.ROLLED_BACK,
            SEARCH: Phase.HELD,
            RELATED_PINS: Phase.PENDING,
        }
        assert shares(session) == {HOME_FEED: 0, SEARCH: 100, RELATED_PINS: 0}
        assert history.list_history(session, SEARCH, 1)[0].reason == "home_feed was rolled back: clicks fell"
        rolled_back(session, SEARCH)
        blocked = blocked_by(
            RELATED_PINS,
            releases.edges(session, release_id),
            releases.progress(session, release_id),
            now=LATER,
        )
        assert blocked == "a person: search was rolled back"


def test_a_surface_that_ignores_its_upstream_goes_its_own_way(sessions: Sessions) -> None:
    with sessions.writing() as session:
        a_chain(session, IGNORE)
        ramped(session, HOME_FEED, SEARCH)

        rolled_back(session)

        assert phases(session)[SEARCH] is Phase.RAMPING


def test_a_cascade_reaches_what_is_done_already(sessions: Sessions) -> None:
    with sessions.writing() as session:
        a_chain(session, CASCADE)
        ramped(session, HOME_FEED)
        scene.walk(session, rollout_on(session, SEARCH), until=Phase.DONE)

        rolled_back(session)

        state = surfaces.get(session, SEARCH)
        assert (state.stable, phases(session)[SEARCH]) == (
            a_version("a", surface=SEARCH).version_id,
            Phase.ROLLED_BACK,
        )


def test_where_one_below_cannot_go_back_none_does_and_the_roll_back_happens_all_the_same(sessions: Sessions) -> None:
    """Related pins carries another rollout over the release's finished one, so it cannot just go back."""
    with sessions.writing() as session:
        a_chain(session, CASCADE)
        ramped(session, HOME_FEED, SEARCH)
        scene.walk(session, rollout_on(session, RELATED_PINS), until=Phase.DONE)
        scene.a_pending_rollout(session, a_version("c", surface=RELATED_PINS))

        rolled_back(session)

        release = {rollout.surface: rollout.phase for rollout in release_rows.rollouts_of(session, 1).values()}
        assert release == {HOME_FEED: Phase.ROLLED_BACK, SEARCH: Phase.HELD, RELATED_PINS: Phase.DONE}
        assert shares(session) == {HOME_FEED: 0, SEARCH: 100, RELATED_PINS: 0}
        assert "nothing was handed back: related_pins is busy" in history.list_history(session, HOME_FEED, 1)[0].reason


def test_a_quarantine_moves_every_surface_of_a_release_off_its_trunk(sessions: Sessions) -> None:
    with sessions.writing() as session:
        a_chain(session, HOLD)
        ramped(session, HOME_FEED, SEARCH)

    with sessions.writing() as session:
        moved = rollouts.quarantine(session, digest_of(b"new"), by="on-call", reason="scrambled", now=LATER)

    with sessions.reading() as session:
        assert moved == SURFACES
        assert shares(session) == dict.fromkeys(SURFACES, 0)
        assert set(phases(session).values()) == {Phase.ROLLED_BACK}
        assert {entry.command for entry in history.list_history(session, limit=3)} == {"quarantine"}
        assert history.verify(session) == []


def test_a_quarantine_with_releases_in_flight_moves_all_or_none(sessions: Sessions) -> None:
    """Shopping serves the same trunk as its only version: nothing moves anywhere, the release goes on."""
    shopping = Surface("shopping")
    with sessions.writing() as session:
        a_chain(session, CASCADE)
        ramped(session, HOME_FEED, SEARCH)
        scene.a_serving_surface(session, a_version("only", surface=shopping, trunk="new"))
        before = surfaces.list_surfaces(session)

    with pytest.raises(NoSafeVersion), sessions.writing() as session:
        rollouts.quarantine(session, digest_of(b"new"), by="on-call", reason="scrambled", now=LATER)

    with sessions.reading() as session:
        assert surfaces.list_surfaces(session) == before
        assert phases(session)[HOME_FEED] is Phase.RAMPING
        assert rollouts.list_quarantined(session) == []


@pytest.mark.parametrize(("policy", "ends_as"), [(CASCADE, Phase.ROLLED_BACK), (HOLD, Phase.HELD)])
def test_a_quarantine_of_one_surfaces_own_part_is_a_roll_back_for_those_below(
    sessions: Sessions, policy: OnUpstreamRollback, ends_as: Phase
) -> None:
    with sessions.writing() as session:
        a_chain(session, policy)
        ramped(session, HOME_FEED, SEARCH)

    with sessions.writing() as session:
        bad = a_version("b", trunk="new").calibrator
        moved = rollouts.quarantine(session, bad, by="on-call", reason="off by half", now=LATER)

    with sessions.reading() as session:
        assert moved == (HOME_FEED,)
        assert phases(session)[SEARCH] is ends_as
        assert history.verify(session) == []


def test_a_roll_back_that_quarantines_the_trunk_leaves_nothing_for_the_cascade_to_do(sessions: Sessions) -> None:
    with sessions.writing() as session:
        a_chain(session, CASCADE)
        ramped(session, HOME_FEED, SEARCH)

        rollouts.apply_command(
            session,
            rollout_on(session, HOME_FEED),
            Command.ROLL_BACK,
            by="scheduler",
            now=LATER,
            quarantine_parts=(Part.TRUNK,),
        )

        assert set(phases(session).values()) == {Phase.ROLLED_BACK}
        assert {entry.command for entry in history.list_history(session, SEARCH, 1)} == {"quarantine"}
        assert history.verify(session) == []


def test_a_whole_release_goes_back_in_one_call_and_twice_is_as_once(sessions: Sessions) -> None:
    with sessions.writing() as session:
        release_id = a_chain(session, IGNORE)
        ramped(session, SEARCH)
        scene.walk(session, rollout_on(session, HOME_FEED), until=Phase.DONE)

        stays = rollouts.roll_back_release(session, release_id, by="on-call", reason="revenue", now=LATER)
        generations = [surfaces.get(session, surface).generation for surface in SURFACES]
        again = rollouts.roll_back_release(session, release_id, by="on-call", reason="revenue", now=LATER)

        assert (stays, again) == ({}, {})
        assert set(phases(session).values()) == {Phase.ROLLED_BACK}
        assert surfaces.get(session, HOME_FEED).stable == a_version("a").version_id
        assert [surfaces.get(session, surface).generation for surface in SURFACES] == generations


def test_what_of_a_release_cannot_go_back_is_named_and_keeps_nothing_else(sessions: Sessions) -> None:
    with sessions.writing() as session:
        release_id = a_chain(session, HOLD)
        ramped(session, SEARCH)
        scene.walk(session, rollout_on(session, HOME_FEED), until=Phase.DONE)
        scene.a_pending_rollout(session, a_version("c"))

        stays = rollouts.roll_back_release(session, release_id, by="on-call", reason="revenue", now=LATER)

        assert list(stays) == [HOME_FEED]
        assert "busy" in stays[HOME_FEED]
        assert shares(session) == dict.fromkeys(SURFACES, 0)


def test_edges_of_before_policies_are_read_as_holding(sessions: Sessions) -> None:
    with sessions.writing() as session:
        release_id = a_release(session)
        old = [{"upstream": HOME_FEED, "downstream": SEARCH, "share_bp": 100, "held_seconds": 3_600.0}]
        session.execute(update(ReleaseRow).values(edges=old))
        session.expire_all()

        assert releases.edges(session, release_id) == (EDGE,)


@pytest.mark.parametrize("policy", [CASCADE, HOLD])
def test_a_command_below_that_races_the_upstreams_roll_back_comes_before_it_or_not_at_all(
    sessions: Sessions, policy: OnUpstreamRollback
) -> None:
    with sessions.writing() as session:
        release_id = a_chain(session, policy, IGNORE)
        ramped(session, HOME_FEED, SEARCH)
        search, home_feed = rollout_on(session, SEARCH), rollout_on(session, HOME_FEED)
        verdict_id = scene.a_passing_verdict(session, search)
        seen = surfaces.get(session, SEARCH).generation

    found = outcomes(
        sessions,
        lambda session: rollouts.apply_command(
            session, search, Command.ADVANCE, by="ada", now=LATER, verdict_id=verdict_id, seen_generation=seen
        ),
        lambda session: (
            rollouts.roll_back_release(session, release_id, by="on-call", reason="", now=LATER)
            if policy is HOLD
            else rollouts.apply_command(session, home_feed, Command.ROLL_BACK, by="on-call", now=LATER)
        ),
    )

    assert not isinstance(found[1], Exception)
    with sessions.reading() as session:
        assert phases(session)[HOME_FEED] is phases(session)[SEARCH] is Phase.ROLLED_BACK
        assert shares(session) == dict.fromkeys(SURFACES, 0)
        assert history.verify(session) == []


def test_guardrails_must_have_been_green_all_the_while_that_the_share_was_held(sessions: Sessions) -> None:
    """Harm on one gate at 13:00, nothing since: Search may start an hour after it, not before."""
    with sessions.writing() as session:
        release_id = a_chain(session, HOLD)
        ramped(session, HOME_FEED)
        harm = Finding(metric="ctr", segment="*", answer=Answer.HARM, gates=True)
        home_feed = rollout_on(session, HOME_FEED)
        for verdict, at in ((a_verdict(findings=(harm,)), LATER), (a_verdict(), LATER + timedelta(minutes=5))):
            evidence.record_verdict(session, home_feed, verdict, b"", now=at, next_check_at=at)

        def waits(minutes: float) -> str | None:
            return releases.blocker(session, release_id, SEARCH, now=LATER + timedelta(minutes=minutes))

        assert waits(6) == "home_feed's guardrails to be green for 1 h; they were not at 03 Mar 13:00 UTC"
        assert waits(59) is not None
        assert waits(61) is None
        found = release_rows.rollouts_of(session, release_id)
        blocked = releases.blockers(session, release_rows.load(session, release_id), found, now=LATER)
        assert set(blocked) == {SEARCH, RELATED_PINS}
