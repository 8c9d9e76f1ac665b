import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from control_plane.__main__ import app as command_line
from control_plane.app import create_app
from control_plane.domain.rollout import Phase, RolloutId
from control_plane.registry import evidence, history, model_versions
from control_plane.settings import Settings
from tests.api.deployment import write_artifact
from tests.api.live_server import serving
from tests.builders import NOON
from tests.commands.conftest import Run
from tests.stories.world import World

PLAN = """
name: cli
steps: [{share: 1%}, {share: 100%}]
guardrails: [{metric: ctr}]
"""


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    return path


def test_a_rollout_is_started_shown_and_rolled_back(surefoot: Run, world: World, plan: Path) -> None:
    candidate = world.candidate("home_feed")

    started = surefoot("rollout", "start", plan, "--surface", "home_feed", "--candidate", candidate)
    shown = surefoot("rollout", "status")
    back = surefoot("rollout", "rollback", 1, "--reason", "pager")

    assert (started.exit_code, shown.exit_code, back.exit_code) == (0, 0, 0), started.output
    assert candidate in started.output
    assert "pending" in shown.output
    assert "rolled_back at 0 %" in back.output
    with world.sessions.reading() as session:
        last = max(history.list_history(session, limit=100), key=lambda entry: entry.seq)
    assert (last.by, last.reason) == ("ann", "pager")


