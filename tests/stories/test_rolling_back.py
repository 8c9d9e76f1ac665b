"""A candidate holds half of the users, something is broken or forbidden, and one call takes it home all the same."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from control_plane.domain.rollout import Command, Phase, RolloutId
from control_plane.registry import history, rollouts
from control_plane.registry.history import Entry
from tests.builders import HOME_FEED, a_plan
from tests.model_runtime.artifacts import export_all
from tests.model_runtime.conftest import free_port, set_up_home_feed
from tests.stories.cut_line import CutLine
from tests.stories.test_kill import wait_until_up
from tests.stories.test_takeover import House, eventually
from tests.stories.test_takeover import house as house
from tests.stories.test_unwatched import PLAN, Traffic, control_plane, is_ready, running, scoring_runtime
from tests.stories.world import STORY_PLAN

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

HALF = a_plan(**{**STORY_PLAN, "check_every": "1s", "steps": [{"share": "50%"}, {"share": "100%"}]})
CALL_SECONDS = 5.0  # one call, on a machine that is busy with other things
FALLBACK_SECONDS = 10.0  # a runtime that hears nothing asks by itself


@dataclass(kw_only=True)
class Afloat:
    """What is up around a candidate at 50 %, and the URL of a replica that will stay."""

    house: House
    url: str
    rollout_id: RolloutId
    scheduler: subprocess.Popen[bytes]
    others: list[subprocess.Popen[bytes]] = field(default_factory=list)


Trouble = Callable[[Afloat], None]
Button = Callable[[Afloat], None]


def a_freeze(afloat: Afloat) -> None:
    """Nothing grows on any surface; not even a person's skip with a reason."""
    freeze = {"reason": "holidays", "owner": "release team"}
    httpx.post(f"{afloat.url}/v1/freezes", json=freeze, timeout=30).raise_for_status()
    here = f"{afloat.url}/v1/rollouts/{afloat.rollout_id}"
    refused = httpx.post(f"{here}/commands", json={"command": "skip", "reason": "I must"}, timeout=30)
    assert (refused.status_code, refused.json()["type"]) == (423, "urn:surefoot:frozen"), refused.text
    assert "frozen until it is lifted by release team: holidays" in refused.json()["detail"]


def a_dead_scheduler(afloat: Afloat) -> None:
    afloat.scheduler.kill()
    afloat.scheduler.wait()


def a_stopped_scheduler(afloat: Afloat) -> None:
    """Not dead, which is worse: it holds its lease."""
    afloat.house.pause(afloat.scheduler)


def one_replica_left(afloat: Afloat) -> None:
    for process in afloat.others:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()


def all_of_it(afloat: Afloat) -> None:
    for trouble in (a_freeze, a_dead_scheduler, one_replica_left):
        trouble(afloat)


def the_api(afloat: Afloat) -> None:
    body = {"command": "roll_back", "reason": "pager"}
    answer = httpx.post(f"{afloat.url}/v1/rollouts/{afloat.rollout_id}/commands", json=body, timeout=30)
    assert (answer.status_code, answer.json()["phase"]) == (200, "rolled_back"), answer.text


def the_surfaces_button(afloat: Afloat) -> None:
    answer = httpx.post(f"{afloat.url}/v1/surfaces/home_feed/rollback", json={"reason": "pager"}, timeout=30)
    assert (answer.status_code, answer.json()["candidate"]) == (200, None), answer.text


def the_command_line(afloat: Afloat) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "control_plane", "rollout", "rollback", str(afloat.rollout_id), "--reason", "pager"],
        env={**os.environ, "SUREFOOT_URL": afloat.url, "SUREFOOT_OPERATOR": "ann", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "rolled_back at 0 %" in done.stdout) == (0, True), done.stdout + done.stderr


def on_postgres(*case: Trouble | Button) -> object:
    return pytest.param("postgresql", *case, marks=pytest.mark.postgres)


