import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from control_plane.__main__ import app as command_line
from tests.rehearsal.logs import write_log
from tests.rehearsal.packed import write_inputs

PLAN = """
name: quick
steps: [{share: 25%, bake: 6h}, {share: 50%, bake: 6h}, {share: 100%, bake: 6h}]
guardrails: [{metric: ctr, harm_margin: 3%, safe_margin: 12%}]
calibration: {epsilon: 0.03, band: 0.2, view_type_epsilon: 0.08, view_type_band: 0.3}
judge: {loss_budget: 0.1}
shadow: {bake: 6h}
min_days_before_full: 2
check_every: 6h
unwatched: 12h
"""
SMALL = (
    "--users",
    20_000,
    "--ctr",
    0.2,
    "--impressions-per-day",
    2,
    "--view-type",
    "grid=50%",
    "--view-type",
    "list=50%",
)
QUICK = ("--runs", 2, "--fault", "dead", *SMALL)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    return path


@pytest.fixture
def packed_looks(tmp_path: Path) -> Path:
    folder = tmp_path / "inputs"
    folder.mkdir()
    write_inputs(folder)
    return folder


def in_process(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "120"}).invoke(command_line, [str(argument) for argument in arguments])


def surefoot(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "control_plane", *map(str, arguments)]
    variables = {**os.environ, "COLUMNS": "120", **environment}
    return subprocess.run(command, capture_output=True, text=True, env=variables, check=False, timeout=120)


def test_a_plan_is_rehearsed_and_told_as_a_table_json_and_html(plan: Path, tmp_path: Path) -> None:
    report, page = tmp_path / "report.json", tmp_path / "report.html"

    done = surefoot("rehearse", plan, *QUICK, "--effect", "ctr=-40%", "--json", report, "--html", page)

    assert done.returncode == 0, done.stderr
    assert done.stderr == f"wrote {report}\nwrote {page}\n"
    for said in ("✓ equal", "✓ dead", "✓ ctr=-40%", "rolled back by mistake in 0 % of runs", "The same figures again"):
        assert said in done.stdout
    told = json.loads(report.read_text())
    assert [scenario["name"] for scenario in told["scenarios"]] == ["equal", "dead", "ctr=-40%"]
    assert told["scenarios"][1]["endings"]["rolled_back"]["value"] == 1.0
    assert told["traffic"]["view_types"] == {"grid": 0.5, "list": 0.5}
    html = page.read_text()
    assert html.count("<svg") == 4
    assert 'http-equiv="Content-Security-Policy"' in html
    assert "<script" not in html
    assert 'src="http' not in html


def test_the_same_command_gives_the_same_figures_with_any_number_of_jobs(plan: Path, tmp_path: Path) -> None:
    alone, together = tmp_path / "1.json", tmp_path / "2.json"

    first = surefoot("rehearse", plan, *QUICK, "--jobs", 1, "--json", alone)
    second = surefoot("rehearse", plan, *QUICK, "--jobs", 2, "--json", together)

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert json.loads(alone.read_text())["scenarios"] == json.loads(together.read_text())["scenarios"]


def test_a_journal_is_gone_on_from_and_kept_from_other_plans(plan: Path, tmp_path: Path) -> None:
    journal, other = tmp_path / "journal", tmp_path / "other.yaml"
    other.write_text(PLAN.replace("name: quick", "name: other"))
    begun = surefoot("rehearse", plan, *QUICK, "--journal", journal)
    lines = journal.read_text().splitlines()

    longer = surefoot("rehearse", plan, "--runs", 3, "--fault", "dead", *SMALL, "--journal", journal)
    refused = surefoot("rehearse", other, *QUICK, "--journal", journal)

    assert (begun.returncode, longer.returncode, refused.returncode) == (0, 0, 2), longer.stderr
    assert journal.read_text().splitlines()[: len(lines)] == lines
    assert len(journal.read_text().splitlines()) == len(lines) + 2
    assert "holds runs of the plan 'quick', not of 'other'" in refused.stderr


