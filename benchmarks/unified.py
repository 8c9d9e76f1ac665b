"""One unified model beside three separate ones of the same total parameters, and beside one global calibration layer.

On generated rows whose click probabilities are known: a network for all surfaces, three networks that each see one
surface's rows and, where asked, three that are each as large as the unified one. All get the same rows, the same steps
and a calibrator per view type. Layouts change when 90 % of the training rows have been served: the rows that
calibrators are fitted on, and those that judge, are of the time after.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from scipy import stats

from benchmarks.report import report
from control_plane.domain.model_version import Surface
from model_runtime.networks.attention import AttentionConfig
from model_runtime.networks.calibration import Calibrator
from model_runtime.networks.crossing import CrossingConfig, ProjectionConfig
from model_runtime.networks.embeddings import EmbeddingConfig
from model_runtime.networks.engagement import CLICK, EngagementNetwork, HeadConfig, TrunkConfig
from model_runtime.networks.experts import ExpertsConfig
from model_runtime.networks.features import FeatureSpec
from model_runtime.networks.sequence import SequenceConfig
from model_runtime.training.calibrate import fit_calibrator
from model_runtime.training.data import Examples, examples_of, split_by_time
from model_runtime.training.evaluate import click_logits
from model_runtime.training.generate import GeneratorConfig, features, tables
from model_runtime.training.joint import JointCheckpoint
from model_runtime.training.train import TrainConfig, train

Float64Array = NDArray[np.float64]

WITHIN = 0.02  # of a calibration ratio: the bar for each view type
UNIFIED, GLOBAL, SEPARATE, LARGE = "unified", "global layer", "separate", "separate, each as large"
BATCH_ROWS = 1_024
LEARNING_RATE = 5e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Rows of one seed, in the order of time; `epochs` pass over the training rows."""

    seeds: int
    training: int
    calibration: int
    evaluation: int
    epochs: int
    has_large: bool = False

    @property
    def rows(self) -> int:
        return self.training + self.calibration + self.evaluation


FULL = Sizes(seeds=5, training=240_000, calibration=480_000, evaluation=200_000, epochs=2)
QUICK = Sizes(seeds=2, training=24_000, calibration=36_000, evaluation=24_000, epochs=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """The evaluation rows, and the rows that calibrators are fitted on, of one seed."""

    examples: Examples  # training and calibration
    later: Examples
    true_N: Float64Array  # of `later`


Scores = Mapping[Surface, Float64Array]  # probabilities of a surface's evaluation rows
Group = tuple[Surface, str]  # a surface, and a view type or "all"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What one way of modelling came to on one seed."""

    excess: Mapping[Surface, float]  # normalised entropy above that of the truth itself
    entropy: Mapping[Surface, float]
    calibration: Mapping[Group, float]  # Σ predicted over Σ true, minus 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two seeds of few rows: shows that it runs, no more")
    parser.add_argument("--seeds", type=int, default=None)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument(
        "--large", action="store_true", help="beside three that are each as large as the unified one, too"
    )
    parser.add_argument("--jobs", type=int, default=1, help="seeds at once, each in a process of one thread")
    arguments = parser.parse_args()
    sizes = QUICK if arguments.quick else FULL
    sizes = replace(sizes, seeds=arguments.seeds or sizes.seeds, has_large=arguments.large)
    if sizes.seeds < 2:
        parser.error("--seeds must be at least 2: an interval needs two")
    compare(sizes, range(arguments.first_seed, arguments.first_seed + sizes.seeds), jobs=arguments.jobs)


def compare(sizes: Sizes, seeds: Sequence[int], *, jobs: int) -> None:
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(partial(_run, sizes), seeds))
    rows, figures = _told([each.outcomes for each in found], found[0].click_rate)
    figures |= _sizes(features(_generator(sizes, 0))) | {"seeds": len(seeds)}
    figures["cpu_s"] = _round(sum(each.cpu_s for each in found))
    report(
        "unified",
        columns=("", "clicks/1000", *found[0].outcomes, "gain of unified over separate", "within 2 %"),
        rows=rows,
        figures=figures,
    )


