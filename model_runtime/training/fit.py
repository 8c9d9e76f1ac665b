"""The training loop: batches that mix all surfaces, one loss over all tasks, and a state to go on from.

Shapes: N rows of a batch, T tasks.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from control_plane.domain.errors import InvalidField
from control_plane.domain.model_version import Surface
from model_runtime.networks.engagement import TASKS, EngagementNetwork, mixed_to_tensors
from model_runtime.training.losses import LossCurve
from model_runtime.training.resume import Resume
from model_runtime.training.windows import Step, Windows

TASK_WEIGHT = {"click": 1.0, "good_click": 0.5, "hide": 0.5}  # the click is what ranks; the others regularise
PRECISIONS = ("fp32", "tf32", "bf16")

Progress = Callable[[int, int, float], None]  # step, steps, loss


@dataclass(frozen=True, kw_only=True, slots=True)
class FitConfig:
    """How long and how fast; `steps` cuts short what `epochs` would take."""

    seed: int
    epochs: int
    steps: int | None
    batch_rows: int
    learning_rate: float
    weight_decay: float
    clip_norm: float
    warm_up: float  # share of the steps over which the learning rate rises; then it falls to 0
    precision: str
    device: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AddedPart:
    """All that moves when a surface is added: its own head, and the flat table from `first_row` on."""

    surface: Surface
    first_row: int


def fit(
    network: EngagementNetwork,
    data: Windows,
    config: FitConfig,
    *,
    progress: Progress | None = None,
    resume: Resume | None = None,
    part: AddedPart | None = None,
) -> LossCurve:
    """Train a network in place, wholly or a part of it, on the training rows; those of other parts go unseen.

    With `resume`, what an earlier call saved goes on where it was, and the outcome has the same bits. Returns how the
    loss went.
    """
    num_steps = data.steps_an_epoch(config.batch_rows) * config.epochs
    num_steps = min(num_steps, config.steps or num_steps)
    losses = LossCurve()
    network.train()
    with _moving(network, part) as weights:
        optimizer = _optimizer(network, weights, config, is_part=part is not None)
        done = 0 if resume is None else resume.restore(network, optimizer, losses)
        batches = data.steps(config.batch_rows, config.epochs, seed=config.seed, done=done)
        for step, batch in enumerate(islice(batches, num_steps - done), start=done):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * _learning_rate_share(step, num_steps, config.warm_up)
            loss = _step(network, batch, optimizer, weights, config)
            losses.add(step + 1, num_steps, loss)
            if resume is not None and (step + 1) % resume.every_steps == 0:
                resume.save(network, optimizer, step + 1, losses)
            if progress is not None:
                progress(step + 1, num_steps, loss)
    return losses


def masked_loss(logit_NT: Tensor, label_NT: Tensor) -> Tensor:
    """Log loss per task over the rows whose label is known, added up by weight; a task without any adds 0."""
    is_known_NT = ~label_NT.isnan()
    loss_NT = functional.binary_cross_entropy_with_logits(logit_NT, label_NT.nan_to_num(0.0), reduction="none")
    mean_T = (loss_NT * is_known_NT).sum(0) / is_known_NT.sum(0).clamp(min=1)
    return (mean_T * mean_T.new_tensor([TASK_WEIGHT[task] for task in TASKS])).sum()


def multiplied_as(precision: str, device: str) -> AbstractContextManager[object]:
    """How matrices are multiplied inside: fp32, tf32 (where the device has it) or bf16; weights stay fp32."""
    if precision == "bf16":
        return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)
    return _tf32() if precision == "tf32" else nullcontext()


def check_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise InvalidField("precision", f"must be one of {', '.join(PRECISIONS)}, not {precision!r}")


@contextmanager
def _tf32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def _moving(network: EngagementNetwork, part: AddedPart | None) -> Iterator[list[nn.Parameter]]:
    """The weights that move; of the flat table, only the rows that a part adds to it."""
    if part is None:
        yield list(network.parameters())
        return
    table = network.trunk.embedding.table
    moving = [*network.head_of(part.surface).parameters(), table]
    network.requires_grad_(False)
    for weight in moving:
        weight.requires_grad_(True)
    is_new_R1 = (torch.arange(len(table), device=table.device) >= part.first_row)[:, None]
    hook = table.register_hook(lambda gradient: gradient * is_new_R1)  # type: ignore[no-untyped-call]  # torch's
    try:
        yield moving
    finally:
        hook.remove()
        network.requires_grad_(True)


def _optimizer(
    network: EngagementNetwork, weights: Sequence[nn.Parameter], config: FitConfig, *, is_part: bool
) -> torch.optim.Optimizer:
    """Biases and norms do not decay, which would bias them; nor does a table most of whose rows must not move."""
    fixed = network.trunk.embedding.table if is_part else None
    matrices = [weight for weight in weights if weight.ndim > 1 and weight is not fixed]
    others = [weight for weight in weights if weight.ndim == 1 or weight is fixed]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=config.learning_rate,
    )


def _step(
    network: EngagementNetwork,
    step: Step,
    optimizer: torch.optim.Optimizer,
    weights: Sequence[nn.Parameter],
    config: FitConfig,
) -> float:
    examples, batch = step
    row_N = np.concatenate(list(batch.values()))
    rows = mixed_to_tensors(examples.batch(row_N), examples.contexts(row_N), device=config.device)
    label_NT = torch.from_numpy(examples.label_NT[row_N]).to(config.device)
    ends = np.cumsum([len(part) for part in batch.values()])
    parts = [slice(end - len(part), end) for part, end in zip(batch.values(), ends, strict=True)]
    with multiplied_as(config.precision, config.device):
        shared = network.trunk(rows)
        logits = [
            network.head_of(surface)(shared.rows(part), rows.rows(part).own)
            for surface, part in zip(batch, parts, strict=True)
        ]
    loss = masked_loss(torch.cat(logits).float(), label_NT)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    nn.utils.clip_grad_norm_(weights, config.clip_norm)
    optimizer.step()
    return float(loss.detach())


def _learning_rate_share(step: int, num_steps: int, warm_up: float) -> float:
    """Up in a line over the warm-up, then down in a line to 0."""
    rising = (step + 1) / max(1.0, warm_up * num_steps)
    falling = (num_steps - step) / max(1.0, (1 - warm_up) * num_steps)
    return min(1.0, rising, falling)
