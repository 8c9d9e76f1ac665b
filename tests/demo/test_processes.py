import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from control_plane.demo.processes import PortInUse, Processes, ProcessFailed, choose_port


def that_tells_its_pid(told: Path) -> list[str]:
    return ["-c", f"import os, time; open({str(told)!r}, 'w').write(str(os.getpid())); time.sleep(60)"]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def pid_in(path: Path) -> int:
    while not path.exists() or not path.read_text():
        time.sleep(0.01)
    return int(path.read_text())


def test_leaving_stops_every_child(tmp_path: Path) -> None:
    with Processes(tmp_path / "logs") as processes:
        processes.start("child", that_tells_its_pid(tmp_path / "pid"))
        pid = pid_in(tmp_path / "pid")

    assert not is_running(pid)


def test_an_interrupt_stops_every_child_too(tmp_path: Path) -> None:
    processes = Processes(tmp_path / "logs")
    processes.start("child", that_tells_its_pid(tmp_path / "pid"))
    pid = pid_in(tmp_path / "pid")

    with pytest.raises(KeyboardInterrupt), processes:
        raise KeyboardInterrupt

    assert not is_running(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_a_killed_demo_leaves_no_orphan(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    child = that_tells_its_pid(told)
    demo = (
        "import time; from pathlib import Path; from control_plane.demo.processes import Processes\n"
        f"Processes(Path({str(tmp_path / 'inner')!r})).start('child', {child!r})\n"
        "time.sleep(60)"
    )
    outer = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-c", demo])
    pid = pid_in(told)

    os.kill(outer, signal.SIGKILL)
    os.waitpid(outer, 0)

    deadline = time.monotonic() + 5
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(pid)


def test_a_child_that_ends_before_it_is_ready_shows_the_end_of_its_log(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        processes.start("server", ["-c", "import sys; sys.exit('no room for me')"])

        with pytest.raises(ProcessFailed, match="no room for me"):
            processes.wait_ready("server", "http://127.0.0.1:9/", seconds=20)


def test_work_that_fails_is_an_error_with_its_exit_code(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes, pytest.raises(ProcessFailed, match="exit code 3"):
        processes.run("work", ["-c", "raise SystemExit(3)"])


def test_a_port_that_was_asked_for_and_is_taken_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(PortInUse, match="is in use"):
        choose_port(taken.getsockname()[1], 1)


def test_a_default_port_that_is_taken_gives_way_to_a_free_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        default = int(taken.getsockname()[1])

        assert choose_port(None, default) != default
