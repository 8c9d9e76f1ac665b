"""Training one network on the impressions of all surfaces, and calibrating it on later ones.

Shapes: N rows of a batch, T tasks.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from control_plane.domain.errors import InvalidField
from control_plane.domain.model_version import Surface, digest_of
from model_runtime.checkpoints import tensors_of
from model_runtime.networks.calibration import Calibrator
from model_runtime.networks.engagement import (
    CLICK,
    TASKS,
    EngagementNetwork,
    HeadConfig,
    TrunkConfig,
    mixed_to_tensors,
)
from model_runtime.networks.features import IntArray, RowBatch
from model_runtime.networks.nulls import null_rates_of_rows
from model_runtime.training.calibrate import fit_calibrator
from model_runtime.training.data import Examples, Parts, split_by_time
from model_runtime.training.evaluate import click_logits, expert_shares, held_out_table
from model_runtime.training.joint import JointCheckpoint, weights_of

TASK_WEIGHT = {"click": 1.0, "good_click": 0.5, "hide": 0.5}  # the click is what ranks; the others regularise
UNLABELLED_RATE = 0.01  # what a task answers that has no label on a surface: rare, and the same for all
GOLDEN_ROWS = 64  # rows of a golden check: a few per view type, and it stays a file of kilobytes

Progress = Callable[[int, int, float], None]  # step, steps, loss


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How to train; `steps` cuts short what `epochs` would take."""

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


def train(examples: Examples, config: TrainConfig, *, progress: Progress | None = None) -> JointCheckpoint:
    """Train, calibrate and evaluate; the same examples and config give the same bits on the same machine.

    The metrics are those of calibrators fitted on the earlier half of what was held out; those that ship are
    fitted on all of it, since clicks are few and the latest matter most.
    """
    parts = {surface: split_by_time(examples, surface, config.held_out) for surface in examples.spec.surfaces}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        heads = {surface: config.heads.get(surface, config.head) for surface in examples.spec.surfaces}
        network = EngagementNetwork(examples.spec, config.trunk, heads).to(config.device)
    _start_at_base_rates(network, examples, parts)
    _fit(network, examples, parts, config, progress)
    network = network.eval().to("cpu")
    measured = {surface: _calibrate(network, examples, surface, part.calibration) for surface, part in parts.items()}
    return JointCheckpoint(
        network=network,
        calibrators={surface: _calibrate(network, examples, surface, part.held_out) for surface, part in parts.items()},
        golden={surface: _golden_rows(examples, surface, parts[surface]) for surface in parts},
        training_run=f"{digest_of(tensors_of(network.trunk))[7:19]}-seed-{config.seed}",
        metrics={
            "config": asdict(config),
            "held_out": held_out_table(network, measured, examples, parts),
            "experts": {surface: expert_shares(network, examples, surface, parts[surface]) for surface in parts},
        },
        null_rates={surface: null_rates_of_rows(examples.rows.take(part.training)) for surface, part in parts.items()},
        fitted_on=weights_of(network),
    )


def recalibrate(joint: JointCheckpoint, examples: Examples, *, after_ms: int | None = None) -> JointCheckpoint:
    """The same network with calibrators fitted anew, on rows that it was not trained on: those served at `after_ms`
    or later. A surface without such rows keeps its calibrator.

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
        surface: _calibrate(joint.network, examples, surface, row_M) for surface, row_M in late.items() if len(row_M)
    }
    weights = weights_of(joint.network)
    return replace(
        joint,
        calibrators={**joint.calibrators, **fitted},
        fitted_on={**joint.fitted_on, **{surface: weights[surface] for surface in fitted}},
    )


def mixed_batches(
    row_S: list[IntArray], batch_rows: int, epochs: int, rng: np.random.Generator
) -> Iterator[list[IntArray]]:
    """Per step, the rows of each surface: every surface in every step, by its share; every row once an epoch."""
    num_batches = max(1, round(sum(map(len, row_S)) / batch_rows))
    for _ in range(epochs):
        shuffled = [np.array_split(rng.permutation(row_M), num_batches) for row_M in row_S]
        for batch in zip(*shuffled, strict=True):
            yield list(batch)


def masked_loss(logit_NT: Tensor, label_NT: Tensor) -> Tensor:
    """Log loss per task over the rows whose label is known, added up by weight; a task without any adds 0."""
    is_known_NT = ~label_NT.isnan()
    loss_NT = functional.binary_cross_entropy_with_logits(logit_NT, label_NT.nan_to_num(0.0), reduction="none")
    mean_T = (loss_NT * is_known_NT).sum(0) / is_known_NT.sum(0).clamp(min=1)
    return (mean_T * mean_T.new_tensor([TASK_WEIGHT[task] for task in TASKS])).sum()


def _start_at_base_rates(network: EngagementNetwork, examples: Examples, parts: Mapping[Surface, Parts]) -> None:
    """Heads start at their tasks' rates; a task without labels answers a constant, not noise."""
    for surface, part in parts.items():
        head, label_NT = network.head_of(surface), examples.label_NT[part.training]
        for task in range(len(TASKS)):
            label_N = label_NT[:, task][~np.isnan(label_NT[:, task])]
            rate = (label_N.sum() + UNLABELLED_RATE) / (len(label_N) + 1)
            with torch.no_grad():
                head.bias_T[task] = float(np.log(rate) - np.log1p(-rate))
                if len(label_N) == 0:
                    head.weight_TG[task] = 0.0


