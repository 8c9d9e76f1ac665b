"""The rules of rollouts in small: what is refused and why, and what is so afterwards. No database, no plan but one."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from control_plane.domain.errors import (
    ControlPlaneError,
    CoolingDown,
    Deposed,
    Forbidden,
    Frozen,
    IllegalTransition,
    InvalidField,
    MissingReason,
    MissingVerdict,
    NoSafeVersion,
    Quarantined,
    StaleGeneration,
    SurfaceBusy,
)
from control_plane.domain.model_version import ModelVersion, Surface
from control_plane.domain.rollout import Command, OnBusy, Phase
from control_plane.domain.verdict import Outcome
from tests.builders import NOON, a_plan
from tests.registry.rules_fleet import Fleet

PLAN = a_plan(
    steps=[
        {"share": "1%", "bake": "1h"},
        {"share": "25%", "bake": "1h", "approvals": 1},
        {"share": "100%", "bake": "1h"},
    ],
    cool_down="30m",
    max_stage="4h",
    min_days_before_full=0,
)
UNWATCHED = timedelta(seconds=PLAN.unwatched_seconds)
BAKE, LONGEST_STAGE, COOL_DOWN = timedelta(hours=1), timedelta(hours=4), timedelta(minutes=30)
CREATOR = "ada"
ON_THE_WAY = (Phase.WARMING, Phase.SHADOW, Phase.RAMPING, Phase.WATCHING)
PAUSED = (Phase.HELD, Phase.EXPIRED)
JUDGED = (Phase.SHADOW, Phase.RAMPING, Phase.WATCHING)
ENDED = (Phase.DONE, Phase.ROLLED_BACK)

Errors = set[type[ControlPlaneError]]


@dataclass(kw_only=True)
class Trip:
    """One rollout."""

    rollout_id: int
    candidate: ModelVersion
    phase: Phase
    step: int = -1
    paused: Phase | None = None
    approvals: set[str] = field(default_factory=set)
    over: ModelVersion  # what it is compared with
    entered_at: datetime
    started_at: datetime | None = None
    stage_generation: int = 0
    acknowledged_at: datetime | None = None
    is_hot: bool = False  # it was rolled back, so that what it brought has to cool down

    @property
    def brought(self) -> set[str]:
        """Parts that its stable lacks."""
        return cooling_parts(self.candidate) - cooling_parts(self.over)

    @property
    def serving(self) -> Phase:
        return self.paused or self.phase

    @property
    def weight_bp(self) -> int:
        serves = self.serving in (Phase.RAMPING, Phase.WATCHING)
        return PLAN.steps[self.step].share_bp if serves else 0

    @property
    def lacks_approvals(self) -> bool:
        return self.step >= 0 and len(self.approvals) < PLAN.steps[self.step].approvals


@dataclass(kw_only=True)
class Place:
    """One surface."""

    generation: int
    stable: ModelVersion
    proven: ModelVersion | None = None
    trip: Trip | None = None
    queue: list[Trip] = field(default_factory=list)
    watched_at: datetime = NOON

    @property
    def on_its_way(self) -> list[ModelVersion]:
        return [] if self.trip is None else [self.trip.candidate]

    def is_home(self, now: datetime) -> bool:
        return self.trip is not None and self.trip.weight_bp > 0 and now - self.watched_at >= UNWATCHED


@dataclass(kw_only=True)
class Rules:
    places: dict[Surface, Place]
    trips: dict[int, Trip] = field(default_factory=dict)
    fleet: Fleet = field(default_factory=Fleet)
    bad: set[str] = field(default_factory=set)  # digests
    confined: list[tuple[str, datetime]] = field(default_factory=list)  # digests, and when, also those let out again
    taken_back: set[str] = field(default_factory=set)  # versions
    frozen: set[Surface] = field(default_factory=set)
    epoch: int = 0
    now: datetime = NOON
    at: datetime = NOON  # what the clock of whoever acts shows

    def copied(self) -> "Rules":
        return deepcopy(self)

    def may_serve(self, version: ModelVersion) -> bool:
        digests = {version.trunk, version.surface_export, version.calibrator, version.feature_signature}
        return version.version_id not in self.taken_back and not digests & self.bad

    def place_of(self, trip: Trip) -> Place:
        return self.places[trip.candidate.surface]

    # What is refused, for every rule that is broken: whichever is met first may be told.

    def refuses_create(self, version: ModelVersion, on_busy: OnBusy) -> Errors:
        place = self.places[version.surface]
        found: Errors = set()
        if place.trip is not None and on_busy is OnBusy.REJECT:
            found.add(SurfaceBusy)
        if version == place.stable:
            found.add(InvalidField)
        if not self.may_serve(version):
            found.add(Quarantined)
        if on_busy is OnBusy.REPLACE and place.trip is not None and place.trip.candidate == version:
            found.add(InvalidField)
        return found

    def is_done_already(self, trip: Trip, command: Command) -> bool:
        if command in (Command.ROLL_BACK, Command.ABORT):
            return trip.phase is Phase.ROLLED_BACK
        return command is Command.HOLD and trip.phase is Phase.HELD

    def refuses(
        self, trip: Trip, command: Command, *, by: str, reason: str, behind: int, epoch: int | None, passed: bool
    ) -> Errors:
        found: Errors = set()
        if epoch is not None and epoch != self.epoch:
            return {Deposed}
        if self.is_done_already(trip, command):
            return set()
        if behind and (command is not Command.ROLL_BACK or epoch is not None):
            found.add(StaleGeneration)
        if not self._takes(trip, command):
            found.add(IllegalTransition)
        if command is Command.SKIP and not reason:
            found.add(MissingReason)
        if command is Command.SKIP and epoch is not None:
            found.add(Forbidden)
        if command is Command.APPROVE and by == CREATOR:
            found.add(Forbidden)
        if command is Command.ADVANCE and trip.phase in (Phase.SHADOW, Phase.RAMPING, Phase.WATCHING):
            found |= set() if passed else {MissingVerdict}
            found |= {IllegalTransition} if trip.lacks_approvals else set()
        if command in (Command.START, Command.ADVANCE, Command.SKIP, Command.RESUME):
            found |= set() if self.may_serve(trip.candidate) else {Quarantined}
            found |= {Frozen} if trip.candidate.surface in self.frozen else set()
        if command is Command.START and self.is_cooling(trip) and (epoch is not None or not reason):
            found.add(CoolingDown)
        if command is Command.ROLL_BACK and trip.phase is Phase.DONE:
            found |= self._refuses_to_take_back(trip)
        return found

    def is_cooling(self, trip: Trip) -> bool:
        """Whether something that it brings was rolled back lately, and nothing else was to blame for that."""
        return any(
            self.at < hot.entered_at + COOL_DOWN and trip.brought & self._suspects(hot)
            for hot in self.trips.values()
            if hot.is_hot
        )

    def _suspects(self, hot: Trip) -> set[str]:
        blamed = {digest for digest, at in self.confined if at == hot.entered_at}
        return (hot.brought & blamed) or hot.brought

    def refuses_restart(self, trip: Trip, *, reason: str, behind: int) -> Errors:
        found: Errors = {StaleGeneration} if behind else set()
        if trip.phase in ENDED:
            found.add(IllegalTransition)
        if not reason:
            found.add(MissingReason)
        if not self.may_serve(trip.candidate):
            found.add(Quarantined)
        return found

    def refuses_adopt(self, version: ModelVersion) -> Errors:
        place = self.places[version.surface]
        if place.stable == version:
            return set()
        found: Errors = set() if place.trip is None else {SurfaceBusy}
        return found | (set() if self.may_serve(version) else {Quarantined})

    def decides(self, trip: Trip, outcome: Outcome) -> Command | None:
        """What a scheduler does that finds this outcome; None is to wait."""
        wanted = self._wants(trip, outcome)
        grows = wanted in (Command.START, Command.ADVANCE)
        return None if grows and trip.candidate.surface in self.frozen else wanted

    def _wants(self, trip: Trip, outcome: Outcome) -> Command | None:
        if outcome is Outcome.ROLL_BACK and trip.serving in JUDGED:
            return Command.ROLL_BACK
        if trip.phase is Phase.PENDING:
            return None if self.is_cooling(trip) else Command.START
        if trip.phase is Phase.WARMING:
            return Command.ADVANCE if self.fleet.holds(trip.candidate.version_id, self.now) else None
        if trip.phase is Phase.EXPIRED or trip.serving not in JUDGED:
            return None
        if trip.serving is not Phase.WATCHING and self.at >= trip.entered_at + LONGEST_STAGE:
            return Command.ROLL_BACK if trip.weight_bp else Command.EXPIRE
        if trip.phase is Phase.HELD or trip.acknowledged_at is None:
            return None  # and whoever falls silent holds up all others
        has_baked = self.at >= max(trip.entered_at, trip.acknowledged_at) + BAKE
        is_free = outcome is Outcome.ADVANCE and has_baked and not trip.lacks_approvals
        return Command.ADVANCE if is_free else None

    def _takes(self, trip: Trip, command: Command) -> bool:
        match command:
            case Command.START:
                return trip.phase is Phase.PENDING
            case Command.ADVANCE | Command.SKIP:
                return trip.phase in ON_THE_WAY
            case Command.HOLD:
                return trip.phase in (*ON_THE_WAY, Phase.HELD)
            case Command.RESUME:
                return trip.phase in PAUSED
            case Command.APPROVE:
                return trip.phase in (Phase.RAMPING, Phase.WATCHING, Phase.HELD)
            case Command.EXPIRE:
                return trip.phase in (Phase.SHADOW, Phase.RAMPING, Phase.WATCHING, Phase.HELD)
            case Command.ABORT:
                return trip.phase is not Phase.DONE
            case Command.ROLL_BACK:
                return True

    def _refuses_to_take_back(self, trip: Trip) -> Errors:
        place = self.place_of(trip)
        found: Errors = set()
        if place.stable != trip.candidate:
            found.add(IllegalTransition)
        if place.proven is None or not self.may_serve(place.proven):
            found.add(NoSafeVersion)
        return found

    def refuses_quarantine(self, digest: str) -> Errors:
        stuck = any(
            self._has(place.stable, digest)
            and (place.proven is None or self._has(place.proven, digest) or not self.may_serve(place.proven))
            for place in self.places.values()
        )
        return {NoSafeVersion} if stuck else set()

    # What is so afterwards.

    def create(self, version: ModelVersion, rollout_id: int, on_busy: OnBusy) -> None:
        place = self.places[version.surface]
        trip = Trip(
            rollout_id=rollout_id, candidate=version, phase=Phase.PENDING, over=place.stable, entered_at=self.at
        )
        self.trips[rollout_id] = trip
        if on_busy is OnBusy.QUEUE and (place.trip is not None or place.queue):
            trip.phase = Phase.QUEUED
            place.queue.append(trip)
        else:
            if place.trip is not None:
                self.apply(place.trip, Command.ABORT, by=CREATOR)
            place.trip = trip
        place.generation += 1

    def apply(self, trip: Trip, command: Command, *, by: str) -> None:
        if self.is_done_already(trip, command):
            return
        place = self.place_of(trip)
        if command is Command.APPROVE and by in trip.approvals:
            return
        place.generation += 1
        if command is not Command.APPROVE:
            trip.entered_at = self.at
        match command:
            case Command.START:
                trip.phase, trip.started_at = Phase.WARMING, self.at
                trip.stage_generation = place.generation
            case Command.ADVANCE | Command.SKIP:
                self._go_on(place, trip)
            case Command.HOLD:
                trip.paused, trip.phase = trip.phase, Phase.HELD
            case Command.EXPIRE:
                trip.paused, trip.phase = trip.serving, Phase.EXPIRED
            case Command.RESUME:
                assert trip.paused is not None
                trip.phase, trip.paused = trip.paused, None
            case Command.APPROVE:
                trip.approvals.add(by)
            case Command.ABORT | Command.ROLL_BACK:
                trip.is_hot = command is Command.ROLL_BACK and trip.started_at is not None
                self._go_home(place, trip)

    def restart(self, trip: Trip) -> None:
        """From nothing, in the shadow; what has not come that far stays where it is."""
        place = self.place_of(trip)
        place.generation += 1
        if trip.phase in (Phase.QUEUED, Phase.PENDING):
            return
        trip.phase = Phase.WARMING if trip.serving is Phase.WARMING else Phase.SHADOW
        trip.paused, trip.step, trip.acknowledged_at = None, -1, None
        trip.started_at = trip.entered_at = self.at
        trip.stage_generation = place.generation
        trip.approvals.clear()

    def adopt(self, version: ModelVersion) -> None:
        place = self.places[version.surface]
        if place.stable != version:
            place.generation += 1
            place.stable, place.proven = version, place.stable

    def acknowledge(self) -> None:
        """Stages begin that nearly all who live have come to."""
        for surface, place in self.places.items():
            trip = place.trip
            if trip is None or trip.serving not in JUDGED or trip.acknowledged_at is not None:
                continue
            if self.fleet.serves(surface, trip.stage_generation, self.now):
                trip.acknowledged_at = self.at

    def _go_on(self, place: Place, trip: Trip) -> None:
        trip.approvals.clear()
        trip.stage_generation, trip.acknowledged_at = place.generation, None
        place.watched_at = self.at
        match trip.phase:
            case Phase.WARMING:
                trip.phase = Phase.SHADOW
            case Phase.SHADOW | Phase.RAMPING:
                trip.step += 1
                trip.phase = Phase.WATCHING if trip.step + 1 == len(PLAN.steps) else Phase.RAMPING
            case Phase.WATCHING:
                trip.phase, place.trip = Phase.DONE, None
                place.stable, place.proven = trip.candidate, place.stable

    def _go_home(self, place: Place, trip: Trip) -> None:
        if trip.phase is Phase.QUEUED:
            place.queue.remove(trip)
        else:
            self.taken_back.add(trip.candidate.version_id)
            if trip.phase is Phase.DONE:
                assert place.proven is not None
                self._make_way(place)
                place.stable, place.proven = place.proven, None
            else:
                place.trip = None
        trip.phase, trip.paused = Phase.ROLLED_BACK, None

    def _make_way(self, place: Place) -> None:
        """What stands on a stable that goes back ends first, under a generation of its own."""
        if place.trip is not None:
            place.generation += 1
            place.trip.phase, place.trip.paused = Phase.ROLLED_BACK, None
            place.trip.entered_at = self.at
            place.trip = None

    def dequeue(self, surface: Surface) -> None:
        """The oldest that may serve comes; those before it that may not end."""
        place = self.places[surface]
        while place.queue and place.trip is None:
            trip = place.queue.pop(0)
            place.generation += 1
            trip.entered_at = self.at
            if trip.candidate == place.stable or not self.may_serve(trip.candidate):
                trip.phase = Phase.ROLLED_BACK
            else:
                trip.phase, place.trip, trip.over = Phase.PENDING, trip, place.stable

    def check(self, trip: Trip) -> None:
        """A completed check: who is watched stays so; who is at home comes back under a new generation, and the time
        there counts for no rule."""
        place = self.place_of(trip)
        if place.is_home(self.at):
            place.generation += 1
            home_since = place.watched_at + UNWATCHED
            trip.entered_at += self.at - max(home_since, trip.entered_at)
            if trip.acknowledged_at is not None:
                trip.acknowledged_at += self.at - max(home_since, trip.acknowledged_at)
            place.watched_at = self.at
        else:
            place.watched_at = max(place.watched_at, self.at)

    def quarantine(self, digest: str) -> None:
        for place in self.places.values():
            is_stable_bad = self._has(place.stable, digest)
            trip = place.trip
            if not is_stable_bad and (trip is None or not self._has(trip.candidate, digest)):
                continue
            place.generation += 1
            ended = trip or (self._latest_done(place) if is_stable_bad else None)
            if is_stable_bad:
                assert place.proven is not None
                place.stable, place.proven = place.proven, None
            if ended is not None:
                ended.phase, ended.paused = Phase.ROLLED_BACK, None
                ended.entered_at, ended.is_hot = self.at, ended.started_at is not None
            place.trip = None
        if digest not in self.bad:
            self.confined.append((digest, self.at))
        self.bad.add(digest)

    def _latest_done(self, place: Place) -> Trip | None:
        done = (trip for trip in self._trips_back(place) if trip.phase is Phase.DONE)
        return next((trip for trip in done if trip.candidate == place.stable), None)

    def _trips_back(self, place: Place) -> Iterator[Trip]:
        for rollout_id in sorted(self.trips, reverse=True):
            if self.place_of(self.trips[rollout_id]) is place:
                yield self.trips[rollout_id]

    def _has(self, version: ModelVersion, digest: str) -> bool:
        return digest in (version.trunk, version.surface_export, version.calibrator, version.feature_signature)


def cooling_parts(version: ModelVersion) -> set[str]:
    """A signature is a contract; it does no harm."""
    return {version.trunk, version.surface_export, version.calibrator}
