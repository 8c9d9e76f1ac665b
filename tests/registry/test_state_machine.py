"""All commands, clocks seconds apart, failures and silent runtimes in any order, against a small model of the rules."""

import shutil
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import event
from sqlalchemy.orm import Session

from control_plane import failpoints
from control_plane.domain.decision import decide
from control_plane.domain.errors import ControlPlaneError, Frozen
from control_plane.domain.model_version import Digest, ModelVersion, Surface
from control_plane.domain.rollout import ACTIVE, Command, OnBusy, Phase, RolloutId
from control_plane.domain.verdict import Outcome
from control_plane.failpoints import Injected
from control_plane.registry import (
    arrivals,
    evidence,
    freezes,
    gates,
    history,
    leases,
    rollouts,
    runtimes,
    stables,
    surfaces,
)
from control_plane.registry.runtimes import Heartbeat
from control_plane.registry.session import Sessions, make_engine
from control_plane.scheduler.tick import begin_stages
from tests.builders import HOME_FEED, a_verdict, a_version
from tests.registry import scene
from tests.registry.rules_fleet import SILENT, Beat
from tests.registry.rules_model import CREATOR, ENDED, JUDGED, PLAN, Errors, Place, Rules, Trip
from tests.registry.scene import SEARCH

SURFACES = (HOME_FEED, SEARCH)
VERSIONS = tuple(
    a_version(f"v{number}", surface=surface, trunk=f"trunk {number // 2}")
    for number in range(1, 9)
    for surface in SURFACES
)
FAIL_AT = (
    *("", "", "", "", "", ""),
    *("change.begun=raise", "change.set=raise", "change.history_written=raise", "change.split_written=raise"),
    *("change.outbox_written=raise", "quarantine.confined=raise", "rollback.aborted=raise"),
    *("transaction.before_commit=raise", "transaction.committed=raise"),
)
RUNTIMES = ("runtime-1", "runtime-2", "runtime-3")

chances = st.sampled_from
people = chances((CREATOR, "bob", "cem"))
clocks = chances((-5, 0, 0, 5)).map(lambda seconds: timedelta(seconds=seconds))  # of whoever acts, beside the others


