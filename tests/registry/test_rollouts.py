from datetime import timedelta

import pytest

from control_plane.domain.errors import (
    AlreadyExists,
    Deposed,
    Forbidden,
    IllegalTransition,
    InvalidField,
    MissingReason,
    MissingVerdict,
    NoSafeVersion,
    StaleGeneration,
    SurfaceBusy,
    TakenBack,
    UnknownName,
)
from control_plane.domain.model_version import VersionId
from control_plane.domain.rollout import ACTIVE, Command, Phase, RolloutId
from control_plane.domain.split import FULL_TRAFFIC_BP
from control_plane.domain.verdict import Outcome
from control_plane.registry import history, leases, model_versions, rollouts, stables, surfaces
from control_plane.registry.session import Sessions
from tests.builders import HOME_FEED, NOON, VIEW_TYPES, a_plan, a_version
from tests.registry import scene
from tests.registry.scene import LATER

NEVER = RolloutId(404)


def test_the_first_adoption_makes_generation_1(sessions: Sessions) -> None:
    with sessions.writing() as session:
        stable = scene.a_serving_surface(session)

        state = surfaces.get(session, HOME_FEED)

    assert (state.generation, state.stable, state.last_proven) == (1, stable, None)


def test_adopting_remembers_what_was_stable(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session, a_version("b"), before=a_version("a"))

        state = surfaces.get(session, HOME_FEED)

    assert (state.stable, state.last_proven) == (a_version("b").version_id, a_version("a").version_id)


def test_adopting_what_is_stable_changes_nothing(sessions: Sessions) -> None:
    with sessions.writing() as session:
        stable = scene.a_serving_surface(session)

        scene.adopted(session, stable)

        assert surfaces.get(session, HOME_FEED).generation == 1


