"""The comparison of one unified model with others: what it counts, and that it runs."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.unified import (
    QUICK,
    SEPARATE_HEAD,
    SEPARATE_TRUNK,
    UNIFIED_HEAD,
    UNIFIED_TRUNK,
    expected_entropy,
    interval,
    of_surface,
    parameters,
)
from model_runtime.training.generate import GeneratorConfig, features
from tests.networks.builders import SEARCH
from tests.training.builders import rich_examples

ROOT = Path(__file__).parents[2]


def test_the_truth_has_the_lowest_expected_entropy_and_the_base_rate_1() -> None:
    true_N = np.random.default_rng(0).beta(2, 10, 5_000)

    assert expected_entropy(true_N, np.full(5_000, true_N.mean())) == pytest.approx(1.0)
    best = expected_entropy(true_N, true_N)
    assert best < min(expected_entropy(true_N, factor * true_N) for factor in (0.8, 0.95, 1.05, 1.15))


def test_an_interval_over_seeds_is_the_t_interval() -> None:
    mean, half = interval([1.0, 2.0, 3.0, 4.0, 5.0])

    assert mean == 3.0
    assert half == pytest.approx(2.776 * math.sqrt(2.5) / math.sqrt(5), rel=1e-3)


def test_one_surfaces_rows_are_the_same_under_a_contract_of_its_own() -> None:
    examples = rich_examples()
    row_M = examples.rows_of(SEARCH)

    own = of_surface(examples, SEARCH)

    assert own.spec.surfaces == (SEARCH,)
    assert own.num_rows == len(row_M)
    np.testing.assert_array_equal(own.rows.candidate_dense_ND, examples.rows.candidate_dense_ND[row_M])
    np.testing.assert_array_equal(own.label_NT, examples.label_NT[row_M])
    history_ML = examples.rows.history_UL[examples.rows.user_index_N[row_M]]
    np.testing.assert_array_equal(own.rows.history_UL[own.rows.user_index_N], history_ML)


def test_three_separate_models_have_as_many_parameters_as_the_unified_one() -> None:
    spec = features(GeneratorConfig())
    alone = [spec.of_surfaces([surface]) for surface in spec.surfaces]

    unified = parameters(spec, UNIFIED_TRUNK, UNIFIED_HEAD)
    separate = sum(parameters(each, SEPARATE_TRUNK, SEPARATE_HEAD) for each in alone)

    assert unified <= separate <= 1.03 * unified


@pytest.mark.slow
def test_a_quick_run_prints_its_figures_last() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.unified", "--quick"], cwd=ROOT, capture_output=True, text=True, check=True
    )

    figures = json.loads(done.stdout.splitlines()[-1])["figures"]
    assert all(math.isfinite(value) for value in figures.values())
    assert figures["seeds"] == QUICK.seeds
    for surface in ("home_feed", "search", "related_pins"):
        for way in ("unified", "global_layer", "separate"):
            assert figures[f"ne_truth_{surface}"] < figures[f"ne_{way}_{surface}"]
    assert f"seed {QUICK.seeds} done" in done.stderr