def _fit(
    network: EngagementNetwork,
    examples: Examples,
    parts: Mapping[Surface, Parts],
    config: TrainConfig,
    progress: Progress | None,
) -> None:
    rows = [part.training for part in parts.values()]
    batches = mixed_batches(rows, config.batch_rows, config.epochs, np.random.default_rng(config.seed))
    num_steps = max(1, round(sum(map(len, rows)) / config.batch_rows)) * config.epochs
    num_steps = min(num_steps, config.steps or num_steps)
    matrices = [weight for weight in network.parameters() if weight.ndim > 1]
    vectors = [weight for weight in network.parameters() if weight.ndim == 1]  # biases and norms: decay would bias them
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=config.learning_rate,
    )
    network.train()
    for step, batch in zip(range(num_steps), batches, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _learning_rate_share(step, num_steps, config.warm_up)
        loss = _step(network, examples, batch, optimizer, config)
        if progress is not None:
            progress(step + 1, num_steps, loss)


def _step(
    network: EngagementNetwork,
    examples: Examples,
    batch: list[IntArray],
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
) -> float:
    row_N = np.concatenate(batch)
    rows = mixed_to_tensors(examples.batch(row_N), examples.contexts(row_N), device=config.device)
    label_NT = torch.from_numpy(examples.label_NT[row_N]).to(config.device)
    shared = network.trunk(rows)
    ends = np.cumsum([len(part) for part in batch])
    parts = [slice(end - len(part), end) for part, end in zip(batch, ends, strict=True)]
    logit_NT = torch.cat(
        [
            network.head_of(surface)(shared.rows(part), rows.rows(part).own)
            for surface, part in zip(examples.spec.surfaces, parts, strict=True)
        ]
    )
    loss = masked_loss(logit_NT, label_NT)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    nn.utils.clip_grad_norm_(network.parameters(), config.clip_norm)
    optimizer.step()
    return float(loss.detach())


def _learning_rate_share(step: int, num_steps: int, warm_up: float) -> float:
    """Up in a line over the warm-up, then down in a line to 0."""
    rising = (step + 1) / max(1.0, warm_up * num_steps)
    falling = (num_steps - step) / max(1.0, (1 - warm_up) * num_steps)
    return min(1.0, rising, falling)


def _calibrate(network: EngagementNetwork, examples: Examples, surface: Surface, row_M: IntArray) -> Calibrator:
    logit_M, view_type_M = click_logits(network, examples, surface, row_M)
    click_M = examples.label_NT[row_M, CLICK] > 0
    return fit_calibrator(logit_M.astype(np.float64), click_M, view_type_M, len(examples.spec.view_types[surface]))


def _golden_rows(examples: Examples, surface: Surface, parts: Parts) -> RowBatch:
    """Held-out rows spread over the evaluation part."""
    spread = np.linspace(0, len(parts.evaluation) - 1, num=min(GOLDEN_ROWS, len(parts.evaluation)))
    rows = examples.batch(parts.evaluation[spread.astype(np.int64)])
    return rows.of_surface(examples.spec, surface)