class Registry(RuleBasedStateMachine):
    """The real registry on SQLite; `self.model` is what it should be."""

    template: Path

    @initialize(versions=st.tuples(*(chances(VERSIONS[start::2]) for start in (0, 1))), times=st.integers(0, 9))
    def open(self, versions: tuple[ModelVersion, ModelVersion], times: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="surefoot-rules-"))
        shutil.copy(self.template, self.folder / "registry.db")
        engine = make_engine(f"sqlite:///{self.folder / 'registry.db'}")
        event.listen(engine, "connect", lambda connection, _record: connection.execute("PRAGMA synchronous = OFF"))
        self.sessions = Sessions(engine)
        places = {}
        with self.sessions.writing() as session:
            for surface in SURFACES:
                first, second = (a_version(name, surface=surface, trunk=name) for name in ("first", "second"))
                scene.a_serving_surface(session, second, before=first)
                places[surface] = Place(generation=2, stable=second, proven=first)
            for version in VERSIONS:
                scene.registered(session, version)
        self.model = Rules(places=places)
        self.freeze_ids: dict[Surface, int] = {}
        self.take_the_lease()
        for version in versions:
            self.create(version, OnBusy.REJECT, timedelta(), "")
            self.drive(version.surface, times, True)
        self.report(set(RUNTIMES), True, True)

    def teardown(self) -> None:
        if hasattr(self, "sessions"):
            with self.sessions.reading() as session:
                assert history.verify(session) == []
            self.sessions.engine.dispose()
            shutil.rmtree(self.folder)

    @rule(version=chances(VERSIONS), on_busy=chances(OnBusy), clock=clocks, fails=chances(FAIL_AT))
    def create(self, version: ModelVersion, on_busy: OnBusy, clock: timedelta, fails: str) -> None:
        self.look_at(clock)
        made: list[int] = []

        def deed(session: Session) -> None:
            rollout = arrivals.create(
                session, version.surface, version.version_id, PLAN, by=CREATOR, now=self.model.at, on_busy=on_busy
            )
            made.append(rollout.rollout_id)

        if self.attempt(deed, self.model.refuses_create(version, on_busy), fails):
            self.model.create(version, made[0], on_busy)

    @precondition(lambda self: self.model.trips)
    @rule(
        data=st.data(),
        by=people,
        reason=chances(("", "because", "because")),
        behind=chances((0, 0, 0, 0, 1)),
        old_epochs=chances((0, 0, 0, 1)),
        clock=clocks,
        fails=chances(FAIL_AT),
    )
    def command(
        self,
        data: st.DataObject,
        by: str,
        reason: str,
        behind: int,
        old_epochs: int,
        clock: timedelta,
        fails: str,
    ) -> None:
        """By a person, or by a scheduler that holds the lease or does not know that it lost it."""
        self.look_at(clock)
        trip = data.draw(chances(self.likely_trips()))
        command = data.draw(chances(likely_commands(trip)))
        epoch = data.draw(chances((None, None, self.model.epoch - old_epochs)))
        outcome = data.draw(chances((Outcome.ADVANCE, Outcome.ADVANCE, Outcome.HOLD)))
        self.give(trip, command, by=by, reason=reason, behind=behind, epoch=epoch, outcome=outcome, fails=fails)

    @precondition(lambda self: any(place.trip for place in self.model.places.values()))
    @rule(surface=chances(SURFACES), times=st.integers(1, 7), is_scheduler=st.booleans())
    def drive(self, surface: Surface, times: int, is_scheduler: bool) -> None:
        """What goes well: step by step, on passing verdicts, and approved where that is asked for."""
        self.look_at(timedelta())
        for _ in range(times):
            trip = self.model.places[surface].trip
            if trip is None:
                return
            epoch = self.model.epoch if is_scheduler else None
            if trip.lacks_approvals and trip.phase is Phase.RAMPING:
                self.give(trip, Command.APPROVE, by="bob")
            elif trip.phase in (Phase.HELD, Phase.EXPIRED):
                self.give(trip, Command.RESUME, by="bob")
            else:
                command = Command.START if trip.phase is Phase.PENDING else Command.ADVANCE
                self.give(trip, command, by="scheduler", epoch=epoch, outcome=Outcome.ADVANCE)

    @precondition(lambda self: any(place.trip for place in self.model.places.values()))
    @rule(surface=chances(SURFACES), outcome=chances(Outcome), clock=clocks, fails=chances(FAIL_AT))
    def tick(self, surface: Surface, outcome: Outcome, clock: timedelta, fails: str) -> None:
        """A scheduler decides on what it finds, which is what the rules have it do; no silent fleet moves it on."""
        self.look_at(clock)
        place = self.model.places[surface]
        trip = place.trip
        if trip is None or place.is_home(self.model.at):
            return
        verdict = a_verdict(outcome, generation=place.generation) if trip.serving in JUDGED else None
        with self.sessions.reading() as session:
            rollout = rollouts.get(session, RolloutId(trip.rollout_id))
            readiness = gates.readiness(session, rollout, now=self.model.at, live_since=self.live_since)
        decision = decide(rollout, verdict, readiness=readiness, now=self.model.at)
        assert decision.command is self.model.decides(trip, outcome), decision.reason
        assert decision.reason, "whoever waits says what for"
        if decision.command is not None:
            epoch, reason = self.model.epoch, decision.reason
            self.give(trip, decision.command, by="scheduler", reason=reason, epoch=epoch, outcome=outcome, fails=fails)

    @rule(who=st.sets(chances(RUNTIMES), min_size=1), acknowledges=st.booleans(), loads=st.booleans())
    def report(self, who: set[str], acknowledges: bool, loads: bool) -> None:
        """Some of the fleet; the others say nothing, and those that hang repeat what they said."""
        places, fleet = self.model.places, self.model.fleet
        serving = {v.version_id for place in places.values() for v in (place.stable, *place.on_its_way)}
        for runtime_id in sorted(who):
            before = fleet.beats.get(runtime_id)
            served = {surface: place.generation for surface, place in places.items()}
            generations = served if acknowledges or before is None else before.generations
            loaded = frozenset(serving) if loads or before is None else before.loaded
            beat = Beat(heard_at=self.model.now, generations=generations, loaded=loaded)
            with self.sessions.writing() as session:
                heartbeat = Heartbeat(
                    runtime_id=runtime_id,
                    generations={str(surface): generation for surface, generation in generations.items()},
                    loaded=tuple(sorted(loaded)),
                    counts={},
                    shadow_dropped=0,
                    splits_mode="stream",
                )
                runtimes.record_heartbeat(session, heartbeat, now=self.model.now, seen_at=self.model.now)
            fleet.beats[runtime_id] = beat

    @rule(clock=clocks)
    def begin_stages(self, clock: timedelta) -> None:
        self.look_at(clock)
        begin_stages(self.sessions, now=self.model.at, live_since=self.live_since, epoch=self.model.epoch)
        self.model.acknowledge()

    @property
    def live_since(self) -> datetime:
        return self.model.now - SILENT

    def look_at(self, clock: timedelta) -> None:
        """Whoever acts next has a clock of their own."""
        self.model.at = self.model.now + clock

    def give(
        self,
        trip: Trip,
        command: Command,
        *,
        by: str,
        reason: str = "",
        behind: int = 0,
        epoch: int | None = None,
        outcome: Outcome = Outcome.HOLD,
        fails: str = "",
    ) -> None:
        verdict_id = self.store_verdict(trip, outcome)
        place = self.model.place_of(trip)

        def deed(session: Session) -> None:
            rollouts.apply_command(
                session,
                RolloutId(trip.rollout_id),
                command,
                by=by,
                now=self.model.at,
                reason=reason,
                seen_generation=place.generation - behind,
                verdict_id=verdict_id,
                epoch=epoch,
            )

        passed = verdict_id is not None and outcome is Outcome.ADVANCE
        refusals = self.model.refuses(trip, command, by=by, reason=reason, behind=behind, epoch=epoch, passed=passed)
        if self.attempt(deed, refusals, fails):
            self.model.apply(trip, command, by=by)

    @precondition(lambda self: self.model.trips)
    @rule(
        data=st.data(),
        reason=chances(("", "another try", "another try")),
        behind=chances((0, 0, 0, 1)),
        clock=clocks,
        fails=chances(FAIL_AT),
    )
    def restart(self, data: st.DataObject, reason: str, behind: int, clock: timedelta, fails: str) -> None:
        self.look_at(clock)
        trip = data.draw(chances(self.likely_trips()))
        seen = self.model.place_of(trip).generation - behind

        def deed(session: Session) -> None:
            rollout_id, now = RolloutId(trip.rollout_id), self.model.at
            rollouts.restart(session, rollout_id, plan=None, by="bob", reason=reason, now=now, seen_generation=seen)

        if self.attempt(deed, self.model.refuses_restart(trip, reason=reason, behind=behind), fails):
            self.model.restart(trip)

    @rule(version=chances(VERSIONS), clock=clocks, fails=chances(FAIL_AT))
    def adopt(self, version: ModelVersion, clock: timedelta, fails: str) -> None:
        self.look_at(clock)

        def deed(session: Session) -> None:
            surface, now = version.surface, self.model.at
            stables.adopt(session, surface, version.version_id, seen_generation=None, by="bob", reason="", now=now)

        if self.attempt(deed, self.model.refuses_adopt(version), fails):
            self.model.adopt(version)

    @precondition(lambda self: any(place.queue and place.trip is None for place in self.model.places.values()))
    @rule(surface=chances(SURFACES), clock=clocks, fails=chances(FAIL_AT))
    def dequeue(self, surface: Surface, clock: timedelta, fails: str) -> None:
        self.look_at(clock)
        place = self.model.places[surface]

        def deed(session: Session) -> None:
            arrivals.dequeue(session, surface, now=self.model.at, epoch=self.model.epoch)

        can_come = bool(place.queue) and place.trip is None
        if self.attempt(deed, {Frozen} if can_come and surface in self.model.frozen else set(), fails):
            self.model.dequeue(surface)

    @precondition(lambda self: any(place.trip and place.trip.weight_bp for place in self.model.places.values()))
    @rule(clock=clocks)
    def come_back_from_home(self, clock: timedelta) -> None:
        """A completed check of each candidate with weight."""
        self.look_at(clock)
        for surface, place in self.model.places.items():
            trip = place.trip
            if trip is None or not trip.weight_bp or surface in self.model.frozen:
                continue
            verdict_id = self.store_verdict(trip, Outcome.HOLD)
            assert verdict_id is not None
            with self.sessions.writing() as session:
                rollouts.renew_watch(
                    session,
                    RolloutId(trip.rollout_id),
                    by="scheduler",
                    now=self.model.at,
                    seen_generation=place.generation,
                    verdict_id=verdict_id,
                    epoch=self.model.epoch,
                )
            self.model.check(trip)

    @rule(version=chances(VERSIONS), is_trunk=st.booleans(), clock=clocks, fails=chances(FAIL_AT))
    def quarantine(self, version: ModelVersion, is_trunk: bool, clock: timedelta, fails: str) -> None:
        self.look_at(clock)
        digest = version.trunk if is_trunk else version.calibrator

        def deed(session: Session) -> None:
            rollouts.quarantine(session, Digest(digest), by="bob", reason="bad", now=self.model.at)

        if self.attempt(deed, self.model.refuses_quarantine(digest), fails):
            self.model.quarantine(digest)

    @precondition(lambda self: self.model.bad)
    @rule()
    def release(self) -> None:
        digest = min(self.model.bad)
        with self.sessions.writing() as session:
            rollouts.release_quarantine(session, Digest(digest), by="bob", reason="sound", now=self.model.now)
        self.model.bad.remove(digest)

    @rule(surface=chances(SURFACES))
    def freeze_or_lift(self, surface: Surface) -> None:
        with self.sessions.writing() as session:
            if surface in self.freeze_ids:
                freeze_id = self.freeze_ids.pop(surface)
                freezes.lift(session, freeze_id, by="ops", reason="over", now=self.model.now)
                self.model.frozen.remove(surface)
            else:
                freeze = freezes.declare(session, surface, by="ops", reason="peak", now=self.model.now)
                self.freeze_ids[surface] = freeze.freeze_id
                self.model.frozen.add(surface)

    @rule(minutes=st.integers(1, 30))
    def pass_time(self, minutes: int) -> None:
        self.model.now += timedelta(minutes=minutes)

    @rule()
    def take_the_lease(self) -> None:
        """Another scheduler, whenever the one before has let go: its epoch is a new one."""
        with self.sessions.writing() as session:
            holder = f"scheduler {self.model.epoch}"
            leases.release(session, leases.SCHEDULER, holder)
            epoch = leases.acquire(session, leases.SCHEDULER, f"scheduler {self.model.epoch + 1}", 3_600)
        assert epoch == self.model.epoch + 1
        self.model.epoch = epoch

    @invariant()
    def is_as_the_rules_have_it(self) -> None:
        if not hasattr(self, "model"):
            return
        with self.sessions.reading() as session:
            for surface, place in self.model.places.items():
                self.compare_surface(session, surface, place)
            for rollout_id, trip in self.model.trips.items():
                stored = rollouts.get(session, RolloutId(rollout_id))
                assert (stored.phase, stored.step, stored.paused_phase, set(stored.approvals)) == (
                    trip.phase,
                    trip.step,
                    trip.paused,
                    trip.approvals,
                )
                assert stored.entered_at == trip.entered_at
                if trip.phase not in ENDED:
                    assert stored.acknowledged_at == trip.acknowledged_at

    def compare_surface(self, session: Session, surface: Surface, place: Place) -> None:
        state, trip, now = surfaces.get(session, surface), place.trip, self.model.now
        assert state.generation == place.generation
        assert state.stable == place.stable.version_id
        assert state.last_proven == (None if place.proven is None else place.proven.version_id)
        assert state.rollout_id == (None if trip is None else trip.rollout_id)
        assert state.candidate_bp == (0 if trip is None else trip.weight_bp)
        assert state.candidate == (trip.candidate.version_id if trip is not None and trip.weight_bp else None)
        assert (state.shadow is not None) == (trip is not None and trip.serving in (Phase.WARMING, Phase.SHADOW))
        assert (state.home_since(now=now) is not None) == place.is_home(now)

    def attempt(self, deed: Callable[[Session], None], refusals: Errors, fails: str) -> bool:
        """Whether it was done: it is if nothing speaks against it and the database does not fail in the middle.

        What fails once it is committed was done, though nobody was told so.
        """
        refused = None
        failpoints.arm(fails)
        try:
            with self.sessions.writing() as session:
                deed(session)
        except Injected:
            assert not refusals, f"came as far as {fails} in spite of {refusals}"
            return fails.startswith("transaction.committed")
        except ControlPlaneError as error:
            refused = error
        finally:
            failpoints.arm("")
        if refused is None:
            assert not refusals, f"was done in spite of {refusals}"
            return True
        assert isinstance(refused, tuple(refusals)), f"{refused!r}, and only {refusals} speak against it"
        return False

    def store_verdict(self, trip: Trip, outcome: Outcome) -> int | None:
        """Of the present generation; it renews the watch of a candidate that is not at home."""
        place = self.model.place_of(trip)
        if place.trip is not trip:
            return None
        with self.sessions.writing() as session:
            verdict_id = evidence.record_verdict(
                session,
                RolloutId(trip.rollout_id),
                a_verdict(outcome, generation=place.generation),
                b"inputs",
                now=self.model.at,
                next_check_at=self.model.at,
                epoch=self.model.epoch,
            )
        if not place.is_home(self.model.at):
            place.watched_at = max(place.watched_at, self.model.at)
        return verdict_id

    def likely_trips(self) -> list[Trip]:
        """Those under way more often than those that are over."""
        found = list(self.model.trips.values())
        return [*found, *(trip for trip in found if trip.phase in ACTIVE for _ in range(4))]


def likely_commands(trip: Trip) -> list[Command]:
    fitting = {
        Phase.PENDING: [Command.START],
        Phase.HELD: [Command.RESUME],
        Phase.EXPIRED: [Command.RESUME],
    }.get(trip.phase, [Command.ADVANCE, Command.SKIP, Command.APPROVE])
    return [*fitting * 6, *Command]


def test_the_registry_keeps_to_the_rules(sqlite_template: Path) -> None:
    class OnTemplate(Registry):
        template = sqlite_template

    run_state_machine_as_test(
        OnTemplate,
        settings=settings(
            max_examples=15, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.mark.slow
def test_the_registry_keeps_to_the_rules_over_long_lives(sqlite_template: Path) -> None:
    class OnTemplate(Registry):
        template = sqlite_template

    run_state_machine_as_test(
        OnTemplate,
        settings=settings(
            max_examples=30, stateful_step_count=80, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
