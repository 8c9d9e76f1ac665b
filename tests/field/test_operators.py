"""What people asked for: to stop the line, to be allowed only what they should, and to see where things stand."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from httpx import Client, Response

from control_plane.app import create_app
from control_plane.domain.rollout import Command, Phase, RolloutId
from control_plane.domain.verdict import Answer
from control_plane.providers.sources import make_sources
from control_plane.registry import evidence, rollouts
from control_plane.scheduler.tick import tick
from control_plane.settings import Settings
from tests.builders import a_plan
from tests.http_client import in_process
from tests.providers.servers import answers_vector, serving
from tests.stories.world import HOUR, LOOK, STORY_PLAN, Behaviour, World

TOKENS = {name: f"t0ken-of-{name}" for name in ("ann", "bob", "carol", "eve")}
STEPS = [{"share": "10%", "approvals": 1, "approval_group": "leads"}, {"share": "100%"}]
ERRORS = {"name": "errors", "source": "prod", "query": "errors", "at_most": 10}


@pytest.fixture
def client(world: World, tmp_path: Path) -> Iterator[Client]:
    settings = Settings(
        data_dir=tmp_path,
        runs_scheduler=False,
        runtime_silent_seconds=1e9,
        groups="oncall=ann;leads=carol",
        tokens=",".join(f"{name}={token}" for name, token in TOKENS.items()),
    )
    with in_process(create_app(settings, lambda: world.now)) as client:
        yield client


def ramping(world: World, **plan: Any) -> RolloutId:
    """At its first step, by ann's hand."""
    wanted = a_plan(**{**STORY_PLAN, **plan})
    rollout_id = world.roll_out("home_feed", world.candidate("home_feed"), wanted)
    with world.sessions.writing() as session:
        for command in (Command.START, Command.SKIP, Command.SKIP):
            rollouts.apply_command(session, rollout_id, command, by="ann", now=world.now, reason="a test")
    world.heartbeat()
    return rollout_id


def order(client: Client, rollout_id: RolloutId, command: str, *, by: str, reason: str = "") -> Response:
    headers = {"Authorization": f"Bearer {TOKENS[by]}"}
    body = {"command": command, "reason": reason}
    return client.post(f"/v1/rollouts/{rollout_id}/commands", json=body, headers=headers)


def freeze(client: Client, **body: Any) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {TOKENS['carol']}"}
    answer = client.post("/v1/freezes", json={"reason": "holidays", **body}, headers=headers)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_argo_495_a_freeze_says_why_and_until_when_and_lets_a_hotfix_through(world: World, client: Client) -> None:
    rollout_id = ramping(world)
    freeze(client, owner="release team", bypass_group="oncall", duration="8h")

    refusals = [
        order(client, rollout_id, "skip", by="bob", reason="hotfix"),  # not on call
        order(client, rollout_id, "skip", by="eve", reason="hotfix"),
    ]
    assert [(answer.status_code, answer.json()["type"]) for answer in refusals] == [(423, "urn:surefoot:frozen")] * 2
    told = refusals[0].json()
    assert (told["owner"], told["reason"], told["until"]) == ("release team", "holidays", "2026-03-02T08:00:00Z")
    assert told["bypass_group"] == "oncall"

    hotfix = order(client, rollout_id, "skip", by="ann", reason="hotfix for scrambled scores")

    assert (hotfix.status_code, hotfix.json()["candidate_bp"]) == (200, 5_000)
    assert order(client, rollout_id, "roll_back", by="eve").status_code == 200


def test_argo_495_what_waits_for_a_freeze_to_end_says_so_and_goes_on_when_it_has(world: World, client: Client) -> None:
    rollout_id = world.roll_out("home_feed", world.candidate("home_feed"))
    world.heartbeat()
    freeze(client, owner="release team", duration="6h")

    world.tick()
    waiting = client.get(f"/v1/rollouts/{rollout_id}").json()
    world.now += 6 * HOUR
    world.heartbeat()
    world.tick()

    assert (waiting["phase"], waiting["until"]) == ("pending", "2026-03-02T06:00:00Z")
    assert waiting["waiting_for"] == "frozen by release team: holidays (freeze 1)"
    assert world.rollout(rollout_id).phase is Phase.WARMING


def test_argo_495_a_freeze_does_not_keep_harm_in_traffic(world: World, client: Client) -> None:
    """The guardrails take the candidate home in the middle of it, by themselves."""
    harmful = world.candidate("home_feed", behaviour=Behaviour(ctr=0.6))
    rollout_id = world.roll_out("home_feed", harmful)
    with world.sessions.writing() as session:
        for command in (Command.START, Command.SKIP, Command.SKIP):
            rollouts.apply_command(session, rollout_id, command, by="ann", now=world.now, reason="a test")
    freeze(client)

    rollout = world.live_until(rollout_id, Phase.ROLLED_BACK, at_most_days=3)

    assert rollout.phase is Phase.ROLLED_BACK
    assert client.get("/v1/freezes/1").json()["stands"] is True


