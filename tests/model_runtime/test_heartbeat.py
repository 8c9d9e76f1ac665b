import httpx
import pytest

from model_runtime.control_link import Unreachable
from model_runtime.heartbeat import Heartbeat
from tests.model_runtime.conftest import NOWHERE, eventually


def test_beats_arrive_with_what_is_new(control_plane: str) -> None:
    report: dict[str, object] = {"splits_mode": "poll"}
    heartbeat = Heartbeat(control_plane, "one", lambda: report, seconds=0.02)
    heartbeat.start()
    eventually(lambda: mode_of(control_plane, "one") == "poll")

    report["splits_mode"] = "stream"

    eventually(lambda: mode_of(control_plane, "one") == "stream")
    heartbeat.stop()


def test_news_does_not_wait_for_the_next_beat(control_plane: str) -> None:
    report: dict[str, object] = {"splits_mode": "poll"}
    heartbeat = Heartbeat(control_plane, "one", lambda: report, seconds=300.0)
    heartbeat.start()
    eventually(lambda: mode_of(control_plane, "one") == "poll")

    report["splits_mode"] = "stream"
    heartbeat.hurry()

    eventually(lambda: mode_of(control_plane, "one") == "stream")
    heartbeat.stop()


def test_a_beat_that_is_refused_is_told(control_plane: str) -> None:
    heartbeat = Heartbeat(control_plane, "one", lambda: {"moods": "good"})

    with pytest.raises(Unreachable, match="moods"):
        heartbeat.beat()
    heartbeat.stop()


def test_without_a_control_plane_it_goes_on_trying_until_it_is_stopped() -> None:
    tries: list[bool] = []

    def report() -> dict[str, object]:
        tries.append(True)
        return {}

    heartbeat = Heartbeat(NOWHERE, "one", report, seconds=0.01)
    heartbeat.start()

    eventually(lambda: len(tries) > 2)
    heartbeat.stop()


def mode_of(control_plane: str, runtime_id: str) -> str | None:
    runtimes = httpx.get(f"{control_plane}/v1/runtimes").json()["runtimes"]
    modes = {each["runtime_id"]: each["splits_mode"] for each in runtimes}
    return modes.get(runtime_id)