def _tell(seed: int, outcomes: Mapping[str, Outcome], seconds: float) -> None:
    """Long runs show that they go on."""
    entropies = [
        f"{surface} {' / '.join(f'{each.entropy[surface]:.4f}' for each in outcomes.values())}"
        for surface in outcomes[UNIFIED].entropy
    ]
    print(f"seed {seed} done after {seconds:.0f} s of CPU; NE: {', '.join(entropies)}", file=sys.stderr)


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What one seed came to, by way of modelling."""

    outcomes: Mapping[str, Outcome]
    click_rate: Mapping[Surface, float]
    cpu_s: float


def _run(sizes: Sizes, seed: int) -> Found:
    torch.set_num_threads(1)
    started_s, data = time.process_time(), _data(sizes, seed)
    joint = train(data.examples, _config(sizes, seed, UNIFIED_TRUNK, UNIFIED_HEAD))
    probabilities = {UNIFIED: _scores(data, joint), GLOBAL: _scores(data, with_one_layer(joint, data.examples))}
    ways = [(SEPARATE, SEPARATE_TRUNK, SEPARATE_HEAD)]
    ways += [(LARGE, UNIFIED_TRUNK, UNIFIED_HEAD)] if sizes.has_large else []
    for name, trunk, head in ways:
        probabilities[name] = _separate(data, sizes, seed, trunk, head)
    outcomes = {name: outcome(data, scores) for name, scores in probabilities.items()}
    cpu_s = time.process_time() - started_s
    _tell(seed, outcomes, cpu_s)
    rates = {surface: float(data.true_N[data.later.rows_of(surface)].mean()) for surface in data.later.spec.surfaces}
    return Found(outcomes=outcomes, click_rate=rates, cpu_s=cpu_s)


def _generator(sizes: Sizes, seed: int) -> GeneratorConfig:
    return GeneratorConfig(seed=seed, rows=sizes.rows, changes_at=0.9 * sizes.training / sizes.rows)


def _data(sizes: Sizes, seed: int) -> Evaluation:
    config = _generator(sizes, seed)
    table, spec = pa.concat_tables(tables(config)), features(config)
    later = table.slice(sizes.training + sizes.calibration)
    return Evaluation(
        examples=examples_of(spec, table.slice(0, sizes.training + sizes.calibration)),
        later=examples_of(spec, later),
        true_N=later["true_click"].to_numpy(),
    )


UNIFIED_TRUNK = TrunkConfig(
    embedding=EmbeddingConfig(width=8),
    sequence=SequenceConfig(width=16, num_heads=2, num_layers=1),
    projection=ProjectionConfig(rank=4, width=8),
    crossing=CrossingConfig(num_layers=2, rank=8),
    experts=ExpertsConfig(num_experts=4, width=16),
    attention=AttentionConfig(width=8, num_heads=2),
)
UNIFIED_HEAD = HeadConfig(tower_width=16)
SEPARATE_TRUNK = TrunkConfig(  # three of them, with their heads, have 1.5 % more parameters than the unified one
    embedding=EmbeddingConfig(width=3),
    sequence=SequenceConfig(width=8, num_heads=2, num_layers=1),
    projection=ProjectionConfig(rank=4, width=8),
    crossing=CrossingConfig(num_layers=2, rank=8),
    experts=ExpertsConfig(num_experts=3, width=12),
    attention=AttentionConfig(width=6, num_heads=2),
)
SEPARATE_HEAD = HeadConfig(tower_width=12)


def _config(sizes: Sizes, seed: int, trunk: TrunkConfig, head: HeadConfig, share: float = 1.0) -> TrainConfig:
    return TrainConfig(
        seed=seed,
        epochs=sizes.epochs,
        batch_rows=round(BATCH_ROWS * share),
        learning_rate=LEARNING_RATE,
        held_out=sizes.calibration / (sizes.training + sizes.calibration),
        trunk=trunk,
        head=head,
    )


def _separate(data: Evaluation, sizes: Sizes, seed: int, trunk: TrunkConfig, head: HeadConfig) -> Scores:
    """A network for each surface, with the rows that the unified one sees of it in each step."""
    scores: dict[Surface, Float64Array] = {}
    for surface in data.examples.spec.surfaces:
        own = of_surface(data.examples, surface)
        share = own.num_rows / data.examples.num_rows
        joint = train(own, _config(sizes, seed, trunk, head, share))
        later = of_surface(data.later, surface)
        scores[surface] = probabilities_of(joint, later, surface)
    return scores


def of_surface(examples: Examples, surface: Surface) -> Examples:
    """One surface's rows, under a contract that knows no other."""
    row_M = examples.rows_of(surface)
    return Examples(
        spec=examples.spec.of_surfaces([surface]),
        surface_N=np.zeros(len(row_M), np.int64),
        served_at_ms_N=examples.served_at_ms_N[row_M],
        rows=examples.batch(row_M).of_surface(examples.spec, surface),
        label_NT=examples.label_NT[row_M],
    )


