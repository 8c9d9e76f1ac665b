"""Curves: they mend what a line cannot, never turn a ranking around, and few rows bend little."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from control_plane.domain.errors import InvalidField
from control_plane.domain.model_version import Part
from model_runtime.checkpoints import load_version
from model_runtime.networks.calibration import Calibrator
from model_runtime.training.calibrate import CalibrationConfig, fit_calibrator
from model_runtime.training.evaluate import quality
from model_runtime.training.export import export
from model_runtime.training.joint import JointCheckpoint
from model_runtime.training.train import recalibrate, train
from tests.networks.builders import HOME_FEED, SEARCH
from tests.training.builders import a_config, some_examples

ISOTONIC = CalibrationConfig(method="isotonic", num_knots=12)


def calibrated(
    calibrator: Calibrator, logit_N: NDArray[np.float64], view_type_N: NDArray[np.int64]
) -> NDArray[np.float64]:
    logits = calibrator(torch.tensor(logit_N, dtype=torch.float32), torch.tensor(view_type_N))
    return np.asarray(logits.double().numpy())


def bent_clicks(logit_N: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Clicks whose true logit is bent: what scores above -2 is overrated."""
    true_N = np.minimum(logit_N, -2.0) + 0.2 * np.maximum(logit_N + 2.0, 0.0)
    return np.asarray(rng.random(len(logit_N)) < 1 / (1 + np.exp(-true_N)))


def test_a_curve_mends_what_a_line_cannot() -> None:
    rng = np.random.default_rng(0)
    logit_N, view_type_N = rng.normal(-2.5, 1.2, 120_000), rng.integers(0, 2, 120_000)
    click_N, later_N = bent_clicks(logit_N, rng), bent_clicks(logit_N, rng)
    is_high_N = logit_N > -1.0

    platt, isotonic = (
        fit_calibrator(logit_N, click_N, view_type_N, 2, kind) for kind in (CalibrationConfig(), ISOTONIC)
    )

    of_line, of_curve = (
        quality(later_N[is_high_N], 1 / (1 + np.exp(-calibrated(each, logit_N, view_type_N)[is_high_N])))
        for each in (platt, isotonic)
    )
    assert of_line.calibration is not None
    assert of_line.calibration > 1.1
    assert of_curve.calibration == pytest.approx(1.0, abs=0.04)
    for view_type in (0, 1):
        is_member_N = view_type_N == view_type
        probability_N = 1 / (1 + np.exp(-calibrated(isotonic, logit_N, view_type_N)[is_member_N]))
        assert quality(later_N[is_member_N], probability_N).calibration == pytest.approx(1.0, abs=0.03)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(0, 400), rate=st.floats(0.0, 1.0), knots=st.integers(2, 20))
def test_a_curve_rises_everywhere_whatever_it_was_fitted_on(seed: int, rows: int, rate: float, knots: int) -> None:
    rng = np.random.default_rng(seed)
    logit_N, view_type_N = np.round(rng.normal(-3, 2, rows), 1), rng.integers(0, 3, rows)
    kind = CalibrationConfig(method="isotonic", num_knots=knots)

    calibrator = fit_calibrator(logit_N, rng.random(rows) < rate, view_type_N, 3, kind)

    grid_N = np.linspace(-12, 12, 500)
    for view_type in range(3):
        found_N = calibrated(calibrator, grid_N, np.full(500, view_type))
        assert np.isfinite(found_N).all()
        assert (np.diff(found_N) > 0).all()


def test_few_rows_bend_little_and_a_view_type_without_any_gets_its_surfaces_curve() -> None:
    rng = np.random.default_rng(3)
    logit_N = rng.normal(-2.5, 1.2, 40_000)
    click_N, none_N = bent_clicks(logit_N, rng), np.zeros(40_000, np.int64)

    many = fit_calibrator(logit_N, click_N, none_N, 2, ISOTONIC)
    few = fit_calibrator(logit_N[:60], click_N[:60], none_N[:60], 2, ISOTONIC)

    assert float((few.value_VK - few.knot_VK).abs().max()) < 0.25
    bend_VK = many.value_VK - many.knot_VK
    assert float(bend_VK[1].abs().max()) > 0.3
    torch.testing.assert_close(bend_VK[0], bend_VK[1], atol=0.25, rtol=0)


def test_a_calibrator_without_a_curve_or_with_a_straight_one_is_platts_line() -> None:
    logit_N, view_type_N = torch.linspace(-9, 9, 100), torch.zeros(100, dtype=torch.int64)
    straight = Calibrator(1, num_knots=5)

    torch.testing.assert_close(straight(logit_N, view_type_N), Calibrator(1)(logit_N, view_type_N))
    assert Calibrator(1).state_dict().keys() == {"slope_V", "intercept_V"}


def test_temperature_moves_slopes_alone() -> None:
    rng = np.random.default_rng(1)
    logit_N = rng.normal(-1.0, 1.0, 40_000)
    click_N = rng.random(40_000) < 1 / (1 + np.exp(-0.5 * logit_N))

    fitted = fit_calibrator(logit_N, click_N, np.zeros(40_000, np.int64), 1, CalibrationConfig(method="temperature"))

    assert float(fitted.slope_V[0]) == pytest.approx(0.5, abs=0.05)
    assert float(fitted.intercept_V[0]) == 0.0


def test_a_curve_is_exported_loaded_and_rolled_out_alone(tmp_path: Path) -> None:
    joint = train(some_examples(), a_config(steps=4))
    bent = recalibrate(joint, some_examples(seed=2), calibration=ISOTONIC)
    bent.write(tmp_path / "checkpoint")

    export(joint, tmp_path / "before")
    export(JointCheckpoint.read(tmp_path / "checkpoint"), tmp_path / "after")

    for surface in (HOME_FEED, SEARCH):
        before, after = (load_version(tmp_path / name / surface) for name in ("before", "after"))
        assert after.manifest.version.parts_unlike(before.manifest.version) == (Part.CALIBRATOR,)
        assert after.calibrator.num_knots == 12
    again = recalibrate(JointCheckpoint.read(tmp_path / "checkpoint"), some_examples(seed=2))
    assert torch.equal(again.calibrators[SEARCH].value_VK, bent.calibrators[SEARCH].value_VK)


@pytest.mark.parametrize(("method", "knots"), [("magic", 16), ("isotonic", 1)])
def test_a_senseless_calibration_is_refused(method: str, knots: int) -> None:
    with pytest.raises(InvalidField, match=r"calibration\.(method|num_knots): must be"):
        CalibrationConfig(method=method, num_knots=knots)
