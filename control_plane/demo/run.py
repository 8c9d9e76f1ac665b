"""`surefoot demo`: starts the story, concludes it, and ends every process it started, however it ends."""

import json
import signal
import time
from pathlib import Path
from types import FrameType

import httpx

from control_plane.demo import services, stage_real, stage_simulated
from control_plane.demo.checks import Checks
from control_plane.demo.control_client import ControlClient
from control_plane.demo.folder import fresh_folder
from control_plane.demo.narrator import Narrator
from control_plane.demo.processes import Processes
from control_plane.demo.story import Story
from control_plane.demo.world import items
from control_plane.domain.errors import ControlPlaneError

INTERRUPTED = 130  # what shells expect after Ctrl-C
WATCH_SECONDS = 1.0
SUREFOOT = ".venv/bin/surefoot"
PLAN = "control_plane/demo/plans/simulated.yaml"
EXPECTED = {**stage_real.EXPECTED, **stage_simulated.EXPECTED}  # outcome -> in words


def main(*, exits: bool, data_dir: Path, seed: int, port: int | None = None, runtime_port: int | None = None) -> int:
    """Tell the story; 0 if every expected outcome happened. With `exits` it ends by itself, else on Ctrl-C."""
    narrator = Narrator()
    checks = Checks(expected=tuple(EXPECTED))
    figures: dict[str, object] = {}
    previous = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _run(narrator, checks, figures, exits=exits, data_dir=data_dir, seed=seed, ports=(port, runtime_port))
    except KeyboardInterrupt:
        narrator.say("\nStopped; every process of the demo has ended.")
        if not checks.is_complete:
            return INTERRUPTED
    except (ControlPlaneError, httpx.HTTPError) as error:
        narrator.error(str(error))
        figures["error"] = str(error).splitlines()[0]
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    print(summary(narrator, checks, figures), flush=True)
    return 0 if checks.all_happened else 1


def summary(narrator: Narrator, checks: Checks, figures: dict[str, object]) -> str:
    """The last line: one JSON object."""
    return json.dumps(
        {
            "demo": "surefoot",
            "ok": checks.all_happened,
            "outcomes": checks.to_json(),
            "seconds": {**narrator.seconds, "total": round(narrator.elapsed_seconds, 1)},
            "figures": figures,
        }
    )


def _run(
    narrator: Narrator,
    checks: Checks,
    figures: dict[str, object],
    *,
    exits: bool,
    data_dir: Path,
    seed: int,
    ports: tuple[int | None, int | None],
) -> None:
    folder = fresh_folder(data_dir)
    addresses = services.choose_addresses(narrator, *ports)
    with Processes(folder / "logs") as processes:
        story = Story(
            narrator=narrator,
            processes=processes,
            folder=folder,
            seed=seed,
            checks=checks,
            addresses=addresses,
            figures=figures,
        )
        try:
            story.tell()
        except httpx.TransportError:
            _check_services(processes)  # the end of a log says more than a broken connection
            raise
        _conclude(narrator, checks)
        if not exits:
            _leave_open(story)


def _conclude(narrator: Narrator, checks: Checks) -> None:
    narrator.say("")
    rows = [("yes" if check.happened else "NO", EXPECTED[check.name], check.detail) for check in checks.in_order()]
    narrator.table("What was expected, and whether it happened", ("", "expected", "found"), list(rows))
    narrator.say(f"{narrator.elapsed_seconds:.0f} s in all")


def _leave_open(story: Story) -> None:
    """Keep serving until Ctrl-C."""
    url = story.addresses.control_plane
    story.narrator.panel(f"admin page   {url}/\nAPI          {url}/docs\nstop         Ctrl-C", "Left open for you")
    story.narrator.lines("Try next, in a second terminal, from this folder:", _try_next(url))
    while True:
        _check_services(story.processes)
        time.sleep(WATCH_SECONDS)


def _try_next(url: str) -> list[str]:
    """Commands to copy, each with what it shows; the last two move something, so that there is a button to press."""
    control = ControlClient(url)
    state = control.surface("home_feed")
    rollouts = items(control.get("/v1/rollouts", surface="home_feed"))
    sound = next((rollout for rollout in rollouts if rollout["candidate"] == state["stable"]), rollouts[-1])
    rollout_id = sound["rollout_id"]
    verdict_id = control.rollout(rollout_id)["verdict"]["verdict_id"]
    return [
        *([] if url.endswith(f":{services.DEFAULT_PORT}") else [f"export SUREFOOT_URL={url}"]),
        "# the sound candidate: its way, its last verdict, and that one judged again",
        f"{SUREFOOT} rollout status {rollout_id}",
        f"{SUREFOOT} verdict explain {verdict_id}",
        f"{SUREFOOT} verdict replay {verdict_id}",
        "# start a rollout; then hold it or roll it back, on the admin page or here",
        f"{SUREFOOT} rollout start {PLAN} --surface home_feed --candidate {state['last_proven']}",
        f"{SUREFOOT} surface rollback home_feed --reason 'woken at three'",
    ]


def _check_services(processes: Processes) -> None:
    processes.check_alive("control-plane")
    processes.check_alive("runtime")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