def with_one_layer(joint: JointCheckpoint, examples: Examples) -> JointCheckpoint:
    """The same network with one calibration layer for all surfaces and view types, fitted on the same rows."""
    held_out = 0.0
    logits, clicks = [], []
    for surface in joint.spec.surfaces:
        config = joint.metrics["config"]
        assert isinstance(config, dict)
        held_out = config["held_out"]
        row_M = split_by_time(examples, surface, held_out).held_out
        logits.append(click_logits(joint.network, examples, surface, row_M)[0].astype(np.float64))
        clicks.append(examples.label_NT[row_M, CLICK] > 0)
    logit_N = np.concatenate(logits)
    layer = fit_calibrator(logit_N, np.concatenate(clicks), np.zeros(len(logit_N), np.int64), 1)
    calibrators = {surface: _repeated(layer, len(joint.spec.view_types[surface])) for surface in joint.spec.surfaces}
    return replace(joint, calibrators=calibrators)


def _repeated(layer: Calibrator, num_view_types: int) -> Calibrator:
    calibrator = Calibrator(num_view_types)
    calibrator.slope_V.fill_(float(layer.slope_V))
    calibrator.intercept_V.fill_(float(layer.intercept_V))
    return calibrator


def _scores(data: Evaluation, joint: JointCheckpoint) -> Scores:
    return {surface: probabilities_of(joint, data.later, surface) for surface in joint.spec.surfaces}


def probabilities_of(joint: JointCheckpoint, examples: Examples, surface: Surface) -> Float64Array:
    logit_M, view_type_M = click_logits(joint.network, examples, surface, examples.rows_of(surface))
    with torch.inference_mode():
        calibrated_M = joint.calibrators[surface](torch.from_numpy(logit_M), torch.from_numpy(view_type_M))
        probability_M: Float64Array = calibrated_M.double().sigmoid().numpy()
    return probability_M


def outcome(data: Evaluation, scores: Scores) -> Outcome:
    entropy, excess, calibration = {}, {}, {}
    for surface, probability_M in scores.items():
        row_M = data.later.rows_of(surface)
        true_M, view_type_M = data.true_N[row_M], data.later.rows.view_type_N[row_M]
        entropy[surface] = expected_entropy(true_M, probability_M)
        excess[surface] = entropy[surface] - expected_entropy(true_M, true_M)
        calibration[(surface, "all")] = _off(true_M, probability_M)
        for index, name in enumerate(data.later.spec.view_types[surface]):
            is_member_M = view_type_M == index
            calibration[(surface, str(name))] = _off(true_M[is_member_M], probability_M[is_member_M])
    return Outcome(entropy=entropy, excess=excess, calibration=calibration)


def expected_entropy(true_N: Float64Array, probability_N: Float64Array) -> float:
    """Normalised entropy in expectation over the clicks: with each click's probability in the click's place.

    Source:
        He et al., ADKDD 2014, eq. 3.
    """
    loss = -(true_N * np.log(probability_N) + (1 - true_N) * np.log1p(-probability_N)).mean()
    rate = true_N.mean()
    return float(loss / -(rate * math.log(rate) + (1 - rate) * math.log1p(-rate)))


