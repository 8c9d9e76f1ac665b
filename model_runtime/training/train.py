"""Training one network on the impressions of all surfaces, and calibrating it on later ones.

Shapes: N rows of a batch, T tasks.
"""

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace

import numpy as np
import torch

from control_plane.domain.errors import InvalidField
from control_plane.domain.model_version import Surface, digest_of
from model_runtime.checkpoints import tensors_of
from model_runtime.networks.calibration import Calibrator
from model_runtime.networks.engagement import (
    TASKS,
    EngagementNetwork,
    HeadConfig,
    TrunkConfig,
)
from model_runtime.networks.features import FeatureSpec, IntArray, RowBatch
from model_runtime.training.calibrate import CalibrationConfig, fit_calibrator
from model_runtime.training.data import Examples, Parts
from model_runtime.training.evaluate import GOLDEN_ROWS, Scored, expert_table, held_out_table, score_held_out, scored
from model_runtime.training.fit import FitConfig, Progress, check_precision, fit
from model_runtime.training.joint import JointCheckpoint, weights_of
from model_runtime.training.resume import Resume
from model_runtime.training.stream import Stream
from model_runtime.training.windows import Rates, in_memory, training_rates

UNLABELLED_RATE = 0.01  # what a task answers that has no label on a surface: rare, and the same for all


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
    examples: Examples | Stream,
    config: TrainConfig,
    *,
    progress: Progress | None = None,
    resume: Resume | None = None,
    start: EngagementNetwork | None = None,
) -> JointCheckpoint:
    """Train, calibrate and evaluate; the same examples and config give the same bits on the same machine.

    Of a stream only as much is in memory as its buffer holds. It has the same rows held out as the same examples in
    memory, and other batches.

    The metrics are those of calibrators fitted on the earlier half of what was held out; those that ship are
    fitted on all of it, since clicks are few and the latest matter most.

    Args:
        resume: saves the run's state, and goes on from what an earlier call of the same run saved.
        start: a network to go on from, instead of a new one; it stays as it is.
    """
    data = in_memory(examples, config.held_out) if isinstance(examples, Examples) else examples.split(config.held_out)
    rates = training_rates(data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = _new_network(data.spec, config, rates) if start is None else _taken_over(start, data.spec)
        losses = fit(network.to(config.device), data, config.fit, progress=progress, resume=resume)
    network = network.eval().to("cpu")
    held_out = score_held_out(network, data)
    measured = {surface: calibrate(data.spec, surface, each.calibration, config) for surface, each in held_out.items()}
    return JointCheckpoint(
        network=network,
        calibrators={surface: calibrate(data.spec, surface, each.all, config) for surface, each in held_out.items()},
        golden={surface: each.golden for surface, each in held_out.items()},
        training_run=run_name(network, config),
        metrics={
            "config": asdict(config),
            "sizes": {surface: list(sizes) for surface, sizes in data.sizes.items()},
            "held_out": held_out_table(data.spec, measured, held_out),
            "experts": expert_table(held_out),
            "losses": losses.points(),
        },
        null_rates={surface: rates[surface].null_F for surface in data.spec.surfaces},
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
    if replace(examples.spec, surface_order=()) != replace(joint.spec, surface_order=()):
        raise InvalidField("features", "must be those that the checkpoint was trained on")
    examples = replace(examples, spec=joint.spec)  # in which order the surfaces came is the checkpoint's to say
    is_late_N = examples.served_at_ms_N >= (after_ms if after_ms is not None else examples.served_at_ms_N.min())
    rows = {surface: examples.rows_of(surface) for surface in joint.spec.surfaces}
    late = {surface: row_M[is_late_N[row_M]] for surface, row_M in rows.items()}
    if not any(map(len, late.values())):
        raise InvalidField("after_ms", "leaves no row to calibrate on")
    fitted = {
        surface: _recalibrated(joint, examples, surface, row_M, calibration)
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


def _recalibrated(
    joint: JointCheckpoint,
    examples: Examples,
    surface: Surface,
    row_M: IntArray,
    calibration: CalibrationConfig | None,
) -> Calibrator:
    found = scored(joint.network, examples, surface, row_M)
    return calibrated(joint.spec, surface, found, calibration or _kind_of(joint.calibrators[surface]))


def _new_network(spec: FeatureSpec, config: TrainConfig, rates: Mapping[Surface, Rates]) -> EngagementNetwork:
    heads = {surface: config.heads.get(surface, config.head) for surface in spec.surfaces}
    network = EngagementNetwork(spec, config.trunk, heads, has_one_head=config.has_one_head)
    start_at_base_rates(network, rates)
    return network


def _taken_over(start: EngagementNetwork, spec: FeatureSpec) -> EngagementNetwork:
    if start.spec != spec:
        raise InvalidField("features", "must be those of the network to go on from")
    return copy.deepcopy(start)


def start_at_base_rates(network: EngagementNetwork, rates: Mapping[Surface, Rates]) -> None:
    """Heads start at their tasks' rates, over all surfaces that they answer; a task without labels answers a
    constant, not noise.
    """
    heads = {surface: network.head_of(surface) for surface in rates}
    for head in dict.fromkeys(heads.values()):
        of_head = [rates[surface] for surface, its_head in heads.items() if its_head is head]
        for task in range(len(TASKS)):
            yes, known = (float(sum(each[part][task] for each in of_head)) for part in (0, 1))
            rate = (yes + UNLABELLED_RATE) / (known + 1)
            with torch.no_grad():
                head.bias_T[task] = float(np.log(rate) - np.log1p(-rate))
                if known == 0:
                    head.weight_TG[task] = 0.0


def calibrate(spec: FeatureSpec, surface: Surface, rows: Scored, config: TrainConfig) -> Calibrator:
    return calibrated(spec, surface, rows, config.calibration)


def calibrated(spec: FeatureSpec, surface: Surface, rows: Scored, config: CalibrationConfig) -> Calibrator:
    """The calibrator that is fitted on these rows."""
    num_view_types = len(spec.view_types[surface])
    return fit_calibrator(rows.logit_M.astype(np.float64), rows.is_click_M, rows.view_type_M, num_view_types, config)


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
