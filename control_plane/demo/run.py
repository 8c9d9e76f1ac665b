"""`surefoot demo`: starts the story, concludes it, and ends every process it started, however it ends."""

import json
import signal
import time
from pathlib import Path
from types import FrameType

import httpx

from control_plane.demo import services, stage_real, stage_simulated
from control_plane.demo.checks import Checks
from control_plane.demo.folder import fresh_folder
from control_plane.demo.narrator import Narrator
from control_plane.demo.processes import Processes
from control_plane.demo.services import Addresses
from control_plane.demo.story import Story
from control_plane.domain.errors import ControlPlaneError

INTERRUPTED = 130  # what shells expect after Ctrl-C
WATCH_SECONDS = 1.0


def main(*, exits: bool, data_dir: Path, seed: int, port: int | None = None, runtime_port: int | None = None) -> int:
    """Tell the story; 0 if every expected outcome happened. With `exits` it ends by itself, else on Ctrl-C."""
    narrator = Narrator()
    checks = Checks(expected=(*stage_real.EXPECTED, *stage_simulated.EXPECTED))
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
        _conclude(narrator, checks, addresses)
        if not exits:
            _leave_open(narrator, processes, addresses)


def _conclude(narrator: Narrator, checks: Checks, addresses: Addresses) -> None:
    narrator.say("")
    rows = [
        ("yes" if check.happened else "NO", check.name.replace("_", " "), check.detail) for check in checks.in_order()
    ]
    narrator.table("What was expected, and whether it happened (read over HTTP)", ("", "expected", "found"), list(rows))
    narrator.say(f"{narrator.elapsed_seconds:.0f} s in all")


def _leave_open(narrator: Narrator, processes: Processes, addresses: Addresses) -> None:
    """Keep serving until Ctrl-C."""
    url = addresses.control_plane
    command = f"SUREFOOT_URL={url} .venv/bin/surefoot"
    narrator.panel(
        f"admin page   {url}/\n"
        f"API          {url}/docs\n"
        "stop         Ctrl-C\n"
        "\n"
        "try next\n"
        f"  {command} rollout status 4      a sound candidate's way\n"
        f"  {command} verdict explain 42    what the judge saw, in words\n"
        f"  {command} verdict replay 42     the same verdict again, to the bit\n"
        f"  curl -X POST {url}/v1/surfaces/search/rollback -H 'Content-Type: application/json' -d '{{}}'\n"
        "                                  the button for three in the morning",
        "Left open for you",
    )
    while True:
        _check_services(processes)
        time.sleep(WATCH_SECONDS)


def _check_services(processes: Processes) -> None:
    processes.check_alive("control-plane")
    processes.check_alive("runtime")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