@pytest.mark.parametrize(("role", "kept"), [("hold", True), ("guard", False)])
def test_flagger_1186_a_guardrail_may_freeze_a_rollout_instead_of_rolling_it_back(
    world: World, role: str, kept: bool
) -> None:
    """Its number is twice what it may be for a day: the weight stays where it is, or goes, as the plan says."""
    rollout_id = ramping(world, external=[{**ERRORS, "role": role}])
    with serving(answers_vector("20")) as url:
        sources = make_sources({"prod": f"prometheus+{url}"})
        for _ in range(8):
            world.heartbeat()
            world.serve(9_000)
            world.now += LOOK
            tick(world.sessions, world.log, now=world.now, live_since=world.now - LOOK, epoch=None, sources=sources)

    assert world.surface("home_feed").candidate_bp == (1_000 if kept else 0)
    assert (world.rollout(rollout_id).phase is Phase.ROLLED_BACK) is not kept
    with world.sessions.reading() as session:
        stored = evidence.latest(session, rollout_id)
    assert stored is not None
    (found,) = [finding for finding in stored.verdict.findings if finding.metric == "external:errors"]
    assert (found.role, found.value, found.answer) == (role, 20, Answer.HARM)


def test_argo_3115_and_mlflow_24742_rights_are_by_action_and_by_group(world: World, client: Client) -> None:
    """Anyone with a token takes a candidate back; approving a step is for those whom the plan names."""
    rollout_id = ramping(world, steps=STEPS)
    answers = {name: order(client, rollout_id, "approve", by=name, reason="fine") for name in ("bob", "carol")}

    assert (answers["bob"].status_code, answers["bob"].json()["type"]) == (403, "urn:surefoot:forbidden")
    assert (answers["carol"].status_code, answers["carol"].json()["approvals"]) == (200, ["carol"])
    unsigned = client.post(f"/v1/rollouts/{rollout_id}/commands", json={"command": "roll_back"})
    assert unsigned.status_code == 401
    assert order(client, rollout_id, "roll_back", by="eve").status_code == 200


def test_argo_3115_nobody_approves_what_they_made_themselves(world: World, client: Client) -> None:
    rollout_id = ramping(world, steps=[{"share": "10%", "approvals": 1}, {"share": "100%"}])

    answer = order(client, rollout_id, "approve", by="ann", reason="it is mine and it is fine")

    assert (answer.status_code, answer.json()["who"]) == (403, "ann")


def test_mlflow_2169_which_version_was_production_when_is_one_question(world: World, client: Client) -> None:
    first = world.surface("home_feed").stable
    world.now += HOUR
    rollout_id = ramping(world)
    ramped_at = world.now
    world.now += HOUR
    assert order(client, rollout_id, "roll_back", by="eve", reason="clicks fell").status_code == 200
    world.now += HOUR

    def served(at: str) -> dict[str, Any]:
        answer = client.get("/v1/surfaces/home_feed/served", params={"at": at})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    before, during, after = (served((ramped_at + timedelta(minutes=minutes)).isoformat()) for minutes in (-30, 30, 90))
    candidate = world.rollout(rollout_id).candidate
    assert [found["stable"] for found in (before, during, after)] == [first] * 3
    assert [(found["candidate"], found["weight_bp"]) for found in (before, during, after)] == [
        (None, 0),
        (candidate, 1_000),
        (None, 0),
    ]
    assert (after["command"], after["by"], after["reason"]) == ("roll_back", "eve", "clicks fell")
    assert served("monday 01:30")["candidate"] == candidate


def test_growthbook_5098_and_4580_where_the_ramp_stands_and_what_comes_next_is_to_be_seen(
    world: World, client: Client
) -> None:
    rollout_id = ramping(world)
    world.live(1)

    shown = client.get(f"/v1/rollouts/{rollout_id}").json()

    assert (shown["candidate_bp"], shown["acknowledged_bp"], shown["next_share_bp"]) == (1_000, 1_000, 5_000)
    assert (shown["phase"], shown["step"]) == ("ramping", 0)
    assert shown["waiting_for"]
    assert [step["share"] for step in shown["plan"]["steps"]] == ["1000bp", "5000bp", "10000bp"]


def test_growthbook_5098_the_time_left_in_a_step_is_told(world: World, client: Client) -> None:
    """Enough evidence for the step, and half of its bake to go."""
    rollout_id = ramping(world)
    for _ in range(4):
        world.live(1)
        shown = client.get(f"/v1/rollouts/{rollout_id}").json()
        if shown["until"] is not None:
            break

    assert shown["until"] is not None
    assert shown["until"] > world.now.isoformat()


def test_argo_1323_who_did_what_is_written_down_and_nobody_acts_unnamed(world: World, client: Client) -> None:
    rollout_id = ramping(world)
    unsigned = client.post(f"/v1/rollouts/{rollout_id}/commands", json={"command": "hold"})
    signed = order(client, rollout_id, "hold", by="bob", reason="let me look")

    (last, *_) = client.get("/v1/history", params={"surface": "home_feed"}).json()["history"]
    assert (unsigned.status_code, signed.status_code) == (401, 200)
    assert (last["command"], last["by"], last["reason"]) == ("hold", "bob", "let me look")
