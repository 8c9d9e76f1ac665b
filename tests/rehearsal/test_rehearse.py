import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from control_plane.domain.errors import InvalidField
from control_plane.rehearsal.audience import Effects
from control_plane.rehearsal.journal import Journal
from control_plane.rehearsal.rehearse import rehearse
from control_plane.rehearsal.run import Ending
from control_plane.rehearsal.scenarios import Scenario
from tests.rehearsal.builders import AUDIENCE, EQUAL, a_scenario, a_trial

HARMFUL = a_scenario(Effects(ctr=-0.3), name="harmful")
CHILD = """
import sys
from pathlib import Path
from control_plane.rehearsal.journal import Journal
from control_plane.rehearsal.rehearse import rehearse
from tests.rehearsal.builders import EQUAL, a_trial
if __name__ == "__main__":
    trial = a_trial()
    with Journal(Path(sys.argv[1]), trial.identity()) as journal:
        rehearse(trial, [EQUAL], runs=40, jobs=2, journal=journal)
"""


def test_equal_arguments_give_equal_answers_whatever_the_number_of_jobs() -> None:
    alone = rehearse(a_trial(), [EQUAL, HARMFUL], runs=3, jobs=1)
    together = rehearse(a_trial(), [EQUAL, HARMFUL], runs=3, jobs=3)
    other = rehearse(a_trial(seed=2), [EQUAL, HARMFUL], runs=3, jobs=1)

    assert alone == together
    assert alone != other


def test_scenarios_do_not_disturb_one_another() -> None:
    both = rehearse(a_trial(), [EQUAL, HARMFUL], runs=2)

    assert rehearse(a_trial(), [HARMFUL], runs=2) == both[1:]


def test_runs_in_the_journal_are_not_done_again(tmp_path: Path) -> None:
    trial = a_trial()
    heard: list[Scenario] = []
    with Journal(tmp_path / "journal", trial.identity()) as journal:
        first = rehearse(trial, [EQUAL], runs=2, journal=journal)
    with Journal(tmp_path / "journal", trial.identity()) as journal:
        assert len(journal.done) == 2
        again = rehearse(trial, [EQUAL, HARMFUL], runs=2, journal=journal, on_run=heard.append)

    assert again[0] == first[0]
    assert [scenario.name for scenario in heard] == ["equal", "equal", "harmful", "harmful"]


@pytest.mark.slow
def test_a_killed_rehearsal_goes_on_where_it_was_and_leaves_nobody_behind(tmp_path: Path) -> None:
    path, script = tmp_path / "journal", tmp_path / "child.py"
    script.write_text(CHILD)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    child = subprocess.Popen([sys.executable, script, path], env=environment, start_new_session=True)
    while not path.exists() or path.read_bytes().count(b"\n") < 4:
        time.sleep(0.05)
        assert child.poll() is None, "done before it could be killed"
    workers = _children(child.pid)
    child.send_signal(signal.SIGKILL)
    child.wait()
    with path.open("ab") as torn:
        torn.write(b'{"scenario":"torn')

    trial = a_trial()
    with Journal(path, trial.identity()) as journal:
        kept = len(journal.done)
        resumed = rehearse(trial, [EQUAL], runs=6, journal=journal)

    assert kept >= 3
    assert resumed == rehearse(a_trial(), [EQUAL], runs=6)
    deadline = time.monotonic() + 20
    while any(_is_alive(worker) for worker in workers):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.1)


@pytest.mark.parametrize(("runs", "jobs"), [(0, 1), (1, 0)])
def test_no_runs_and_no_jobs_are_refused(runs: int, jobs: int) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        rehearse(a_trial(), [EQUAL], runs=runs, jobs=jobs)


@pytest.mark.parametrize("looks", [0, -1, 5, 7, 97])
def test_looks_that_do_not_part_a_day_are_refused(looks: int) -> None:
    with pytest.raises(InvalidField, match="looks_per_day: must part a day evenly"):
        a_trial(looks_per_day=looks)


def test_identities_name_what_differs() -> None:
    mine, other_seed, other_plan = a_trial(), a_trial(seed=2), a_trial(min_days_before_full=3)

    assert {name for name, value in mine.identity().items() if other_seed.identity()[name] != value} == {"seed"}
    assert {name for name, value in mine.identity().items() if other_plan.identity()[name] != value} == {"plan_digest"}


@pytest.mark.slow
def test_the_whole_judge_rarely_rolls_an_equal_candidate_back() -> None:
    (result,) = rehearse(a_trial(AUDIENCE, seed=7), [EQUAL], runs=60)

    alarms = result.endings[Ending.ROLLED_BACK]
    print(f"equal candidates: {dict(result.endings)}, rolled back at most {alarms.upper:.3f} (95 %)")
    assert alarms.value <= 0.05


def _children(pid: int) -> list[int]:
    told = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in told.split()]


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
