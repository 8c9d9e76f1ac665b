"""`surefoot verdict …` as its reader meets it."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import select

from control_plane.domain.moments import Measure
from control_plane.domain.rollout import Command, Phase
from control_plane.guardrails.replay import MAGIC, pack, unpack
from control_plane.registry import evidence, history, retention, rollouts
from control_plane.registry.evidence import StoredVerdict
from control_plane.registry.tables import VerdictInputsRow
from tests.commands.conftest import Run
from tests.registry.tampering import tampering
from tests.stories.world import Behaviour, World


def stored_in_the_ramp(world: World) -> StoredVerdict:
    """A verdict on a candidate whose users click less."""
    rollout_id = world.roll_out("home_feed", world.candidate("home_feed", behaviour=Behaviour(ctr=0.9)))
    world.live_until(rollout_id, Phase.RAMPING, at_most_days=2)
    world.live(1)
    with world.sessions.reading() as session:
        found = evidence.latest(session, rollout_id)
    assert found is not None
    return found


def tamper(world: World, change: Callable[[bytes], bytes]) -> None:
    with tampering(world.sessions) as session:
        for row in session.scalars(select(VerdictInputsRow)):
            row.content = change(row.content)


def with_fewer_clicks(packed: bytes) -> bytes:
    inputs = unpack(packed)
    inputs.moments.counts_MGSAK[Measure.CLICK] //= 2
    return pack(inputs.plan, inputs.stage, inputs.moments, inputs.health, inputs.readings)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda packed: packed[:-20], "cannot be judged again: inputs: are damaged"),
        (lambda packed: b"", "must begin with"),
        (lambda packed: MAGIC + b"nonsense", "are damaged"),
        (with_fewer_clicks, "came out differently"),
    ],
    ids=["cut short", "empty", "nonsense", "fewer clicks"],
)
def test_inputs_that_someone_altered_do_not_replay(
    surefoot: Run, world: World, change: Callable[[bytes], bytes], said: str
) -> None:
    stored = stored_in_the_ramp(world)
    assert surefoot("verdict", "replay", stored.verdict_id).exit_code == 0
    tamper(world, change)

    replayed = surefoot("verdict", "replay", stored.verdict_id)

    assert replayed.exit_code == 1
    assert said in replayed.output
    assert "Traceback" not in replayed.output


def test_an_explanation_says_all_that_the_verdict_rests_on(surefoot: Run, world: World) -> None:
    stored = stored_in_the_ramp(world)
    verdict = stored.verdict
    ctr = next(found for found in verdict.findings if (found.metric, found.segment) == ("ctr", "*"))

    told = surefoot("verdict", "explain", stored.verdict_id).output

    for part in (
        f"verdict {stored.verdict_id} on home_feed, rollout {stored.rollout_id}: candidate ",
        verdict.reason,
        f"(rule: {verdict.rule})",
        "compared: candidate with stable, users served from 2026-03-02",
        "candidate's users with stable's, within each day and split",
        f"{verdict.users_candidate} candidate, {verdict.users_stable} stable",
        f"matured: {ctr.impressions_candidate} candidate and {ctr.impressions_stable} stable impressions with",
        "(interval ",
        "margins: harm beyond 3 %",
        "missing: ",
        "evidence for harm",
        "evidence for a wrong split",
    ):
        assert part in told, part


def test_a_verdict_that_is_not_there_is_a_plain_sentence(surefoot: Run) -> None:
    for command in ("explain", "replay"):
        told = surefoot("verdict", command, 99)

        assert told.exit_code == 1
        assert "no verdict '99'" in told.output


def test_a_verdict_whose_inputs_were_pruned_says_so_and_explains_itself_still(surefoot: Run, world: World) -> None:
    rollout_id = stored_in_the_ramp(world).rollout_id
    with world.sessions.writing() as session:
        rollouts.apply_command(session, rollout_id, Command.ROLL_BACK, by="ann", now=world.now)
        moved = {entry.verdict_id for entry in history.list_history(session)}
        looks = [verdict.verdict_id for verdict in evidence.list_verdicts(session, rollout_id)][1:]
    looked_only = next(verdict_id for verdict_id in looks if verdict_id not in moved)
    later = world.now + timedelta(days=100)
    retention.prune(world.sessions, keep=timedelta(days=90), by="ann", now=later, wall_now=later)

    replayed = surefoot("verdict", "replay", looked_only)
    explained = surefoot("verdict", "explain", looked_only)

    assert replayed.exit_code == 1
    assert f"the inputs of verdict {looked_only} were pruned on {later:%Y-%m-%d}" in replayed.stderr
    assert explained.exit_code == 0, explained.output