def test_an_approval_says_who_gave_it_and_how_many_are_wanting(
    surefoot: Run, world: World, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan.write_text(PLAN.replace("{share: 1%}", "{share: 1%, approvals: 2}"))
    surefoot("rollout", "start", plan, "--surface", "home_feed", "--candidate", world.candidate("home_feed"))
    world.heartbeat()
    world.tick()
    world.heartbeat()
    world.tick()
    surefoot("rollout", "skip", 1, "--reason", "seen enough")

    own = surefoot("rollout", "approve", 1)
    monkeypatch.setenv("SUREFOOT_OPERATOR", "bob")
    others = surefoot("rollout", "approve", 1)

    assert own.exit_code == 1
    assert "somebody else does, or skip the step with a reason" in own.stderr
    assert "approved by bob; 1 more needed" in others.output


def test_a_rollout_is_steered(surefoot: Run, world: World, plan: Path) -> None:
    surefoot("rollout", "start", plan, "--surface", "home_feed", "--candidate", world.candidate("home_feed"))
    world.heartbeat()
    world.tick()
    world.heartbeat()
    world.tick()

    refused = surefoot("rollout", "advance", 1)
    overruled = surefoot("rollout", "skip", 1, "--reason", "seen enough")
    held = surefoot("rollout", "hold", 1)
    resumed = surefoot("rollout", "resume", 1)

    assert refused.exit_code == 1
    assert "skip this step with a reason" in refused.stderr
    assert "ramping at 1 %" in overruled.output
    assert "held at 1 %" in held.output
    assert "ramping at 1 %" in resumed.output


def test_a_second_rollout_of_a_surface_is_refused_queues_or_replaces(surefoot: Run, world: World, plan: Path) -> None:
    first, second, third = (world.candidate("home_feed", name=name) for name in ("first", "second", "third"))

    def start(candidate: str, *options: str) -> Result:
        return surefoot("rollout", "start", plan, "--surface", "home_feed", "--candidate", candidate, *options)

    start(first)
    refused = start(second)
    queued = start(second, "--on-busy", "queue")
    replaced = start(third, "--on-busy", "replace")
    shown = surefoot("rollout", "status")

    assert refused.exit_code == 1
    assert "busy with rollout 1" in refused.stderr
    assert queued.output.strip().endswith("queued")
    assert replaced.output.strip().endswith("pending")
    assert "rollout 3 on home_feed: pending" in shown.output
    assert "queued; waiting for rollout 3 to end" in shown.output
    assert "rollout 1" not in shown.output.replace("rollout 1 ", "")


def test_a_rollout_begins_anew_under_another_plan(surefoot: Run, world: World, plan: Path, tmp_path: Path) -> None:
    surefoot("rollout", "start", plan, "--surface", "home_feed", "--candidate", world.candidate("home_feed"))
    world.heartbeat()
    world.tick()
    world.heartbeat()
    world.tick()
    surefoot("rollout", "skip", 1, "--reason", "seen enough")
    slower = tmp_path / "slower.yaml"
    slower.write_text(PLAN.replace("name: cli", "name: slower"))

    again = surefoot("rollout", "restart", 1, "--reason", "too fast", "--plan", slower)

    assert again.exit_code == 0, again.output
    assert "shadow at 0 %" in again.output
    assert world.rollout(RolloutId(1)).plan.name == "slower"


def test_watching_ends_with_the_rollout(surefoot: Run, world: World, plan: Path) -> None:
    surefoot("rollout", "start", plan, "--surface", "home_feed", "--candidate", world.candidate("home_feed"))
    surefoot("rollout", "abort", 1)

    assert surefoot("rollout", "watch", 1).exit_code == 3


def test_a_verdict_is_explained_and_replayed(surefoot: Run, world: World, plan: Path) -> None:
    rollout_id = world.roll_out("home_feed", world.candidate("home_feed"))
    world.live_until(rollout_id, Phase.SHADOW, at_most_days=1)
    world.live(1)
    with world.sessions.reading() as session:
        stored = evidence.latest(session, rollout_id)
    assert stored is not None

    explained = surefoot("verdict", "explain", stored.verdict_id)
    replayed = surefoot("verdict", "replay", stored.verdict_id)

    assert stored.verdict.reason in explained.output
    assert replayed.exit_code == 0
    assert "bit for bit" in replayed.output


def test_a_version_is_registered_adopted_and_quarantined(surefoot: Run, tmp_path: Path) -> None:
    surefoot("surface", "add", "search", "grid", "closeup")
    folders = [write_artifact(tmp_path / name, name, surface="search", trunk=name) for name in ("one", "two")]
    one, two = (surefoot("register", folder).output.strip() for folder in folders)
    adopted = [surefoot("surface", "adopt", "search", version, "--reason", "trusted") for version in (one, two)]
    listed = surefoot("surface", "list")
    back = surefoot("surface", "rollback", "search", "--reason", "pager")

    assert [result.exit_code for result in (*adopted, listed, back)] == [0] * 4
    assert f"stable {two}" in listed.output
    assert one in back.output


def test_a_version_tells_who_registered_it_and_where_it_moved(surefoot: Run, tmp_path: Path) -> None:
    surefoot("surface", "add", "search", "grid", "closeup")
    folder = write_artifact(tmp_path / "here", "one", surface="search")
    version = surefoot("register", folder).output.strip()
    surefoot("register", folder.rename(tmp_path / "there"))

    told = surefoot("version", "history", version[:12])

    registered, moved = told.output.splitlines()
    assert "ann" in registered
    assert registered.endswith(f"register  {tmp_path / 'here'}")
    assert moved.endswith(f"move  {tmp_path / 'there'}")


def test_a_digest_is_quarantined_listed_and_released(surefoot: Run, world: World, tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "bad", "bad", trunk="bad")
    surefoot("register", folder)
    with world.sessions.reading() as session:
        digest = next(
            record.manifest.version.trunk
            for record in model_versions.list_versions(session)
            if record.artifact_uri == str(folder)
        )

    added = surefoot("quarantine", "add", digest, "--reason", "bad trunk")
    listed = surefoot("quarantine", "list")
    released = surefoot("quarantine", "release", digest, "--reason", "was fine")

    assert "nothing was using it" in added.output
    assert digest in listed.output
    assert released.exit_code == 0


def test_a_broken_artifact_is_named_before_anything_is_sent(surefoot: Run, tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "cut", "cut")
    (folder / "trunk.safetensors").write_bytes(b"\x80\x04pickled")

    refused = surefoot("register", folder)

    assert refused.exit_code == 1
    assert "trunk.safetensors" in refused.stderr
    assert "pickle" in refused.stderr


def test_a_malformed_plan_names_file_line_and_key(surefoot: Run, tmp_path: Path) -> None:
    path = tmp_path / "typo.yaml"
    path.write_text(PLAN + "check_evry: 5m\n")

    refused = surefoot("rollout", "start", path, "--surface", "home_feed", "--candidate", "x")

    assert refused.exit_code == 1
    assert "typo.yaml: line 5: check_evry: unknown key" in " ".join(refused.stderr.split())


def test_an_unknown_rollout_is_a_plain_sentence(surefoot: Run) -> None:
    refused = surefoot("rollout", "status", 99)

    assert refused.exit_code == 1
    assert refused.stderr == "error: no rollout '99'; `surefoot rollout status --all` shows what there is\n"


@pytest.mark.parametrize(
    ("arguments", "listed"),
    [
        (["rollout", "rollback", "99"], ["rollout", "status", "--all"]),
        (["release", "status", "99"], ["release", "status"]),
        (["unfreeze", "99", "--reason", "x"], ["freeze", "list", "--all"]),
        (["rollout", "start", "PLAN", "--surface", "home_feed", "--candidate", "f" * 16], ["version", "list"]),
        (["webhooks", "test", "nobody"], ["webhooks", "list"]),
        (["quarantine", "release", f"sha256:{'0' * 64}", "--reason", "x"], ["quarantine", "list"]),
    ],
)
def test_what_is_unknown_names_the_command_that_lists_what_is_known(
    surefoot: Run, plan: Path, arguments: list[str], listed: list[str]
) -> None:
    refused = surefoot(*(plan if argument == "PLAN" else argument for argument in arguments))

    assert refused.exit_code == 1
    assert f"`surefoot {' '.join(listed)}`" in refused.stderr
    assert surefoot(*listed).exit_code == 0


def test_a_person_starts_a_rollout_out_of_its_cool_down_with_a_reason(surefoot: Run, world: World, plan: Path) -> None:
    candidate = world.candidate("home_feed")
    surefoot("rollout", "start", plan, "--surface", "home_feed", "--candidate", candidate)
    world.heartbeat()
    world.tick()
    surefoot("rollout", "rollback", 1, "--reason", "clicks fell")
    mended = world.candidate("home_feed", name="mended")
    surefoot("rollout", "start", plan, "--surface", "home_feed", "--candidate", mended)

    refused = surefoot("rollout", "start", 2)
    started = surefoot("rollout", "start", 2, "--reason", "the log was wrong")

    assert refused.exit_code == 1
    assert "a person may start it now: `surefoot rollout start 2 --reason …`" in refused.stderr
    assert started.exit_code == 0
    assert "rollout 2 on home_feed: warming at 0 %" in started.output


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        (["missing.yaml", "--surface", "home_feed", "--candidate", "f0"], "missing.yaml: No such file or directory"),
        (["PLAN"], "with a PLAN, --surface and --candidate say"),
        (["PLAN", "--surface", "home_feed", "--candidate", "f0", "--reason", "x"], "--reason goes with the number"),
        (["7", "--surface", "home_feed"], "rollout 7 has its surface and candidate"),
    ],
)
def test_a_start_that_mixes_a_plan_and_a_number_says_what_goes_with_which(
    surefoot: Run, plan: Path, arguments: list[str], refusal: str
) -> None:
    refused = surefoot("rollout", "start", *(plan if argument == "PLAN" else argument for argument in arguments))

    assert refused.exit_code == 2
    assert refusal in refused.stderr