def _off(true_N: Float64Array, probability_N: Float64Array) -> float:
    return float(probability_N.sum() / true_N.sum() - 1)


def _told(
    outcomes: Sequence[Mapping[str, Outcome]], click_rate: Mapping[Surface, float]
) -> tuple[list[tuple[str, ...]], dict[str, float]]:
    ways = list(outcomes[0])
    rows: list[tuple[str, ...]] = []
    figures: dict[str, float] = {}
    for surface in outcomes[0][UNIFIED].entropy:
        for name in ways:
            values = [each[name].entropy[surface] for each in outcomes]
            figures[f"ne_{_key(name)}_{surface}"] = _round(statistics.mean(values))
        best = [each[UNIFIED].entropy[surface] - each[UNIFIED].excess[surface] for each in outcomes]
        figures[f"ne_truth_{surface}"] = _round(statistics.mean(best))
        for other in ways[1:]:
            gains = [each[other].entropy[surface] / each[UNIFIED].entropy[surface] - 1 for each in outcomes]
            mean, half = interval(gains)
            figures |= {
                f"ne_gain_over_{_key(other)}_{surface}": _round(mean),
                f"ne_gain_over_{_key(other)}_{surface}_half_width": _round(half),
            }
        rows.append(_entropy_row(surface, ways, figures, click_rate[surface]))
    rows += [_calibration_row(group, ways, figures, outcomes) for group in outcomes[0][UNIFIED].calibration]
    figures["view_types_within_2pct"] = float(sum(row[-1] == "yes" for row in rows))
    return rows, figures


def _entropy_row(surface: Surface, ways: Sequence[str], figures: Mapping[str, float], rate: float) -> tuple[str, ...]:
    gain, half = (figures[f"ne_gain_over_separate_{surface}{end}"] for end in ("", "_half_width"))
    return (
        f"NE, {surface} (truth: {figures[f'ne_truth_{surface}']:.4f})",
        f"{1000 * rate:.0f}",
        *(f"{figures[f'ne_{_key(way)}_{surface}']:.4f}" for way in ways),
        f"{100 * gain:+.2f} % ± {100 * half:.2f}",
        "",
    )


def _calibration_row(
    group: Group, ways: Sequence[str], figures: dict[str, float], outcomes: Sequence[Mapping[str, Outcome]]
) -> tuple[str, ...]:
    surface, name = group
    cells = []
    for way in ways:
        mean, half = interval([each[way].calibration[group] for each in outcomes])
        most = max(abs(each[way].calibration[group]) for each in outcomes)
        key = f"calibration_{_key(way)}_{surface}_{name}"
        figures |= {key: _round(mean), f"{key}_half_width": _round(half), f"{key}_most": _round(most)}
        cells.append(f"{100 * mean:+.2f} % ± {100 * half:.2f}")
    unified = abs(figures[f"calibration_{UNIFIED}_{surface}_{name}"])
    verdict = "yes" if unified <= WITHIN else "NO"
    is_view_type = name != "all"
    return (f"off by, {surface} {name}", "", *cells, "", verdict if is_view_type else "")


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % t-interval over the seeds."""
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), half


def parameters(spec: FeatureSpec, trunk: TrunkConfig, head: HeadConfig) -> int:
    """Of a network for all surfaces of the spec."""
    network = EngagementNetwork(spec, trunk, dict.fromkeys(spec.surfaces, head))
    return sum(weight.numel() for weight in network.parameters())


def _sizes(spec: FeatureSpec) -> dict[str, float]:
    alone = [spec.of_surfaces([surface]) for surface in spec.surfaces]
    return {
        "parameters_unified": parameters(spec, UNIFIED_TRUNK, UNIFIED_HEAD),
        "parameters_separate": sum(parameters(each, SEPARATE_TRUNK, SEPARATE_HEAD) for each in alone),
        "parameters_separate_each_as_large": sum(parameters(each, UNIFIED_TRUNK, UNIFIED_HEAD) for each in alone),
    }


def _key(way: str) -> str:
    return way.replace(",", "").replace(" ", "_")


def _round(value: float) -> float:
    return float(f"{value:.4g}")


if __name__ == "__main__":
    main()
