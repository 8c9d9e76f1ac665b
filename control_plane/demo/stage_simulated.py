"""Known truth: SIMULATED clicks on real contexts, so that what should happen to each candidate is known beforehand."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from control_plane.demo.checks import Checks
from control_plane.demo.click_model import ClickModel
from control_plane.demo.contexts import Contexts
from control_plane.demo.control_client import Json
from control_plane.demo.narrator import Narrator
from control_plane.demo.traffic import hourly_shape, simulated_clicks, simulated_requests
from control_plane.demo.world import World, items

WINDOW_HOURS = 6  # the plan's check_every
BATCH_HOURS = 3
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
DAILY = 35_000  # simulated impressions of one surface a day
MAX_DAYS = 24  # a sound release that takes longer did not go as expected
FINISHED = ("done", "rolled_back")

SOUND_DONE = "sound_candidate_reached_100_everywhere"
SOUND_ORDER = "related_pins_started_after_home_feed_and_search"
CALIBRATOR_ROLLED_BACK = "broken_calibrator_rolled_back_on_search"
CALIBRATOR_ONLY = "only_that_calibrator_quarantined"
CALIBRATOR_ELSEWHERE = "same_checkpoint_advanced_elsewhere"
TRUNK_QUARANTINED = "broken_trunk_quarantined"
TRUNK_ONE_STEP = "broken_trunk_left_all_surfaces_in_one_step"
HISTORY_HOLDS = "history_hash_chain_holds"
EXPECTED = {
    SOUND_DONE: "SIMULATED: the sound candidate reached 100 % on every surface",
    SOUND_ORDER: "SIMULATED: related_pins waited for home_feed and search",
    CALIBRATOR_ROLLED_BACK: "SIMULATED: the broken calibrator was rolled back on search",
    CALIBRATOR_ONLY: "SIMULATED: that calibrator was quarantined, and nothing else",
    CALIBRATOR_ELSEWHERE: "SIMULATED: the same checkpoint went on elsewhere",
    TRUNK_QUARANTINED: "SIMULATED: the broken trunk was quarantined",
    TRUNK_ONE_STEP: "SIMULATED: it left all surfaces in one step",
    HISTORY_HOLDS: "the history's chain of hashes holds",
}
EDGES: Sequence[Mapping[str, object]] = (
    {"upstream": "home_feed", "downstream": "related_pins", "share": "25%", "held": "24h"},
    {"upstream": "search", "downstream": "related_pins", "share": "25%", "held": "24h"},
)


@dataclass(kw_only=True)
class Simulation:
    """Everything the three simulated releases share."""

    world: World
    narrator: Narrator
    checks: Checks
    contexts_of: Mapping[str, Contexts]
    truth: ClickModel
    plan_yaml: str
    rng: np.random.Generator
    daily: int = DAILY

    def sound(self, candidates: Mapping[str, str]) -> Json:
        """A candidate as good as stable travels over three surfaces, along the surface graph."""
        rollouts = self.world.control.create_release(candidates, self.plan_yaml, EDGES)
        days = self._play("a sound candidate, SIMULATED clicks", rollouts, until=_all_finished, max_days=MAX_DAYS)
        found = self._read(rollouts)
        served = {surface: self.world.control.surface(surface)["stable"] for surface in rollouts}
        is_done = all(rollout["phase"] == "done" for rollout in found.values()) and served == dict(candidates)
        self.checks.record(SOUND_DONE, is_done, ", ".join(f"{name}: {r['phase']}" for name, r in found.items()))
        starts = {surface: rollout["started_at"] or "" for surface, rollout in found.items()}
        upstream = max(starts["home_feed"], starts["search"])
        order = ", ".join(f"{surface}: {start or 'never'}" for surface, start in starts.items())
        self.checks.record(SOUND_ORDER, bool(upstream) and starts["related_pins"] > upstream, order)
        self._withdraw(rollouts, found, "did not finish in time")
        return {"event_days": days}

    def broken_calibrator(self, candidates: Mapping[str, str]) -> Json:
        """One surface's calibrator lies; the other surfaces carry the same checkpoint and must not pay for it."""
        rollouts = self.world.control.create_release(candidates, self.plan_yaml)
        days = self._play(
            "a calibrator broken on search, SIMULATED clicks", rollouts, until=_search_judged_others_on, max_days=6
        )
        found = self._read(rollouts)
        search = found.pop("search")
        self.checks.record(CALIBRATOR_ROLLED_BACK, search["phase"] == "rolled_back", _reason(search))
        calibrator = self._parts(candidates["search"])["calibrator"]
        quarantined = self._quarantined()
        detail = ", ".join(sorted(digest[:19] for digest in quarantined)) or "nothing is quarantined"
        self.checks.record(CALIBRATOR_ONLY, quarantined == {calibrator}, detail)
        went_on = all(rollout["step"] >= 0 and rollout["phase"] != "rolled_back" for rollout in found.values())
        self.checks.record(
            CALIBRATOR_ELSEWHERE,
            went_on,
            ", ".join(_where(name, rollout) for name, rollout in found.items()),
        )
        self._withdraw(rollouts, found, "withdrawn until search has a calibrator that fits")
        return {"event_days": days, "reason": _reason(search)}

    def broken_trunk(self, candidates: Mapping[str, str]) -> Json:
        """The part that all surfaces share is broken: whichever surface notices first, all of them drop it."""
        rollouts = self.world.control.create_release(candidates, self.plan_yaml)
        days = self._play("a broken trunk, SIMULATED clicks", rollouts, until=_all_finished, max_days=3)
        found = self._read(rollouts)
        trunks = {self._parts(version)["trunk"] for version in candidates.values()}
        is_quarantined = trunks <= self._quarantined()
        self.checks.record(TRUNK_QUARANTINED, is_quarantined, ", ".join(sorted(trunk[:19] for trunk in trunks)))
        changes = {surface: self._last_change(surface) for surface in rollouts}
        self._withdraw(rollouts, found, "did not finish in time")
        gone = all(rollout["phase"] == "rolled_back" for rollout in found.values())
        left_at = sorted({change["at"] for change in changes.values()})
        self.checks.record(TRUNK_ONE_STEP, gone and len(left_at) == 1, f"all left at {', '.join(left_at)}")
        return {"event_days": days, "reasons": {surface: change["reason"] for surface, change in changes.items()}}

    def check_history(self) -> None:
        answer = self.world.control.get("/v1/history/verification")
        self.checks.record(HISTORY_HOLDS, answer["holds"], "; ".join(answer["problems"]) or "every change is linked")

    def _play(
        self, what: str, rollouts: Mapping[str, int], *, until: Callable[[Mapping[str, Json]], bool], max_days: int
    ) -> float:
        """Play windows of traffic until the rollouts are where the story wants them; returns days of event time."""
        world = self.world
        began_ms = world.time.now_ms
        world.control.wait_for_tick(began_ms)
        world.follow()
        found = self._read(rollouts)
        with self.narrator.progress(what, None) as bar:
            while not until(found) and world.time.now_ms < began_ms + max_days * DAY_MS:
                self._window([surface for surface, rollout in found.items() if _needs_traffic(rollout)])
                before, found = found, self._read(rollouts)
                day = (world.time.now_ms - began_ms) / DAY_MS
                self._tell_changes(day, before, found)
                bar.advance(note=f"day {day:.2f}")
        return (world.time.now_ms - began_ms) / DAY_MS

    def _window(self, surfaces: Sequence[str]) -> None:
        begins_ms = self.world.time.now_ms
        ends_ms = begins_ms + WINDOW_HOURS * HOUR_MS
        self.world.begin_window(ends_ms)
        for hour in range(0, WINDOW_HOURS, BATCH_HOURS):
            for surface in surfaces:
                self._batch(self.contexts_of[surface], begins_ms + hour * HOUR_MS)
        self.world.end_window(ends_ms)

    def _batch(self, contexts: Contexts, begins_ms: int) -> None:
        hours = (np.arange(BATCH_HOURS) + begins_ms // HOUR_MS) % 24
        size = round(self.daily * float(hourly_shape(contexts)[hours].sum()))
        served_at_ms = begins_ms + BATCH_HOURS * HOUR_MS // 2
        requests = simulated_requests(contexts, size, served_at_ms=served_at_ms, rng=self.rng)
        shown = self.world.play(requests)
        clicked_U: NDArray[np.bool_] = simulated_clicks(self.truth, requests, shown.shown_row_U, self.rng)
        self.world.click(requests, shown, clicked_U)

    def _read(self, rollouts: Mapping[str, int]) -> dict[str, Json]:
        return {surface: self.world.control.rollout(rollout_id) for surface, rollout_id in rollouts.items()}

    def _tell_changes(self, day: float, before: Mapping[str, Json], after: Mapping[str, Json]) -> None:
        for surface, rollout in after.items():
            if (rollout["phase"], rollout["step"]) != (before[surface]["phase"], before[surface]["step"]):
                reason = str(self._last_change(surface)["reason"])
                self.narrator.event(f"day {day:5.2f}", _where(surface, rollout), reason)

    def _withdraw(self, rollouts: Mapping[str, int], found: Mapping[str, Json], reason: str) -> None:
        """End by hand what is still under way, so that the next chapter finds the surfaces free."""
        for surface, rollout in found.items():
            if rollout["phase"] not in FINISHED:
                self.world.control.command(rollouts[surface], "abort", reason)
        self.world.follow()

    def _last_change(self, surface: str) -> Json:
        """The surface's latest line of history."""
        return items(self.world.control.get("/v1/history", surface=surface, limit=1))[0]

    def _quarantined(self) -> set[str]:
        return {entry["digest"] for entry in items(self.world.control.get("/v1/quarantine"))}

    def _parts(self, version_id: str) -> Json:
        found: Json = self.world.control.get(f"/v1/versions/{version_id}")["parts"]
        return found


def _needs_traffic(rollout: Json) -> bool:
    return rollout["phase"] != "pending" and rollout["phase"] not in FINISHED


def _all_finished(found: Mapping[str, Json]) -> bool:
    return all(rollout["phase"] in FINISHED for rollout in found.values())


def _search_judged_others_on(found: Mapping[str, Json]) -> bool:
    others = [rollout for surface, rollout in found.items() if surface != "search"]
    return found["search"]["phase"] in FINISHED and all(
        rollout["step"] >= 0 or rollout["phase"] in FINISHED for rollout in others
    )


def _where(surface: str, rollout: Json) -> str:
    if rollout["phase"] in ("ramping", "watching"):
        return f"{surface} {rollout['candidate_bp'] / 100:g} %"
    return f"{surface} {rollout['phase'].replace('_', ' ')}"


def _reason(rollout: Json) -> str:
    return "" if rollout["verdict"] is None else str(rollout["verdict"]["verdict"]["reason"])
