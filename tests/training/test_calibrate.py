"""Calibrators: a shifted base rate is mended per view type, and few clicks move little."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model_runtime.training.calibrate import IDENTITY, SURFACE_SPREAD, Platt, fit_calibrator, fit_platt
from model_runtime.training.evaluate import quality


def draw(logit_N: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.bool_]:
    return np.asarray(rng.random(len(logit_N)) < 1 / (1 + np.exp(-logit_N)))


def test_a_base_rate_shifted_on_one_view_type_is_mended_there_and_only_there() -> None:
    rng = np.random.default_rng(0)
    logit_N, view_type_N = rng.normal(-3.0, 0.7, 80_000), rng.integers(0, 2, 80_000)
    true_logit_N = logit_N + np.where(view_type_N == 1, 0.7, 0.0)
    click_N = draw(true_logit_N, rng)

    calibrator = fit_calibrator(logit_N, click_N, view_type_N, 2)

    later_N = draw(true_logit_N, rng)
    calibrated_N = calibrator(torch.tensor(logit_N, dtype=torch.float32), torch.tensor(view_type_N))
    probability_N = calibrated_N.sigmoid().numpy()
    for view_type in (0, 1):
        is_member_N = view_type_N == view_type
        assert quality(later_N[is_member_N], probability_N[is_member_N]).calibration == pytest.approx(1.0, abs=0.05)
    assert float(calibrator.intercept_V[1] - calibrator.intercept_V[0]) > 0.3


def test_many_clicks_mend_a_slope_too() -> None:
    rng = np.random.default_rng(1)
    logit_N = rng.normal(-2.0, 1.0, 60_000)

    platt = fit_platt(logit_N, draw(0.6 * logit_N - 0.4, rng), IDENTITY, intercept_spread=SURFACE_SPREAD)

    assert platt.slope == pytest.approx(0.6, abs=0.06)
    assert platt.intercept == pytest.approx(-0.4, abs=0.12)


def test_few_clicks_move_only_the_intercept_and_less_than_they_say() -> None:
    logit_N = np.full(1_000, -5.0) + np.linspace(-1, 1, 1_000)
    click_N = np.zeros(1_000, np.bool_)
    click_N[:20] = True

    platt = fit_platt(logit_N, click_N, IDENTITY, intercept_spread=SURFACE_SPREAD)

    told_by_the_rows = np.log(20 / (1 / (1 + np.exp(-logit_N))).sum())
    assert platt.slope == 1.0
    assert 0.2 < platt.intercept < told_by_the_rows


def test_no_rows_leave_the_prior_and_no_clicks_stay_finite() -> None:
    prior = Platt(slope=0.9, intercept=-0.2)
    nothing = fit_platt(np.zeros(0), np.zeros(0, np.bool_), prior, intercept_spread=0.15)
    no_clicks = fit_platt(np.full(500, -4.0), np.zeros(500, np.bool_), prior, intercept_spread=0.15)

    assert nothing == prior
    assert -1.0 < no_clicks.intercept < prior.intercept


def test_a_view_type_without_rows_gets_the_layer_of_its_surface() -> None:
    rng = np.random.default_rng(2)
    logit_N = rng.normal(-3.0, 0.5, 20_000)
    click_N = draw(logit_N + 0.5, rng)

    calibrator = fit_calibrator(logit_N, click_N, np.zeros(20_000, np.int64), 2)

    surface = fit_platt(logit_N, click_N, IDENTITY, intercept_spread=SURFACE_SPREAD)
    assert float(calibrator.intercept_V[1]) == pytest.approx(surface.intercept, abs=1e-6)