def test_adopting_is_refused_while_a_rollout_is_active(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_pending_rollout(session)
        other = scene.registered(session, a_version("c"))

        with pytest.raises(SurfaceBusy) as refusal:
            scene.adopted(session, other)

    assert refusal.value.rollout_id == rollout_id
    assert str(refusal.value).endswith("or replace it (`surefoot rollout start --on-busy`)")


def test_a_version_of_another_surface_is_not_adopted(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        elsewhere = scene.a_serving_surface(session, a_version("a", surface="search"))

        with pytest.raises(UnknownName, match="version of home_feed"):
            scene.adopted(session, elsewhere)


def test_a_surface_made_again_otherwise_is_refused(sessions: Sessions) -> None:
    with sessions.writing() as session:
        stables.create_surface(session, HOME_FEED, VIEW_TYPES, by="ada", now=NOON)
        stables.create_surface(session, HOME_FEED, VIEW_TYPES, by="ada", now=NOON)

        with pytest.raises(AlreadyExists):
            stables.create_surface(session, HOME_FEED, VIEW_TYPES[:1], by="ada", now=NOON)


def test_a_surface_without_view_types_is_refused(sessions: Sessions) -> None:
    with sessions.writing() as session, pytest.raises(InvalidField, match="view_types"):
        stables.create_surface(session, HOME_FEED, (), by="ada", now=NOON)


def test_an_unknown_surface_names_those_there_are(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)

        with pytest.raises(UnknownName, match="known: home_feed"):
            surfaces.get(session, scene.SEARCH)


def test_a_rollout_starts_from_nothing_and_is_due_at_once(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_pending_rollout(session)

        rollout = rollouts.get(session, rollout_id)
        split = surfaces.splits(session, now=NOON)[HOME_FEED]

        assert (rollout.phase, rollout.step, rollout.first_generation) == (Phase.PENDING, -1, 0)
        assert (split.candidate, split.shadow) == (None, None)
        assert rollouts.due(session, now=NOON) == [rollout_id]


def test_a_surface_carries_one_rollout_at_a_time(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        scene.a_pending_rollout(session)

        with pytest.raises(SurfaceBusy):
            scene.a_pending_rollout(session, a_version("c"))


def test_a_rollout_needs_something_stable(sessions: Sessions) -> None:
    with sessions.writing() as session:
        stables.create_surface(session, HOME_FEED, VIEW_TYPES, by="ada", now=NOON)

        with pytest.raises(NoSafeVersion):
            scene.a_pending_rollout(session)


def test_what_is_stable_is_no_candidate(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)

        with pytest.raises(InvalidField, match="candidate"):
            scene.a_pending_rollout(session, a_version("a"))


def test_the_split_follows_the_phases(sessions: Sessions) -> None:
    with sessions.writing() as session:
        stable = scene.a_serving_surface(session)
        rollout_id = scene.a_pending_rollout(session)
        candidate = a_version("b").version_id
        seen = []
        for phase in (Phase.WARMING, Phase.SHADOW, Phase.RAMPING, Phase.WATCHING, Phase.DONE):
            scene.walk(session, rollout_id, until=phase)
            split = surfaces.splits(session, now=NOON)[HOME_FEED]
            seen.append((split.stable, split.candidate, split.candidate_bp, split.shadow, split.shadow_sample_bp))

    assert seen == [
        (stable, None, 0, candidate, 0),
        (stable, None, 0, candidate, FULL_TRAFFIC_BP),
        (stable, candidate, 100, None, 0),
        (stable, candidate, FULL_TRAFFIC_BP, None, 0),
        (candidate, None, 0, None, 0),
    ]


def test_done_makes_the_candidate_stable_over_the_old_one(sessions: Sessions) -> None:
    with sessions.writing() as session:
        stable = scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.DONE)

        state = surfaces.get(session, HOME_FEED)

        assert (state.stable, state.last_proven, state.rollout_id) == (a_version("b").version_id, stable, None)
        assert rollouts.due(session, now=NOON + timedelta(days=365)) == []
        assert rollouts.list_rollouts(session, surface=HOME_FEED, active_only=True) == []
        assert [rollout.rollout_id for rollout in rollouts.list_rollouts(session)] == [rollout_id]


def test_the_salt_is_the_rollouts_own_and_stays_while_it_grows(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.WARMING)
        salts = {surfaces.get(session, HOME_FEED).salt}
        for phase in (Phase.SHADOW, Phase.RAMPING, Phase.WATCHING):
            scene.walk(session, rollout_id, until=phase)
            salts.add(surfaces.get(session, HOME_FEED).salt)

    assert salts == {f"home_feed/rollout/{rollout_id}"}


def test_a_held_rollout_keeps_its_weight_and_its_stage(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)
        stage = rollouts.get(session, rollout_id).stage_generation

        scene.commanded(session, rollout_id, Command.HOLD)
        held = surfaces.get(session, HOME_FEED)
        rollout = scene.commanded(session, rollout_id, Command.RESUME)

        assert (held.candidate_bp, held.generation) == (100, stage + 1)
        assert (rollout.stage_generation, rollout.candidate_bp) == (stage, 100)


def test_weights_by_generation_are_told_from_any_generation_on(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)
        first = rollouts.get(session, rollout_id).first_generation

        shares = surfaces.shares_since(session, HOME_FEED, first)

    assert shares == {first: 0, first + 1: 0, first + 2: 100}


@pytest.mark.parametrize("phase", [Phase.SHADOW, Phase.RAMPING, Phase.WATCHING])
def test_no_weight_grows_without_a_passing_verdict_of_what_serves_now(sessions: Sessions, phase: Phase) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, phase)
        before = surfaces.get(session, HOME_FEED)
        holding = scene.a_stored_verdict(session, rollout_id, Outcome.HOLD)
        too_old = scene.a_stored_verdict(session, rollout_id, Outcome.ADVANCE, generation=before.generation - 1)

        for verdict_id in (None, holding, too_old, 404):
            with pytest.raises(MissingVerdict):
                scene.commanded(
                    session, rollout_id, Command.ADVANCE, verdict_id=verdict_id, reason="the launch is today"
                )

        assert surfaces.get(session, HOME_FEED).generation == before.generation


def test_a_persons_advance_rests_on_the_latest_verdict(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.SHADOW)
        scene.a_passing_verdict(session, rollout_id)
        scene.a_stored_verdict(session, rollout_id, Outcome.HOLD)

        with pytest.raises(MissingVerdict, match="skip this step with a reason"):
            scene.commanded(session, rollout_id, Command.ADVANCE)
        passing = scene.a_passing_verdict(session, rollout_id)
        rollout = scene.commanded(session, rollout_id, Command.ADVANCE)
        entry = history.list_history(session, HOME_FEED, 1)[0]

    assert rollout.phase is Phase.RAMPING
    assert (entry.command, entry.verdict_id) == ("advance", passing)


@pytest.mark.parametrize(
    ("phase", "share_bp"), [(Phase.WARMING, 0), (Phase.SHADOW, 100), (Phase.RAMPING, 2_500), (Phase.WATCHING, 0)]
)
def test_a_person_skips_with_a_reason_and_the_history_keeps_it(sessions: Sessions, phase: Phase, share_bp: int) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, phase)

        with pytest.raises(MissingReason):
            scene.commanded(session, rollout_id, Command.SKIP)
        rollout = scene.commanded(session, rollout_id, Command.SKIP, by="grace", reason="clicks come late today")
        entry, state = history.list_history(session, HOME_FEED, 1)[0], surfaces.get(session, HOME_FEED)

    assert (entry.by, entry.command, entry.reason) == ("grace", "skip", "clicks come late today")
    assert state.candidate_bp == share_bp
    assert rollout.stage_generation == state.generation, "its evidence begins anew"
    assert state.lease_renewed_at == (NOON if share_bp else None), "its watch begins"


def test_a_skip_leaves_approvals_behind(sessions: Sessions) -> None:
    steps = [{"share": "1%", "approvals": 1}, {"share": "50%", "approvals": 1}, {"share": "100%"}]
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_pending_rollout(session, plan=a_plan(steps=steps))
        scene.walk(session, rollout_id, until=Phase.RAMPING)
        scene.commanded(session, rollout_id, Command.APPROVE, by="grace")

        rollout = scene.commanded(session, rollout_id, Command.SKIP, by="grace", reason="the launch is today")

    assert (rollout.step, rollout.approvals) == (1, frozenset())


def test_a_scheduler_cannot_skip(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.SHADOW)
        epoch = leases.acquire(session, leases.SCHEDULER, "one", 60)

        with pytest.raises(Forbidden, match="only people"):
            rollouts.apply_command(
                session, rollout_id, Command.SKIP, by="scheduler", now=NOON, reason="why not", epoch=epoch
            )


def test_a_scheduler_cannot_overrule_the_judge(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.SHADOW)
        epoch = leases.acquire(session, leases.SCHEDULER, "one", 60)

        with pytest.raises(MissingVerdict):
            rollouts.apply_command(
                session, rollout_id, Command.ADVANCE, by="scheduler", now=NOON, reason="why not", epoch=epoch
            )


def test_another_rollouts_verdict_is_no_evidence(sessions: Sessions) -> None:
    """A changed digest starts from nothing."""
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        first = scene.a_rollout_in(session, Phase.SHADOW, a_version("b"))
        scene.commanded(session, first, Command.ROLL_BACK)
        second = scene.a_rollout_in(session, Phase.SHADOW, a_version("c"))
        generation = surfaces.get(session, HOME_FEED).generation
        borrowed = scene.a_stored_verdict(session, first, Outcome.ADVANCE, generation=generation)

        with pytest.raises(MissingVerdict):
            scene.commanded(session, second, Command.ADVANCE, verdict_id=borrowed)


def test_a_step_that_asks_for_approvals_is_left_only_with_them(sessions: Sessions) -> None:
    steps = [{"share": "1%", "approvals": 1}, {"share": "100%"}]
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_pending_rollout(session, plan=a_plan(steps=steps))
        scene.walk(session, rollout_id, until=Phase.RAMPING)

        with pytest.raises(IllegalTransition, match="lacks 1 approval"):
            scene.walk(session, rollout_id, until=Phase.WATCHING)
        scene.commanded(session, rollout_id, Command.APPROVE, by="grace")
        generation = surfaces.get(session, HOME_FEED).generation
        scene.commanded(session, rollout_id, Command.APPROVE, by="grace")

        assert surfaces.get(session, HOME_FEED).generation == generation, "approving twice is approving once"
        assert scene.walk(session, rollout_id, until=Phase.WATCHING).phase is Phase.WATCHING


def test_nobody_approves_their_own_rollout_and_groups_approve_their_steps(sessions: Sessions) -> None:
    steps = [{"share": "1%", "approvals": 1, "approval_group": "leads"}, {"share": "100%"}]
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_pending_rollout(session, plan=a_plan(steps=steps))
        scene.walk(session, rollout_id, until=Phase.RAMPING)

        with pytest.raises(Forbidden, match="ada may not approve"):
            scene.commanded(session, rollout_id, Command.APPROVE, by="ada", groups={"leads"})
        with pytest.raises(Forbidden, match="members of leads"):
            scene.commanded(session, rollout_id, Command.APPROVE, by="grace")
        rollout = scene.commanded(session, rollout_id, Command.APPROVE, by="grace", groups={"leads"})

    assert rollout.approvals == {"grace"}


def test_an_unmonitored_step_is_left_on_approvals_with_reasons_and_on_nothing_else(sessions: Sessions) -> None:
    steps = [{"share": "1%", "approvals": 1, "monitored": False}, {"share": "100%"}]
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_pending_rollout(session, plan=a_plan(steps=steps))
        scene.walk(session, rollout_id, until=Phase.RAMPING)

        with pytest.raises(IllegalTransition, match="lacks 1 approval"):
            scene.walk(session, rollout_id, until=Phase.WATCHING)
        with pytest.raises(MissingReason):
            scene.commanded(session, rollout_id, Command.APPROVE, by="grace")
        scene.commanded(session, rollout_id, Command.APPROVE, by="grace", reason="seen in the dashboards")
        rollout = scene.commanded(session, rollout_id, Command.ADVANCE)

    assert rollout.phase is Phase.WATCHING


@pytest.mark.parametrize("phase", sorted(ACTIVE))
def test_roll_back_takes_all_traffic_home_from_any_active_phase(sessions: Sessions, phase: Phase) -> None:
    with sessions.writing() as session:
        stable = scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, phase)

        rollout = scene.commanded(session, rollout_id, Command.ROLL_BACK)
        state = surfaces.get(session, HOME_FEED)

        assert rollout.phase is Phase.ROLLED_BACK
        assert (state.stable, state.candidate, state.candidate_bp, state.shadow) == (stable, None, 0, None)
        assert state.rollout_id is None
        assert model_versions.get(session, rollout.candidate).is_aborted
        assert history.verify(session) == []


