"""The report of a training run: one file, every group and picture in it, names escaped, older checkpoints read."""

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest

from model_runtime.training.cli import main
from model_runtime.training.data import examples_of
from model_runtime.training.generate import GeneratorConfig, features, tables
from model_runtime.training.joint import JointCheckpoint
from model_runtime.training.pictures import nice_top, reliability_plot, wilson
from model_runtime.training.report import REPORT_FILE, report
from model_runtime.training.train import train
from tests.training.builders import a_config, a_joint_checkpoint


@pytest.fixture(scope="module")
def joint() -> JointCheckpoint:
    config = GeneratorConfig(rows=8_000, num_users=500, num_items=200)
    examples = examples_of(features(config), pa.concat_tables(tables(config)))
    return train(examples, a_config(epochs=1, batch_rows=500))


def test_every_group_has_its_row_and_its_picture_and_nothing_is_loaded_from_elsewhere(joint: JointCheckpoint) -> None:
    page = report(joint)

    for surface, view_types in joint.spec.view_types.items():
        assert f"<h2>{surface}</h2>" in page
        for name in ("all", *view_types):
            assert f"<td>{name}</td>" in page
            assert f'aria-label="Reliability of {surface} {name}"' in page
    for word in ("best NE", "to truth", "debiased", "How the gates share the experts", 'aria-label="Training loss"'):
        assert word in page
    assert not re.search(r"(src|href)=|url\(|@import|<script", page)
    assert 'name="viewport"' in page


def test_its_pictures_are_well_formed(joint: JointCheckpoint) -> None:
    for picture in re.findall(r"<svg.*?</svg>", report(joint)):
        for element in ElementTree.fromstring(picture).iter():
            assert "nan" not in " ".join(element.attrib.values())


def test_a_calibration_whose_interval_leaves_out_1_is_marked(joint: JointCheckpoint) -> None:
    def page(interval: tuple[float, float]) -> str:
        group = {"rows": 10, "clicks": 5, "calibration": 1.2, "calibration_interval": interval}
        return report(replace(joint, metrics={"held_out": {"search": {"all": group}}}))

    assert '<span class="warn">1.200 (1.100 – 1.300)</span>' in page((1.1, 1.3))
    assert 'class="warn"' not in page((0.9, 1.3))


def test_a_checkpoint_of_before_is_told_as_far_as_it_tells() -> None:
    joint = a_joint_checkpoint()
    group = {"rows": 10, "clicks": 0, "normalised_entropy": None, "auc": None, "calibration": None}

    page = report(replace(joint, metrics={"held_out": {"search": {"<b>": group}}}, training_run="<script>"))

    assert "–" in page
    assert "<script>" not in page
    assert "&lt;b&gt;" in page


def test_the_commands_write_the_same_report_beside_the_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out, other = tmp_path / "data", tmp_path / "out", tmp_path / "there" / "other.html"
    assert main(["generate", "--out", str(data), "--rows", "4000"]) == 0
    assert main(["train", "--data", str(data), "--out", str(out), "--steps", "2"]) == 0

    assert main(["report", "--checkpoint", str(out), "--out", str(other)]) == 0

    assert f"report in {other}" in capsys.readouterr().out
    assert (out / REPORT_FILE).read_text() == other.read_text()
    assert main(["report", "--checkpoint", str(tmp_path)]) == 1


def test_an_interval_of_a_share_covers_it_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)

    covered = [
        low <= 0.05 <= high
        for clicks in rng.binomial(400, 0.05, 2_000).tolist()
        for low, high in [wilson(clicks / 400, 400)]
    ]

    assert 0.93 < np.mean(covered) < 0.975


def test_axes_end_at_round_numbers_and_points_lie_on_the_diagonal_where_they_are_right() -> None:
    assert [nice_top(value) for value in (0, 0.013, 0.07, 0.4, 0.97)] == [1.0, 0.02, 0.08, 0.4, 1.0]

    picture = reliability_plot([(0.1, 0.1, 10_000)], "x")

    centre = re.search(r'cx="([\d.]+)" cy="([\d.]+)"', picture)
    ends = re.search(r'class="right" x1="([\d.]+)" y1="([\d.]+)" x2="([\d.]+)" y2="([\d.]+)"', picture)
    assert centre is not None
    assert ends is not None
    x, y = map(float, centre.groups())
    left, low, right, high = map(float, ends.groups())
    assert (x - left) / (right - left) == pytest.approx((y - low) / (high - low), abs=0.01)
