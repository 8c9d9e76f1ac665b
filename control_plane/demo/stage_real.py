"""Real outcomes: the log replayed in event time, with a second checkpoint in the shadow of the first."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from heapq import merge

import numpy as np
from numpy.typing import NDArray

from control_plane.demo.checks import Checks
from control_plane.demo.contexts import Contexts
from control_plane.demo.control_client import Json
from control_plane.demo.narrator import Narrator
from control_plane.demo.traffic import Requests, real_hours
from control_plane.demo.verdicts import interval, whole_surface
from control_plane.demo.world import World

BEGINS_MS = round(datetime(2019, 11, 24, tzinfo=UTC).timestamp() * 1_000)
WINDOW_MS = 12 * 3_600_000  # the plan's check_every
NUM_WINDOWS = 14  # seven days
REPLAYED = "real_log_replayed"
NOTHING_ADVANCED = "real_clicks_insufficient_nothing_advanced"
EXPECTED = {
    REPLAYED: "every impression and click of the real log was replayed, and judged",
    NOTHING_ADVANCED: "287 real clicks are too few: nothing advanced",
}

Batch = tuple[Requests, NDArray[np.bool_]]


def replay(
    world: World,
    narrator: Narrator,
    checks: Checks,
    contexts_of: Mapping[str, Contexts],
    candidates: Mapping[str, str],
    plan_yaml: str,
) -> Json:
    """Play the week, show what the judge can say of so few clicks, and end the rollouts by hand."""
    rollouts = world.control.create_release(candidates, plan_yaml)
    world.control.wait_for_tick(world.time.now_ms)
    world.follow()
    _play_week(world, narrator, contexts_of)
    found = {surface: world.control.rollout(rollout_id) for surface, rollout_id in rollouts.items()}
    _show(narrator, found)
    _check(world, checks, contexts_of, found)
    for rollout_id in rollouts.values():
        world.control.command(rollout_id, "abort", "the real log ends here; too few clicks to decide")
    world.follow()
    return {surface: _figures(rollout) for surface, rollout in found.items()}


def _play_week(world: World, narrator: Narrator, contexts_of: Mapping[str, Contexts]) -> None:
    hours = in_event_time(contexts_of)
    batch = next(hours, None)
    with narrator.progress("the real week", NUM_WINDOWS) as bar:
        for window in range(1, NUM_WINDOWS + 1):
            ends_at_ms = BEGINS_MS + window * WINDOW_MS
            world.begin_window(ends_at_ms)
            while batch is not None and batch[0].served_at_ms < ends_at_ms:
                requests, clicked_U = batch
                world.click(requests, world.play(requests), clicked_U)
                batch = next(hours, None)
            world.end_window(ends_at_ms)
            bar.advance(note=f"{world.impressions:,} impressions, {world.clicks} clicks".replace(",", " ", 1))
    world.end_window(BEGINS_MS + (NUM_WINDOWS + 1) * WINDOW_MS)  # one more check, when the last hours have matured


def in_event_time(contexts_of: Mapping[str, Contexts]) -> Iterator[Batch]:
    """The hours of all surfaces, the earliest first."""
    return merge(*(real_hours(contexts) for contexts in contexts_of.values()), key=lambda batch: batch[0].served_at_ms)


def _show(narrator: Narrator, found: Mapping[str, Json]) -> None:
    rows: list[tuple[str, ...]] = []
    for surface, rollout in sorted(found.items()):
        verdict = rollout["verdict"]["verdict"]
        calibration, entropy = whole_surface(verdict, "calibration"), whole_surface(verdict, "ne")
        rows.append(
            (
                surface,
                str(_clicks(rollout)),
                interval(calibration),
                interval(entropy, digits=2),
                verdict["rule"],
                rollout["phase"],
            )
        )
    headings = ("surface", "clicks", "calibration", "entropy", "the judge says", "phase")
    narrator.table(
        "Real clicks, 24 to 30 November 2019: the second checkpoint in the shadow of the first", headings, rows
    )
    narrator.say(
        "calibration: how far predicted clicks lie above observed ones. entropy: how much worse (+) than the first "
        "checkpoint it predicts the same impressions. In brackets: 95 % intervals, valid however often they are read."
    )


def _check(world: World, checks: Checks, contexts_of: Mapping[str, Contexts], found: Mapping[str, Json]) -> None:
    logged = sum(contexts.size for contexts in contexts_of.values())
    clicks = sum(int(contexts.clicked_P.sum()) for contexts in contexts_of.values())
    judged = sum(_clicks(rollout) for rollout in found.values())
    whole = world.impressions == logged and world.clicks == judged == clicks
    detail = f"{world.impressions} of {logged} impressions, {world.clicks} of {clicks} clicks, {judged} of them judged"
    checks.record(REPLAYED, whole, detail)
    says = {surface: (rollout["phase"], rollout["verdict"]["verdict"]["rule"]) for surface, rollout in found.items()}
    stands = all(answer == ("shadow", "insufficient") for answer in says.values())
    checks.record(
        NOTHING_ADVANCED,
        stands,
        ", ".join(f"{name}: {rule}, still in {phase}" for name, (phase, rule) in sorted(says.items())),
    )


def _clicks(rollout: Json) -> int:
    """Matured clicks of the whole surface, as the latest verdict counted them."""
    entropy = whole_surface(rollout["verdict"]["verdict"], "ne")
    return 0 if entropy is None else round(entropy["conversions_stable"])


def _figures(rollout: Json) -> Json:
    verdict = rollout["verdict"]["verdict"]
    return {
        "rule": verdict["rule"],
        "calibration": _bounds(whole_surface(verdict, "calibration")),
        "ne_difference": _bounds(whole_surface(verdict, "ne")),
    }


def _bounds(finding: Json | None) -> list[float | None] | None:
    return None if finding is None else [finding["effect"], finding["lower"], finding["upper"]]