@pytest.mark.parametrize("command", [Command.ROLL_BACK, Command.ABORT])
def test_rolling_back_twice_is_rolling_back_once(sessions: Sessions, command: Command) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)
        first = scene.commanded(session, rollout_id, command)
        generation = surfaces.get(session, HOME_FEED).generation

        second = rollouts.apply_command(
            session, rollout_id, command, by="grace", now=LATER, seen_generation=generation - 1
        )

        assert second == first
        assert surfaces.get(session, HOME_FEED).generation == generation


def test_rolling_back_what_is_done_goes_to_the_last_proven(sessions: Sessions) -> None:
    with sessions.writing() as session:
        stable = scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.DONE)

        scene.commanded(session, rollout_id, Command.ROLL_BACK)
        state = surfaces.get(session, HOME_FEED)

        assert (state.stable, state.last_proven) == (stable, None)
        assert rollouts.get(session, rollout_id).phase is Phase.ROLLED_BACK


@pytest.mark.parametrize("standing", [Phase.PENDING, Phase.SHADOW, Phase.RAMPING, Phase.HELD])
def test_what_is_done_is_rolled_back_with_the_rollout_that_stands_on_it(sessions: Sessions, standing: Phase) -> None:
    """In one call, and without a stain on the one that was compared with it."""
    with sessions.writing() as session:
        stable = scene.a_serving_surface(session)
        done = scene.a_rollout_in(session, Phase.DONE)
        other = scene.a_rollout_in(session, standing, a_version("c"))

        scene.commanded(session, done, Command.ROLL_BACK, reason="it loses revenue")

        state = surfaces.get(session, HOME_FEED)
        assert (state.stable, state.last_proven, state.candidate, state.rollout_id) == (stable, None, None, None)
        assert {rollouts.get(session, one).phase for one in (done, other)} == {Phase.ROLLED_BACK}
        assert [entry.command for entry in history.list_history(session, HOME_FEED, 2)] == ["roll_back", "make_way"]
        assert "it loses revenue" in history.list_history(session, HOME_FEED, 2)[1].reason
        assert history.verify(session) == []
        scene.a_pending_rollout(session, a_version("c"))


