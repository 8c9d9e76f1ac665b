"""The unified network: one trunk for all surfaces, and per surface its gates, tower and task heads.

Order: fused embedding → user-sequence Transformer → cross projection → crossing → experts | gates → tower → heads.
Everything of a user is computed once per user and then broadcast to the user's rows.

Shapes: U users, N candidate rows, C categorical features, D dense features, L history entries, E embedding
width, Y width of the user's side, X width of what is crossed, K experts, H expert width, T tasks, G tower width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from control_plane.domain.errors import InvalidField
from control_plane.domain.model_version import Surface
from model_runtime.networks.crossing import Crossing, CrossingConfig, CrossProjection, ProjectionConfig
from model_runtime.networks.embeddings import EmbeddingConfig, FusedEmbedding, squash_dense
from model_runtime.networks.experts import Experts, ExpertsConfig, Gates
from model_runtime.networks.features import UNKNOWN, FeatureSpec, RowBatch
from model_runtime.networks.sequence import SequenceConfig, UserSequence

TASKS = ("click", "good_click", "hide")
CLICK = TASKS.index("click")  # the task whose logit is calibrated
INITIAL_BOUND = 0.03  # of head weights: small, so that training starts near the base rates of its biases
MAX_SIZE = 1 << 16  # no width, rank or count of a config goes beyond it: a typing error, or an attack


@dataclass(frozen=True, kw_only=True, slots=True)
class TrunkConfig:
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    sequence: SequenceConfig = field(default_factory=SequenceConfig)
    projection: ProjectionConfig = field(default_factory=ProjectionConfig)
    crossing: CrossingConfig = field(default_factory=CrossingConfig)
    experts: ExpertsConfig = field(default_factory=ExpertsConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadConfig:
    tower_width: int = 16


class RowTensors(NamedTuple):
    """A `RowBatch` on a device; `context_N` is the view type counted over all surfaces, 0 unknown."""

    user_categorical_UC: Tensor
    user_dense_UD: Tensor
    history_UL: Tensor
    user_index_N: Tensor
    context_N: Tensor
    candidate_categorical_NC: Tensor
    candidate_dense_ND: Tensor

    def rows(self, part: slice) -> "RowTensors":
        """Some of the rows, over the same users."""
        return self._replace(
            user_index_N=self.user_index_N[part],
            context_N=self.context_N[part],
            candidate_categorical_NC=self.candidate_categorical_NC[part],
            candidate_dense_ND=self.candidate_dense_ND[part],
        )

    def users(self, part: slice) -> "RowTensors":
        """Some of the users, for what depends on users alone: the rows still point at all of them."""
        return self._replace(
            user_categorical_UC=self.user_categorical_UC[part],
            user_dense_UD=self.user_dense_UD[part],
            history_UL=self.history_UL[part],
        )


class Shared(NamedTuple):
    """What the trunk knows of each row, for any surface's head to read."""

    crossed_NX: Tensor
    expert_NKH: Tensor

    def rows(self, part: slice) -> "Shared":
        return Shared(self.crossed_NX[part], self.expert_NKH[part])


class Trunk(nn.Module):
    """Embeddings, sequence, projection, crossing and experts: what all surfaces share."""

    def __init__(self, spec: FeatureSpec, config: TrunkConfig) -> None:
        super().__init__()
        self.spec = spec
        self.config = config
        user, candidate = spec.user_categorical, spec.candidate_categorical
        self.first_candidate = len(user)
        self.context_feature = len(user) + len(candidate)
        self.history_feature = len(user) + [name for name, _ in candidate].index(spec.history_of)
        num_contexts = 1 + sum(len(view_types) for view_types in spec.view_types.values())
        cardinalities = (*(cardinality for _, cardinality in (*user, *candidate)), num_contexts)
        self.embedding = FusedEmbedding(cardinalities, config.embedding)
        width = config.embedding.width
        self.sequence = UserSequence(width, spec.history_length, config.sequence)
        self.projection = CrossProjection(config.sequence.width, config.projection)
        user_width = len(user) * width + len(spec.user_dense) + config.projection.width
        self.crossed_width = user_width + (len(candidate) + 1) * width + len(spec.candidate_dense)
        self.crossing = Crossing(self.crossed_width, config.crossing)
        self.experts = Experts(self.crossed_width, config.experts)

    def forward(self, rows: RowTensors) -> Shared:
        return self.read_rows(self.encode_users(rows), rows)

    def encode_users(self, rows: RowTensors) -> Tensor:
        """Everything that depends on the user alone, shape (U, Y)."""
        embedded_UCE = self.embedding(rows.user_categorical_UC, first=0)
        embedded_ULE = self.embedding.look_up_one(rows.history_UL, feature=self.history_feature)
        summary_UP = self.projection(self.sequence(embedded_ULE, rows.history_UL != UNKNOWN))
        return torch.cat((embedded_UCE.flatten(1), squash_dense(rows.user_dense_UD), summary_UP), dim=1)

    def read_rows(self, user_UY: Tensor, rows: RowTensors) -> Shared:
        """Cross each row with its user's side; rows do not see each other, so any part of them may be read alone."""
        candidate_NCE = self.embedding(rows.candidate_categorical_NC, first=self.first_candidate)
        context_NE = self.embedding.look_up_one(rows.context_N, feature=self.context_feature)
        first_NX = torch.cat(
            (
                user_UY.index_select(0, rows.user_index_N),
                candidate_NCE.flatten(1),
                context_NE,
                squash_dense(rows.candidate_dense_ND),
            ),
            dim=1,
        )
        crossed_NX = self.crossing(first_NX)
        return Shared(crossed_NX, self.experts(crossed_NX))


