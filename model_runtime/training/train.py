"""Training one network on the impressions of all surfaces, and calibrating it on later ones.

Shapes: N rows of a batch, T tasks.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace

import numpy as np
import torch

from control_plane.domain.errors import InvalidField
from control_plane.domain.model_version import Surface, digest_of
from model_runtime.checkpoints import tensors_of
from model_runtime.networks.calibration import Calibrator
from model_runtime.networks.engagement import (
    CLICK,
    TASKS,
    EngagementNetwork,
    HeadConfig,
    SurfaceHead,
    TrunkConfig,
)
from model_runtime.networks.features import IntArray, RowBatch
from model_runtime.networks.nulls import null_rates_of_rows
from model_runtime.training.calibrate import CalibrationConfig, fit_calibrator
from model_runtime.training.data import Examples, Parts, split_by_time
from model_runtime.training.evaluate import click_logits, expert_shares, held_out_table
from model_runtime.training.fit import FitConfig, Progress, check_precision, fit
from model_runtime.training.joint import JointCheckpoint, weights_of
from model_runtime.training.resume import Resume

UNLABELLED_RATE = 0.01  # what a task answers that has no label on a surface: rare, and the same for all
GOLDEN_ROWS = 64  # rows of a golden check: a few per view type, and it stays a file of kilobytes


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How to train; `steps` cuts short what `epochs` would take. `has_one_head` is the baseline: one for all."""

    seed: int = 0
    epochs: int = 2
    steps: int | None = None
    batch_rows: int = 4_096
    learning_rate: float = 5e-3
    weight_decay: float = 1e-3
    clip_norm: float = 1.0
    warm_up: float = 0.1  # share of the steps over which the learning rate rises; then it falls to 0
    held_out: float = 0.2  # share of each surface's latest rows: half calibrates, half evaluates
    device: str = "cpu"
    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    heads: Mapping[Surface, HeadConfig] = field(default_factory=dict)  # of surfaces whose architecture is their own
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    has_one_head: bool = False
    precision: str = "fp32"  # of PRECISIONS: how matrices are multiplied, weights and losses stay fp32

    def __post_init__(self) -> None:
        for name, lowest in (("epochs", 1), ("batch_rows", 1)):
            if getattr(self, name) < lowest:
                raise InvalidField(name, f"must be at least {lowest}, not {getattr(self, name)}")
        if self.steps is not None and self.steps < 1:
            raise InvalidField("steps", f"must be at least 1, not {self.steps}")
        if not 0 < self.held_out < 1:
            raise InvalidField("held_out", f"must be a share between 0 and 1, not {self.held_out}")
        if not self.learning_rate > 0:
            raise InvalidField("learning_rate", f"must be above 0, not {self.learning_rate}")
        check_precision(self.precision)

    @property
    def fit(self) -> FitConfig:
        """The part of it that the loop reads."""
        return FitConfig(**{entry.name: getattr(self, entry.name) for entry in fields(FitConfig)})