@pytest.mark.parametrize(
    ("house", "trouble", "button"),
    [
        ("sqlite", a_freeze, the_api),
        on_postgres(a_freeze, the_command_line),
        ("sqlite", a_dead_scheduler, the_command_line),
        on_postgres(a_stopped_scheduler, the_surfaces_button),
        ("sqlite", one_replica_left, the_surfaces_button),
        on_postgres(one_replica_left, the_api),
        on_postgres(all_of_it, the_command_line),
    ],
    indirect=["house"],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_one_call_rolls_back_whatever_is_broken_or_forbidden(house: House, trouble: Trouble, button: Button) -> None:
    with afloat_at_half(house) as afloat:
        trouble(afloat)
        began = time.monotonic()

        button(afloat)

        took_s = time.monotonic() - began
        (split,) = httpx.get(f"{afloat.url}/v1/splits", timeout=30).json()["splits"]
        assert (split["candidate"], list(split["weights_bp"].values())) == (None, [10_000])
        again = len(changes_of(house))
        button(afloat)
        assert len(changes_of(house)) == again, "twice is the same as once"
    assert house.world.rollout(afloat.rollout_id).phase is Phase.ROLLED_BACK
    assert changes_of(house)[0].command == "roll_back"
    assert changes_of(house)[0].reason == "pager"
    assert took_s <= CALL_SECONDS or button is the_command_line, "what a Python takes to start is not ours to bound"
    house.assert_whole()


@contextmanager
def afloat_at_half(house: House) -> Iterator[Afloat]:
    """Two replicas and a scheduler that ticks, and a candidate that a person took to 50 %."""
    rollout_id = house.world.roll_out("home_feed", house.world.candidate("home_feed"), HALF)
    with house.world.sessions.writing() as session:
        for command in (Command.START, Command.SKIP, Command.SKIP):
            rollouts.apply_command(session, rollout_id, command, by="ann", now=house.world.now, reason="a test")
    house.world.heartbeat()
    house.set_clock()
    assert house.world.surface("home_feed").candidate_bp == 5_000
    with ExitStack() as stack:
        scheduler = stack.enter_context(house.scheduler())
        other, _ = stack.enter_context(house.replica())
        _, url = stack.enter_context(house.replica())
        eventually(lambda: house.held_by(scheduler))
        yield Afloat(house=house, url=url, rollout_id=rollout_id, scheduler=scheduler, others=[other])


def changes_of(house: House) -> list[Entry]:
    """The latest first."""
    with house.world.sessions.reading() as session:
        return history.list_history(session, HOME_FEED, limit=100)


def test_with_push_cut_a_runtime_follows_a_roll_back_within_ten_seconds(tmp_path: Path) -> None:
    """Its stream is cut and cannot be had again; what it asks for itself still comes through."""
    artifacts = export_all(tmp_path / "artifacts")
    port = free_port()
    control = f"http://127.0.0.1:{port}"
    with running(*control_plane(tmp_path, port)), CutLine.to(port) as line:
        wait_until_up(control)
        set_up_home_feed(control, artifacts)
        with running(*scoring_runtime(tmp_path, line.url, runtime_port := free_port())):
            runtime = f"http://127.0.0.1:{runtime_port}"
            eventually(lambda: is_ready(runtime))
            rollout_id = at_half(control, artifacts.candidate.version_id)
            with Traffic(runtime).flowing() as traffic:
                eventually(lambda: bool(traffic.answers) and bool(traffic.latest.arm_U.any()))
                eventually(lambda: splits_mode(control) == "stream")
                line.cut_push()
                eventually(lambda: splits_mode(control) == "poll")
                assert traffic.latest.arm_U.any(), "a stream that is cut alone moves nobody"

                body = {"command": "roll_back", "reason": "pager"}
                here = f"{control}/v1/rollouts/{rollout_id}/commands"
                httpx.post(here, json=body, timeout=30).raise_for_status()
                followed_s = eventually(lambda: not traffic.latest.arm_U.any())

    assert followed_s <= FALLBACK_SECONDS
    assert line.num_refused > 0, "the runtime did try to have its stream again"


def at_half(control: str, candidate: str) -> int:
    plan = {**PLAN, "unwatched": "10m", "hard_stops": {"idle_intervals": 400}}
    with httpx.Client(base_url=control, timeout=30) as http:
        body = {"surface": "home_feed", "candidate": candidate, "plan": plan}
        here = f"/v1/rollouts/{http.post('/v1/rollouts', json=body).raise_for_status().json()['rollout_id']}"
        eventually(lambda: http.get(here).json()["phase"] == "shadow")
        skip = {"command": "skip", "reason": "to see it in the ramp"}
        made = http.post(f"{here}/commands", json=skip).raise_for_status().json()
        assert made["candidate_bp"] == 5_000
        return int(made["rollout_id"])


def splits_mode(control: str) -> str:
    found = httpx.get(f"{control}/v1/runtimes", timeout=30).json()["runtimes"]
    return str(found[0]["splits_mode"]) if found else ""