class SurfaceHead(nn.Module):
    """One surface's gates, tower and task heads; at serving time only the request's own surface runs."""

    def __init__(self, crossed_width: int, experts: ExpertsConfig, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.gates = Gates(crossed_width, len(TASKS), experts)
        self.tower = nn.Linear(experts.width, config.tower_width)
        self.weight_TG = nn.Parameter(torch.empty(len(TASKS), config.tower_width))
        nn.init.uniform_(self.weight_TG, -INITIAL_BOUND, INITIAL_BOUND)
        self.bias_T = nn.Parameter(torch.zeros(len(TASKS)))

    def forward(self, shared: Shared) -> Tensor:
        """Logits, shape (N, T)."""
        mixed_NTH = self.gates(shared.crossed_NX) @ shared.expert_NKH
        tower_NTG = self.tower(mixed_NTH).relu_()
        logit_NT: Tensor = (tower_NTG * self.weight_TG).sum(-1) + self.bias_T
        return logit_NT


class EngagementNetwork(nn.Module):
    """The trunk and the heads of all surfaces, as they train together."""

    def __init__(self, spec: FeatureSpec, trunk: TrunkConfig, heads: Mapping[Surface, HeadConfig]) -> None:
        super().__init__()
        self.spec = spec
        self.trunk = Trunk(spec, trunk)
        self.heads = nn.ModuleList(
            SurfaceHead(self.trunk.crossed_width, trunk.experts, heads[surface]) for surface in spec.surfaces
        )

    def head_of(self, surface: Surface) -> SurfaceHead:
        head = self.heads[self.spec.surfaces.index(surface)]
        assert isinstance(head, SurfaceHead)
        return head

    def forward(self, surface: Surface, batch: RowBatch) -> Tensor:
        """Uncalibrated logits of one surface's rows, shape (N, T)."""
        device = self.trunk.embedding.table.device
        logit_NT: Tensor = self.head_of(surface)(self.trunk(to_tensors(self.spec, surface, batch, device=device)))
        return logit_NT


def to_tensors(spec: FeatureSpec, surface: Surface, batch: RowBatch, *, device: torch.device | str) -> RowTensors:
    """Move a checked batch to a device; on the CPU nothing that is writable and contiguous is copied."""
    return mixed_to_tensors(batch, batch.view_type_N + first_context(spec, surface), device=device)


def mixed_to_tensors(batch: RowBatch, context_N: NDArray[np.int64], *, device: torch.device | str) -> RowTensors:
    """The same for rows of several surfaces, whose contexts tell them apart."""
    return RowTensors(
        user_categorical_UC=_tensor(batch.user_categorical_UC, device),
        user_dense_UD=_tensor(batch.user_dense_UD, device),
        history_UL=_tensor(batch.history_UL, device),
        user_index_N=_tensor(batch.user_index_N, device),
        context_N=_tensor(context_N, device),
        candidate_categorical_NC=_tensor(batch.candidate_categorical_NC, device),
        candidate_dense_ND=_tensor(batch.candidate_dense_ND, device),
    )


def first_context(spec: FeatureSpec, surface: Surface) -> int:
    """Where a surface's view types begin when those of all surfaces are counted on; 0 stays free for unknown."""
    before = spec.surfaces[: spec.surfaces.index(surface)]
    return 1 + sum(len(spec.view_types[name]) for name in before)


Config = TypeVar("Config")


def read_config(config_type: type[Config], name: str, value: object) -> Config:
    """Read what `dataclasses.asdict` wrote of a config; `InvalidField` names the entry.

    Every leaf is a size, from 1 to MAX_SIZE.
    """
    if not isinstance(value, dict):
        raise InvalidField(name, "must be an object")
    entries: dict[str, object] = {}
    for entry in fields(config_type):  # type: ignore[arg-type]  # every Config here is a dataclass
        path, found = f"{name}.{entry.name}", value.get(entry.name)
        if entry.type is not int:
            assert isinstance(entry.type, type)
            entries[entry.name] = read_config(entry.type, path, found)
        elif isinstance(found, bool) or not isinstance(found, int) or not 1 <= found <= MAX_SIZE:
            raise InvalidField(path, f"must be a whole number from 1 to {MAX_SIZE}, not {found!r}")
        else:
            entries[entry.name] = found
    return config_type(**entries)


def _tensor(array: NDArray[np.int64] | NDArray[np.float32], device: torch.device | str) -> Tensor:
    whole = np.ascontiguousarray(array)
    return torch.from_numpy(whole if whole.flags.writeable else whole.copy()).to(device)