def train(
    examples: Examples,
    config: TrainConfig,
    *,
    progress: Progress | None = None,
    resume: Resume | None = None,
    start: EngagementNetwork | None = None,
) -> JointCheckpoint:
    """Train, calibrate and evaluate; the same examples and config give the same bits on the same machine.

    The metrics are those of calibrators fitted on the earlier half of what was held out; those that ship are
    fitted on all of it, since clicks are few and the latest matter most.

    Args:
        resume: saves the run's state, and goes on from what an earlier call of the same run saved.
        start: a network to go on from, instead of a new one; it stays as it is.
    """
    parts = {surface: split_by_time(examples, surface, config.held_out) for surface in examples.spec.surfaces}
    rows = {surface: part.training for surface, part in parts.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = _new_network(examples, config, rows) if start is None else _taken_over(start, examples)
        fit(network.to(config.device), examples, rows, config.fit, progress=progress, resume=resume)
    network = network.eval().to("cpu")
    measured = {
        surface: calibrate(network, examples, surface, part.calibration, config.calibration)
        for surface, part in parts.items()
    }
    return JointCheckpoint(
        network=network,
        calibrators={
            surface: calibrate(network, examples, surface, part.held_out, config.calibration)
            for surface, part in parts.items()
        },
        golden={surface: golden_rows(examples, surface, parts[surface]) for surface in parts},
        training_run=run_name(network, config),
        metrics={
            "config": asdict(config),
            "held_out": held_out_table(network, measured, examples, parts),
            "experts": {surface: expert_shares(network, examples, surface, parts[surface]) for surface in parts},
        },
        null_rates={surface: null_rates_of_rows(examples.rows.take(part.training)) for surface, part in parts.items()},
        fitted_on=weights_of(network),
    )


def recalibrate(
    joint: JointCheckpoint,
    examples: Examples,
    *,
    after_ms: int | None = None,
    calibration: CalibrationConfig | None = None,
) -> JointCheckpoint:
    """The same network with calibrators fitted anew, on rows that it was not trained on: those served at `after_ms`
    or later. A surface without such rows keeps its calibrator. They are of the kind that was there, if none is named.

    Raises:
        InvalidField: the rows have other features than the network, or none is late enough.
    """
    if examples.spec != joint.spec:
        raise InvalidField("features", "must be those that the checkpoint was trained on")
    is_late_N = examples.served_at_ms_N >= (after_ms if after_ms is not None else examples.served_at_ms_N.min())
    rows = {surface: examples.rows_of(surface) for surface in joint.spec.surfaces}
    late = {surface: row_M[is_late_N[row_M]] for surface, row_M in rows.items()}
    if not any(map(len, late.values())):
        raise InvalidField("after_ms", "leaves no row to calibrate on")
    fitted = {
        surface: calibrate(joint.network, examples, surface, row_M, calibration or _kind_of(joint.calibrators[surface]))
        for surface, row_M in late.items()
        if len(row_M)
    }
    weights = weights_of(joint.network)
    return replace(
        joint,
        calibrators={**joint.calibrators, **fitted},
        fitted_on={**joint.fitted_on, **{surface: weights[surface] for surface in fitted}},
    )


def run_name(network: EngagementNetwork, config: TrainConfig) -> str:
    return f"{digest_of(tensors_of(network.trunk))[7:19]}-seed-{config.seed}"


def _new_network(examples: Examples, config: TrainConfig, rows: Mapping[Surface, IntArray]) -> EngagementNetwork:
    heads = {surface: config.heads.get(surface, config.head) for surface in examples.spec.surfaces}
    network = EngagementNetwork(examples.spec, config.trunk, heads, has_one_head=config.has_one_head)
    start_at_base_rates(network, examples, rows)
    return network


def _taken_over(start: EngagementNetwork, examples: Examples) -> EngagementNetwork:
    if start.spec != examples.spec:
        raise InvalidField("features", "must be those of the network to go on from")
    return copy.deepcopy(start)


def start_at_base_rates(network: EngagementNetwork, examples: Examples, rows: Mapping[Surface, IntArray]) -> None:
    """Heads start at their tasks' rates; a task without labels answers a constant, not noise."""
    for head, of_head in _rows_by_head(network, rows):
        label_NT = examples.label_NT[of_head]
        for task in range(len(TASKS)):
            label_N = label_NT[:, task][~np.isnan(label_NT[:, task])]
            rate = (label_N.sum() + UNLABELLED_RATE) / (len(label_N) + 1)
            with torch.no_grad():
                head.bias_T[task] = float(np.log(rate) - np.log1p(-rate))
                if len(label_N) == 0:
                    head.weight_TG[task] = 0.0


def _rows_by_head(
    network: EngagementNetwork, rows: Mapping[Surface, IntArray]
) -> Iterator[tuple[SurfaceHead, IntArray]]:
    """Each head once, with the rows of all surfaces that it answers."""
    heads = {surface: network.head_of(surface) for surface in rows}
    for head in dict.fromkeys(heads.values()):
        yield head, np.concatenate([rows[surface] for surface, its_head in heads.items() if its_head is head])


def calibrate(
    network: EngagementNetwork, examples: Examples, surface: Surface, row_M: IntArray, config: CalibrationConfig
) -> Calibrator:
    logit_M, view_type_M = click_logits(network, examples, surface, row_M)
    click_M = examples.label_NT[row_M, CLICK] > 0
    num_view_types = len(examples.spec.view_types[surface])
    return fit_calibrator(logit_M.astype(np.float64), click_M, view_type_M, num_view_types, config)


def _kind_of(calibrator: Calibrator) -> CalibrationConfig:
    """A curve again where there was one."""
    if calibrator.num_knots:
        return CalibrationConfig(method="isotonic", num_knots=calibrator.num_knots)
    return CalibrationConfig()


def golden_rows(examples: Examples, surface: Surface, parts: Parts) -> RowBatch:
    """Held-out rows spread over the evaluation part."""
    spread = np.linspace(0, len(parts.evaluation) - 1, num=min(GOLDEN_ROWS, len(parts.evaluation)))
    rows = examples.batch(parts.evaluation[spread.astype(np.int64)])
    return rows.of_surface(examples.spec, surface)