def test_a_plan_is_rehearsed_on_a_recording(plan: Path, tmp_path: Path) -> None:
    write_log(tmp_path / "log")

    done = surefoot("rehearse", plan, "--recorded", tmp_path / "log", "--runs", 2, "--effect", "ctr=-40%@grid")
    mixed = surefoot("rehearse", plan, "--recorded", tmp_path / "log", "--users", 5_000)

    assert done.returncode == 0, done.stderr
    assert "recorded traffic of home_feed" in done.stdout
    assert mixed.returncode == 2
    assert "--users is of simulated traffic" in mixed.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--effect", "ctr"), "must be NAME=VALUE"),
        (("--effect", "clicks=3%"), "no effect 'clicks'; known: ctr"),
        (("--effect", "ctr=-3%@maps"), "no view type 'maps'; known: grid, closeup, story"),
        (("--fault", "deed"), "no fault 'deed'; known: equal"),
        (("--recorded", "/nowhere"), "recording /nowhere: is no event log"),
        (("--view-type", "grid"), "must be NAME=SHARE"),
        (("--view-type", "grid=0"), "must be NAME=SHARE"),
        (("--view-type", "grid=nan"), "must be NAME=SHARE"),
        (("--view-type", "grid=1", "--view-type", "grid=2"), "grid is given twice"),
        (("--users", "10"), "Invalid value for '--users'"),
        (("--looks-per-day", "5"), "must part a day evenly (1, 2, 3, 4, 6"),
        (("--runs", "0"), "Invalid value for '--runs'"),
        (("--html", "/nowhere/report.html"), "there is no folder /nowhere"),
        (("--journal", "/nowhere/journal"), "there is no folder /nowhere"),
    ],
)
def test_garbage_is_refused_in_a_sentence(plan: Path, arguments: tuple[str, ...], said: str) -> None:
    refused = in_process("rehearse", plan, "--runs", 1, *arguments)

    assert refused.exit_code in (1, 2)
    assert said in " ".join(refused.stderr.split())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"name: x\nsteps: 3\n", "line 2: steps"),
        (b"\xff\xfe\x00", "can't decode"),
        (b"", "is empty"),
    ],
)
def test_a_plan_that_cannot_be_armed_cannot_be_rehearsed(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "bad.yaml").write_bytes(content)

    refused = in_process("rehearse", tmp_path / "bad.yaml")

    assert refused.exit_code == 1
    assert said in refused.stderr


def test_packed_verdict_inputs_are_judged_under_another_plan(plan: Path, packed_looks: Path, tmp_path: Path) -> None:
    strict = tmp_path / "strict.yaml"
    strict.write_text(
        PLAN.replace("loss_budget: 0.1", "loss_budget: 0.001").replace("safe_margin: 12%", "safe_margin: 3.1%")
    )

    same = surefoot("rehearse", plan, "--recorded", packed_looks)
    other = surefoot("rehearse", strict, "--recorded", packed_looks, "--json", tmp_path / "told.json")

    assert (same.returncode, other.returncode) == (0, 0), same.stderr + other.stderr
    assert "said otherwise at 0 of them" in same.stdout
    assert "4 recorded looks" in other.stdout
    assert len(json.loads((tmp_path / "told.json").read_text())["looks"]) == 4


def test_html_without_matplotlib_names_the_extra(plan: Path, tmp_path: Path) -> None:
    (tmp_path / "matplotlib.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'matplotlib'\", name='matplotlib')"
    )

    refused = surefoot("rehearse", plan, *QUICK, "--html", tmp_path / "x.html", PYTHONPATH=str(tmp_path))
    fine = surefoot("rehearse", plan, *QUICK, PYTHONPATH=str(tmp_path))

    assert refused.returncode == 1
    assert "pip install 'surefoot[report]'" in refused.stderr
    assert fine.returncode == 0, fine.stderr


def test_ctrl_c_stops_at_once_and_says_what_is_kept(plan: Path, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    command = [sys.executable, "-m", "control_plane", "rehearse", str(plan), "--runs", "500", "--journal", str(journal)]
    child = subprocess.Popen(
        [*command, "--jobs", "2"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    try:
        while not journal.exists() or journal.read_bytes().count(b"\n") < 2:
            assert child.poll() is None
        os.killpg(child.pid, signal.SIGINT)
        _, said = child.communicate(timeout=60)
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)

    assert child.returncode == 130
    assert "the same command goes on from here" in said
    assert "Traceback" not in said