def test_nothing_ends_for_a_roll_back_that_has_nowhere_to_land(sessions: Sessions) -> None:
    with sessions.writing() as session:
        stable = scene.a_serving_surface(session)
        done = scene.a_rollout_in(session, Phase.DONE)
        other = scene.a_rollout_in(session, Phase.SHADOW, a_version("c"))
        rollouts.quarantine(session, a_version("a").surface_export, by="ada", reason="old", now=NOON)

    with pytest.raises(NoSafeVersion), sessions.writing() as session:
        scene.commanded(session, done, Command.ROLL_BACK)

    with sessions.reading() as session:
        assert rollouts.get(session, other).phase is Phase.SHADOW
        assert surfaces.get(session, HOME_FEED).last_proven == stable


def test_what_is_done_and_replaced_is_not_rolled_back(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        done = scene.a_rollout_in(session, Phase.DONE)
        scene.a_rollout_in(session, Phase.DONE, a_version("c"))

        with pytest.raises(IllegalTransition):
            scene.commanded(session, done, Command.ROLL_BACK)


def test_a_digest_that_was_taken_back_is_refused(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        scene.a_rollout_in(session, Phase.ROLLED_BACK)

        with pytest.raises(TakenBack, match="was taken back on 2026-03-03"):
            scene.a_pending_rollout(session, a_version("b"))
        with pytest.raises(TakenBack, match="was taken back on 2026-03-03"):
            scene.adopted(session, a_version("b").version_id)


def test_a_command_on_a_stale_generation_is_refused(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)
        current = surfaces.get(session, HOME_FEED).generation

        with pytest.raises(StaleGeneration) as refusal:
            rollouts.apply_command(session, rollout_id, Command.HOLD, by="ada", now=NOON, seen_generation=current - 1)

    assert (refusal.value.seen, refusal.value.current) == (current - 1, current)


def test_a_persons_roll_back_is_never_refused_as_stale(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)

        rollout = rollouts.apply_command(session, rollout_id, Command.ROLL_BACK, by="ada", now=NOON, seen_generation=1)

        assert rollout.phase is Phase.ROLLED_BACK


def test_a_schedulers_roll_back_is_dropped_when_the_generation_moved(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)
        epoch = leases.acquire(session, leases.SCHEDULER, "one", 60)
        seen = surfaces.get(session, HOME_FEED).generation
        scene.commanded(session, rollout_id, Command.HOLD)

        with pytest.raises(StaleGeneration):
            rollouts.apply_command(
                session, rollout_id, Command.ROLL_BACK, by="scheduler", now=NOON, seen_generation=seen, epoch=epoch
            )


def test_a_deposed_scheduler_writes_nothing(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_pending_rollout(session)
        epoch = leases.acquire(session, leases.SCHEDULER, "one", 60)
        assert epoch is not None
        leases.release(session, leases.SCHEDULER, "one")
        assert leases.acquire(session, leases.SCHEDULER, "two", 60) == epoch + 1

    with pytest.raises(Deposed), sessions.writing() as session:
        rollouts.apply_command(session, rollout_id, Command.START, by="scheduler", now=NOON, epoch=epoch)
    with pytest.raises(Deposed), sessions.writing() as session:
        rollouts.set_next_check(session, rollout_id, LATER, epoch=epoch)
    with pytest.raises(Deposed), sessions.writing() as session:
        rollouts.quarantine(session, a_version("a").trunk, by="scheduler", reason="harm", now=NOON, epoch=epoch)
    with sessions.reading() as session:
        assert rollouts.get(session, rollout_id).phase is Phase.PENDING
        assert rollouts.due(session, now=NOON) == [rollout_id]


def test_an_unknown_rollout_is_named(sessions: Sessions) -> None:
    with sessions.writing() as session, pytest.raises(UnknownName, match="rollout '404'"):
        scene.commanded(session, NEVER, Command.START)


def test_an_illegal_command_changes_nothing(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_pending_rollout(session)
        before = surfaces.get(session, HOME_FEED)

        with pytest.raises(IllegalTransition):
            scene.commanded(session, rollout_id, Command.ADVANCE)

        assert surfaces.get(session, HOME_FEED) == before


def test_checks_that_are_not_due_yet_wait(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_pending_rollout(session)

        rollouts.set_next_check(session, rollout_id, LATER)

        assert rollouts.due(session, now=NOON) == []
        assert rollouts.due(session, now=LATER) == [rollout_id]


class TestTheButton:
    """`roll_back_surface`: one call, whatever is going on."""

    def press(self, sessions: Sessions) -> VersionId | None:
        with sessions.writing() as session:
            return stables.roll_back_surface(
                session, HOME_FEED, by="on-call", reason="pages are empty", now=LATER
            ).stable

    def test_it_ends_the_active_rollout(self, sessions: Sessions) -> None:
        with sessions.writing() as session:
            stable = scene.a_serving_surface(session)
            rollout_id = scene.a_rollout_in(session, Phase.WATCHING)

        assert self.press(sessions) == stable
        with sessions.reading() as session:
            assert rollouts.get(session, rollout_id).phase is Phase.ROLLED_BACK

    def test_pressed_twice_it_does_not_go_back_two_versions(self, sessions: Sessions) -> None:
        with sessions.writing() as session:
            stable = scene.a_serving_surface(session, a_version("a"), before=a_version("z"))
            scene.a_rollout_in(session, Phase.RAMPING)

        assert self.press(sessions) == stable
        assert self.press(sessions) == stable

    def test_without_a_rollout_it_returns_to_the_last_proven(self, sessions: Sessions) -> None:
        with sessions.writing() as session:
            scene.a_serving_surface(session, a_version("b"), before=a_version("a"))

        assert self.press(sessions) == a_version("a").version_id
        with sessions.reading() as session:
            assert model_versions.get(session, a_version("b").version_id).is_aborted

    def test_after_a_finished_rollout_it_takes_that_rollout_back(self, sessions: Sessions) -> None:
        with sessions.writing() as session:
            stable = scene.a_serving_surface(session)
            rollout_id = scene.a_rollout_in(session, Phase.DONE)

        assert self.press(sessions) == stable
        with sessions.reading() as session:
            assert rollouts.get(session, rollout_id).phase is Phase.ROLLED_BACK

    def test_with_nothing_to_go_back_to_it_says_so(self, sessions: Sessions) -> None:
        with sessions.writing() as session:
            scene.a_serving_surface(session)

        with pytest.raises(NoSafeVersion):
            self.press(sessions)
