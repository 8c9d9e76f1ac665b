"""A run that is killed goes on and ends in the same bits; a state of another run is refused."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from control_plane.domain.errors import InvalidField, UnsafeArtifact
from model_runtime.checkpoints import tensors_of
from model_runtime.training.cli import main
from model_runtime.training.data import FEATURES_FILE, IMPRESSIONS_FILE
from model_runtime.training.joint import CONFIG_FILE, JointCheckpoint
from model_runtime.training.resume import RESUME_FILE, Resume, identity_of
from model_runtime.training.train import TrainConfig, train
from tests.networks.builders import HOME_FEED, a_rich_spec, a_spec
from tests.training.builders import (
    a_config,
    a_joint_checkpoint,
    a_rich_config,
    impressions,
    rich_examples,
    rich_impressions,
    some_examples,
)

STEPS = 6


class Killed(Exception):
    """Stands for whatever ends a process between two steps."""


def a_resume(path: Path, config: TrainConfig, *, every_steps: int = 1) -> Resume:
    return Resume(path=path / RESUME_FILE, identity=identity_of(rich_examples(), config), every_steps=every_steps)


def train_until(killed_after: int, config: TrainConfig, resume: Resume) -> None:
    def progress(step: int, steps: int, loss: float) -> None:
        if step == killed_after:
            raise Killed

    with pytest.raises(Killed):
        train(rich_examples(), config, progress=progress, resume=resume)


def all_bytes(joint: JointCheckpoint) -> list[bytes]:
    surfaces = joint.spec.surfaces
    heads = [tensors_of(joint.network.head_of(surface)) for surface in surfaces]
    return [tensors_of(joint.network.trunk), *heads, *(tensors_of(joint.calibrators[surface]) for surface in surfaces)]


@pytest.mark.parametrize("killed_after", [1, 3, STEPS])
@pytest.mark.parametrize("every_steps", [1, 2])
def test_a_run_stopped_anywhere_ends_in_the_bits_of_one_that_was_not(
    killed_after: int, every_steps: int, tmp_path: Path
) -> None:
    config = a_rich_config(steps=STEPS)
    resume = a_resume(tmp_path, config, every_steps=every_steps)
    train_until(killed_after, config, resume)
    seen: list[int] = []

    resumed = train(rich_examples(), config, progress=lambda step, *_: seen.append(step), resume=resume)

    assert seen == list(range(killed_after // every_steps * every_steps + 1, STEPS + 1))
    assert all_bytes(resumed) == all_bytes(train(rich_examples(), config))


def test_saving_leaves_no_other_files_and_the_global_random_state_alone(tmp_path: Path) -> None:
    before, config = torch.get_rng_state(), a_rich_config(steps=3)

    train(rich_examples(), config, resume=a_resume(tmp_path, config))

    assert [path.name for path in tmp_path.iterdir()] == [RESUME_FILE]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_state_of_other_data_or_of_another_config_is_refused(tmp_path: Path) -> None:
    config = a_rich_config(steps=3)
    train_until(2, config, a_resume(tmp_path, config))

    for other in (rich_examples(seed=1), rich_examples(1_000)):
        resume = Resume(path=tmp_path / RESUME_FILE, identity=identity_of(other, config))
        with pytest.raises(InvalidField, match=r"resume: .* is of a run on other data or with another config"):
            train(other, config, resume=resume)
    slower = replace(config, learning_rate=1e-4)
    with pytest.raises(InvalidField, match="another config"):
        train(rich_examples(), slower, resume=a_resume(tmp_path, slower))


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_a_state_that_was_cut_short_is_refused(kept: int, tmp_path: Path) -> None:
    config = a_rich_config(steps=3)
    resume = a_resume(tmp_path, config)
    train_until(2, config, resume)
    resume.path.write_bytes(resume.path.read_bytes()[:kept])

    with pytest.raises(UnsafeArtifact, match=RESUME_FILE):
        train(rich_examples(), config, resume=resume)


def test_a_network_to_go_on_from_stays_as_it_is_and_must_have_the_same_features() -> None:
    joint = a_joint_checkpoint()
    before = tensors_of(joint.network.trunk)

    trained = train(some_examples(), a_config(steps=2), start=joint.network)

    assert tensors_of(joint.network.trunk) == before
    assert tensors_of(trained.network.trunk) != before
    with pytest.raises(InvalidField, match="features"):
        train(rich_examples(), a_rich_config(steps=1), start=joint.network)


def test_a_killed_process_is_resumed_to_the_same_bits(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    pq.write_table(rich_impressions(), data / IMPRESSIONS_FILE)
    (data / FEATURES_FILE).write_text(json.dumps(a_rich_spec().to_json()))
    (tmp_path / "model.json").write_text(json.dumps({"trunk": {"attention": {"width": 8, "num_heads": 2}}}))
    options = ["--data", str(data), "--model", str(tmp_path / "model.json"), "--batch-rows", "64", "--threads", "1"]
    options += ["--epochs", "9", "--steps", "200", "--checkpoint-every", "7"]

    _kill_at_the_first_line([*options, "--out", str(tmp_path / "killed")])
    assert (tmp_path / "killed" / RESUME_FILE).exists()
    assert not (tmp_path / "killed" / CONFIG_FILE).exists()
    assert main(["train", *options, "--out", str(tmp_path / "killed"), "--resume"]) == 0
    assert main(["train", *options, "--out", str(tmp_path / "whole")]) == 0

    killed, whole = (sorted((tmp_path / name).iterdir()) for name in ("killed", "whole"))
    assert [path.name for path in killed] == [path.name for path in whole]
    for one, other in zip(killed, whole, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_the_way_to_a_unified_model_by_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    pq.write_table(impressions(), data / IMPRESSIONS_FILE)
    (data / FEATURES_FILE).write_text(json.dumps(a_spec().to_json()))
    base, aware, grown, out = (str(tmp_path / name) for name in ("base", "aware", "grown", "out"))
    few = ["--data", str(data), "--steps", "2"]

    assert main(["train", *few, "--surfaces", "search", "--one-head", "--out", base]) == 0
    assert main(["train", *few, "--surfaces", "search", "--start", base, "--precision", "bf16", "--out", aware]) == 0
    assert main(["add-surface", *few, "--checkpoint", aware, "--surface", "home_feed", "--out", grown]) == 0
    assert main(["export", "--checkpoint", grown, "--out", out, "--latency-card"]) == 0
    assert main(["add-surface", *few, "--checkpoint", grown, "--surface", "home_feed", "--out", base]) == 1

    printed = capsys.readouterr()
    assert "added home_feed" in printed.out
    assert "home_feed is in the checkpoint already" in printed.err
    assert JointCheckpoint.read(Path(grown)).spec.context_order == ("search", HOME_FEED)


@pytest.mark.parametrize(
    ("told", "problem"),
    [
        ([], "model.json: must be an object of"),
        ({"trunks": {}}, "model.json: must be an object of"),
        ({"heads": []}, "heads: must be an object"),
        ({"trunk": {"crossing": {"rank": 0}}}, "trunk.crossing.rank: must be a whole number from 1"),
    ],
)
def test_a_malformed_model_file_is_refused(
    told: object, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.json").write_text(json.dumps(told))

    assert main(["train", "--data", "nowhere", "--out", "out", "--model", str(tmp_path / "model.json")]) == 1
    assert problem in capsys.readouterr().err


def _kill_at_the_first_line(options: list[str]) -> None:
    """Progress lines come every twentieth step: by the first, states were saved."""
    command = [sys.executable, "-m", "model_runtime", "train", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        assert "of 200" in process.stderr.readline()
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