def test_a_command_that_comes_too_early_names_those_that_would_be_taken(
    surefoot: Run, world: World, plan: Path
) -> None:
    plan.write_text(PLAN.replace("{share: 1%}", "{share: 1%, approvals: 1}"))
    surefoot("rollout", "start", plan, "--surface", "home_feed", "--candidate", world.candidate("home_feed"))

    refused = surefoot("rollout", "approve", 1)

    assert (
        "a rollout that is pending does not take approve; it takes start, roll back, abort, restart; "
        "approvals are asked for at 1 % (1)" in refused.stderr
    )


def test_versions_are_listed_with_what_keeps_them_away(surefoot: Run, world: World, plan: Path) -> None:
    candidate = world.candidate("home_feed")
    surefoot("rollout", "start", plan, "--surface", "home_feed", "--candidate", candidate)
    surefoot("rollout", "rollback", 1)

    listed = surefoot("version", "list", "--surface", "home_feed")

    assert f"{candidate}  home_feed" in listed.output
    assert "(taken back)" in listed.output


@pytest.mark.timeout(120)
def test_up_says_where_it_is_once_it_answers_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ports = _free_ports(2)
    monkeypatch.setenv("SUREFOOT_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("SUREFOOT_PORT", str(ports[0]))
    monkeypatch.setenv("SUREFOOT_RUNTIME_PORT", str(ports[1]))
    command = [sys.executable, "-m", "control_plane", "up"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as up:
        assert up.stdout is not None
        said = up.stdout.readline()
        answers = [
            httpx.get(f"http://127.0.0.1:{port}{path}", timeout=5.0).status_code
            for port, path in zip(ports, ("/v1/health", "/v2/health/live"), strict=True)
        ]
        up.terminate()
        rest = up.stdout.read()

    page, runtime = (f"http://127.0.0.1:{port}" for port in ports)
    assert said == f"admin page: {page}/   runtime: {runtime}   stop with Ctrl-C\n"
    assert answers == [200, 200]
    assert (rest, up.returncode) == ("", 0)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def test_a_control_plane_out_of_reach_is_a_plain_sentence(surefoot: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("SUREFOOT_URL", f"http://127.0.0.1:{probe.getsockname()[1]}")

        refused = surefoot("surface", "list")

    assert refused.exit_code == 1
    assert "cannot reach the control plane" in refused.stderr


def test_the_schema_is_checked(surefoot: Run) -> None:
    assert surefoot("db", "upgrade").exit_code == 0
    assert surefoot("db", "check").exit_code == 0


def test_moments_are_computed_ahead(surefoot: Run, world: World) -> None:
    rollout_id = world.roll_out("home_feed", world.candidate("home_feed"))
    world.live_until(rollout_id, Phase.SHADOW, at_most_days=1)

    assert "moments of 1 rollouts" in surefoot("aggregate", "--once").output


def test_an_empty_registry_says_how_to_name_a_surface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(data_dir=tmp_path, runs_scheduler=False)
    with serving(create_app(settings, lambda: NOON)) as url:
        monkeypatch.setenv("SUREFOOT_URL", url)

        listed = CliRunner().invoke(command_line, ["surface", "list"])

    assert listed.exit_code == 0
    assert "no surfaces yet; `surefoot surface add` names one" in listed.output


@pytest.mark.parametrize("command", ["serve", "up"])
def test_a_port_in_use_is_a_plain_sentence(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("SUREFOOT_PORT", str(taken.getsockname()[1]))
        monkeypatch.setenv("SUREFOOT_DATA_DIR", str(tmp_path))

        refused = subprocess.run(
            [sys.executable, "-m", "control_plane", command], capture_output=True, text=True, timeout=60, check=False
        )

    assert refused.returncode == 2
    assert "Address already in use; something runs there already" in refused.stderr


def test_a_version_is_named_by_its_first_digits(surefoot: Run, world: World, plan: Path) -> None:
    candidate = world.candidate("home_feed")

    started = surefoot("rollout", "start", plan, "--surface", "home_feed", "--candidate", candidate[:8])
    unknown = surefoot("rollout", "start", plan, "--surface", "home_feed", "--candidate", "zz")

    assert candidate in started.output
    assert unknown.exit_code == 1
    assert "no registered version begins with 'zz'" in unknown.stderr


def test_rolling_a_surface_back_twice_says_that_nothing_was_left_to_do(surefoot: Run, world: World, plan: Path) -> None:
    surefoot("rollout", "start", plan, "--surface", "home_feed", "--candidate", world.candidate("home_feed"))

    first, second = (surefoot("surface", "rollback", "home_feed", "--reason", "pager") for _ in range(2))

    assert "rolled back; all traffic is on stable" in first.output
    assert "nothing to do" in second.output


def test_a_finished_rollout_says_who_ended_it_and_why(surefoot: Run, world: World, plan: Path) -> None:
    surefoot("rollout", "start", plan, "--surface", "home_feed", "--candidate", world.candidate("home_feed"))
    surefoot("rollout", "abort", 1, "--reason", "another one is better")

    shown = surefoot("rollout", "status", 1)

    assert "rolled_back at 0 %, abort by ann" in shown.output
    assert "another one is better" in shown.output


def test_a_refusal_is_shown_whole_whatever_brackets_it_has(surefoot: Run, tmp_path: Path) -> None:
    folder = tmp_path / "[red]"
    folder.mkdir()

    refused = surefoot("register", folder)

    assert "[red]/manifest.json cannot be read" in "".join(refused.stderr.splitlines())


@pytest.mark.parametrize("command", [["serve"], ["db", "check"]])
def test_a_wrong_setting_is_named_by_its_variable(
    surefoot: Run, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("SUREFOOT_PORT", "abc")

    refused = surefoot(*command)

    assert refused.exit_code == 2
    assert refused.stderr.startswith("error: SUREFOOT_PORT: input should be a valid integer")


def test_a_data_folder_that_cannot_be_made_is_named(
    surefoot: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a-file").touch()
    monkeypatch.setenv("SUREFOOT_DATA_DIR", str(tmp_path / "a-file"))

    refused = surefoot("db", "upgrade")

    assert refused.exit_code == 2
    assert "SUREFOOT_DATA_DIR" in refused.stderr


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SUREFOOT_TOKENS", "s3cret"),
        ("SUREFOOT_DATABASE_URL", "nonsense"),
        ("SUREFOOT_DATABASE_URL", "mysql://localhost/surefoot"),
        ("SUREFOOT_EVENT_LOG_DIR", "/dev/null/events"),
        ("SUREFOOT_METRIC_SOURCES", "prometheus+http://host"),
        ("SUREFOOT_METRIC_SOURCES", '{"prod": "http://host"}'),
    ],
)
def test_a_setting_that_nothing_can_start_with_is_a_plain_sentence(
    surefoot: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str
) -> None:
    monkeypatch.setenv("SUREFOOT_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("SUREFOOT_DATABASE_URL", "")
    monkeypatch.setenv("SUREFOOT_PORT", "0")
    monkeypatch.setenv(variable, value)

    refused = surefoot("serve")

    assert refused.exit_code == 2
    assert refused.stderr.startswith(("error: SUREFOOT_", "error: event log at /dev/null/events"))
