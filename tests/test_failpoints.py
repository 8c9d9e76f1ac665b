"""What is armed acts when it is reached, what is not armed does nothing, and every name stands in the code."""

import os
import signal
import subprocess
import sys
import time
import timeit
from collections.abc import Iterator
from pathlib import Path

import pytest

from control_plane.failpoints import ENVIRONMENT, POINTS, Injected, arm, reach

ROOT = Path(__file__).parents[1]
REACH_TWICE = (
    "from control_plane.failpoints import reach\nfor _ in range(2): reach('tick.judged'); print('passed', flush=True)"
)


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    arm("")


def test_a_point_that_is_not_armed_does_nothing() -> None:
    arm("tick.judged=raise")

    reach("tick.decided")


def test_an_armed_point_raises() -> None:
    arm("tick.judged=raise")

    with pytest.raises(Injected, match=r"failpoint tick\.judged"):
        reach("tick.judged")


def test_a_counted_point_acts_the_nth_time_alone() -> None:
    arm("tick.judged=raise@2")

    reach("tick.judged")
    with pytest.raises(Injected):
        reach("tick.judged")
    reach("tick.judged")


def test_who_armed_a_point_is_told_before_it_acts() -> None:
    told: list[str] = []
    arm("tick.judged=raise@2, tick.decided=raise", on_acting=told.append)

    reach("tick.judged")
    with pytest.raises(Injected):
        reach("tick.judged")

    assert told == ["tick.judged"]


def test_a_point_can_pause() -> None:
    arm("lease.renewed=pause:0.05")
    began = time.monotonic()

    reach("lease.renewed")

    assert time.monotonic() - began >= 0.05


def test_a_process_is_armed_by_its_environment_and_killed_where_it_says() -> None:
    done = a_process("tick.judged=kill@2")
    said, _ = done.communicate(timeout=30)

    assert said.split() == ["passed"]
    assert done.returncode == -signal.SIGKILL


def test_a_process_can_stop_itself_and_goes_on_when_it_is_let() -> None:
    process = a_process("tick.judged=stop@2")
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)

    os.kill(process.pid, signal.SIGCONT)
    said, _ = process.communicate(timeout=30)

    assert said.split() == ["passed", "passed"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("tick.jugded=kill", "no point 'tick.jugded'"),
        ("tick.judged=explode", "takes kill, stop, pause:SECONDS or raise, not 'explode'"),
        ("tick.judged", "takes kill, stop"),
        ("tick.judged=pause", "could not convert"),
    ],
)
def test_what_cannot_be_read_is_told(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        arm(text)


def test_every_name_is_placed_in_the_code_once_or_more_and_no_other_is() -> None:
    sources = [*(ROOT / "control_plane").rglob("*.py"), *(ROOT / "model_runtime").rglob("*.py")]
    code = "".join(path.read_text() for path in sources if path.name != "failpoints.py")
    placed = {part.split('"')[1] for part in code.split("failpoints.reach(")[1:]}

    assert placed == POINTS


def test_an_unarmed_point_costs_less_than_a_microsecond() -> None:
    assert min(timeit.repeat(lambda: reach("tick.judged"), number=10_000, repeat=20)) < 0.01


def a_process(armed: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", REACH_TWICE],
        env={**os.environ, ENVIRONMENT: armed},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
