"""The unified network: one trunk for all surfaces, and per surface its gates, tower and task heads.

Order: fused embedding → user-sequence Transformer → cross projection, and candidates' attention where the config has
it → crossing → experts | gates → towers → heads.
Everything of a user is computed once per user and then broadcast to the user's rows.

Shapes: U users, N candidate rows, C categorical features, D dense features, L history entries, E embedding
width, Y width of the user's side, X width of what is crossed, K experts, H expert width, T tasks, G tower width.
"""

import copy
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from types import NoneType
from typing import NamedTuple, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from control_plane.domain.errors import InvalidField
from control_plane.domain.model_version import Surface
from model_runtime.networks.attention import AttentionConfig, CandidateAttention, HistoryMemory
from model_runtime.networks.crossing import Crossing, CrossingConfig, CrossProjection, ProjectionConfig
from model_runtime.networks.embeddings import EmbeddingConfig, FusedEmbedding, MultiHotBags, squash_dense
from model_runtime.networks.experts import Experts, ExpertsConfig
from model_runtime.networks.features import UNKNOWN, FeatureSpec, MultiHot, RowBatch
from model_runtime.networks.heads import ADDED, CLICK, TASKS, HeadConfig, OwnFeatures, Shared, SurfaceHead
from model_runtime.networks.sequence import SequenceConfig, UserSequence

__all__ = ["CLICK", "TASKS", "HeadConfig", "Shared", "SurfaceHead"]  # read from here, too

MAX_LAYERS = 16  # of one part of a tower tree
MAX_SIZE = 1 << 16  # no width, rank or count of a config goes beyond it: a typing error, or an attack


@dataclass(frozen=True, kw_only=True, slots=True)
class TrunkConfig:
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    sequence: SequenceConfig = field(default_factory=SequenceConfig)
    projection: ProjectionConfig = field(default_factory=ProjectionConfig)
    crossing: CrossingConfig = field(default_factory=CrossingConfig)
    experts: ExpertsConfig = field(default_factory=ExpertsConfig)
    attention: AttentionConfig | None = field(default=None, metadata=ADDED)  # None: candidates see the summary alone


class RowTensors(NamedTuple):
    """A `RowBatch` on a device; `context_N` is the view type counted over all surfaces, 0 unknown."""

    user_categorical_UC: Tensor
    user_dense_UD: Tensor
    history_UL: Tensor
    user_index_N: Tensor
    context_N: Tensor
    candidate_categorical_NC: Tensor
    candidate_dense_ND: Tensor
    view_type_N: Tensor
    user_multi_hot_UM: Tensor
    candidate_multi_hot_NM: Tensor
    history_action_UL: Tensor
    surface_categorical_NS: Tensor
    surface_dense_NS: Tensor

    @property
    def own(self) -> OwnFeatures:
        return OwnFeatures(self.surface_categorical_NS, self.surface_dense_NS)

    def rows(self, part: slice) -> "RowTensors":
        """Some of the rows, over the same users."""
        return self._replace(
            user_index_N=self.user_index_N[part],
            context_N=self.context_N[part],
            candidate_categorical_NC=self.candidate_categorical_NC[part],
            candidate_dense_ND=self.candidate_dense_ND[part],
            view_type_N=self.view_type_N[part],
            candidate_multi_hot_NM=self.candidate_multi_hot_NM[part],
            surface_categorical_NS=self.surface_categorical_NS[part],
            surface_dense_NS=self.surface_dense_NS[part],
        )

    def users(self, part: slice) -> "RowTensors":
        """Some of the users, for what depends on users alone: the rows still point at all of them."""
        return self._replace(
            user_categorical_UC=self.user_categorical_UC[part],
            user_dense_UD=self.user_dense_UD[part],
            history_UL=self.history_UL[part],
            user_multi_hot_UM=self.user_multi_hot_UM[part],
            history_action_UL=self.history_action_UL[part],
        )


class UserSide(NamedTuple):
    """All that depends on the user alone, computed once per user; `memory` is what candidates attend to."""

    user_UY: Tensor
    memory: HistoryMemory | None

    @classmethod
    def cat(cls, parts: list["UserSide"]) -> "UserSide":
        """Those of more users."""
        if len(parts) == 1:
            return parts[0]
        memories = [part.memory for part in parts if part.memory is not None]
        return cls(torch.cat([part.user_UY for part in parts]), HistoryMemory.cat(memories) if memories else None)


class Trunk(nn.Module):
    """Embeddings, sequence, projection, attention, crossing and experts: what all surfaces share.

    In the flat table the view types come last, those of the latest surface at the end: a surface that is added moves
    nothing.
    """

    def __init__(self, spec: FeatureSpec, config: TrunkConfig) -> None:
        super().__init__()
        self.spec = spec.pruned(None)
        self.config = config
        user, candidate = spec.user_categorical, spec.candidate_categorical
        one_hot, multi_hot = (*user, *candidate), (*spec.user_multi_hot, *spec.candidate_multi_hot)
        self.first_candidate = len(user)
        self.history_feature = len(user) + [name for name, _ in candidate].index(spec.history_of)
        self.action_feature = len(one_hot) + len(multi_hot)
        self.context_feature = self.action_feature + bool(spec.history_actions)
        cardinalities = [size for _, size in one_hot] + [size for _, size, _ in multi_hot]
        cardinalities += [1 + len(spec.history_actions)] if spec.history_actions else []
        num_contexts = 1 + sum(len(view_types) for view_types in spec.view_types.values())
        self.embedding = FusedEmbedding((*cardinalities, num_contexts), config.embedding)
        width = config.embedding.width
        self.sequence = UserSequence(width, spec.history_length, config.sequence)
        self.projection = CrossProjection(config.sequence.width, config.projection)
        user_width = (len(user) + len(spec.user_multi_hot)) * width + len(spec.user_dense) + config.projection.width
        candidate_width = (len(candidate) + len(spec.candidate_multi_hot)) * width
        attention_width = config.attention.width if config.attention else 0
        self.crossed_width = user_width + candidate_width + width + len(spec.candidate_dense) + attention_width
        self.crossing = Crossing(self.crossed_width, config.crossing)
        self.experts = Experts(self.crossed_width, config.experts)
        self.user_bags = self._bags(spec.user_multi_hot, len(one_hot))
        self.candidate_bags = self._bags(spec.candidate_multi_hot, len(one_hot) + len(spec.user_multi_hot))
        self.attention: CandidateAttention | None = None
        if config.attention is not None:
            self.attention = CandidateAttention(candidate_width, config.sequence.width, config.attention)

    def forward(self, rows: RowTensors) -> Shared:
        return self.read_rows(self.encode_users(rows), rows)

    def encode_users(self, rows: RowTensors) -> UserSide:
        """Everything that depends on the user alone, for every user once."""
        embedded_UCE = self.embedding(rows.user_categorical_UC, first=0)
        embedded_ULE = self.embedding.look_up_one(rows.history_UL, feature=self.history_feature)
        if self.spec.history_actions:
            action_ULE = self.embedding.look_up_one(rows.history_action_UL, feature=self.action_feature)
            embedded_ULE = embedded_ULE + action_ULE
        encoded = self.sequence.encode(embedded_ULE, rows.history_UL != UNKNOWN)
        num_users = len(rows.history_UL)
        summary_UP = self.projection(self.sequence.summarise(encoded, num_users))
        parts = [embedded_UCE.flatten(1), squash_dense(rows.user_dense_UD), summary_UP]
        if self.user_bags is not None:
            parts.append(self.embedding.pool(rows.user_multi_hot_UM, self.user_bags))
        memory = None if self.attention is None else self.attention.remember(encoded, num_users)
        return UserSide(torch.cat(parts, dim=1), memory)

    def read_rows(self, user_side: UserSide, rows: RowTensors) -> Shared:
        """Cross each row with its user's side; rows do not see each other, so any part of them may be read alone."""
        candidate_NY = self.embedding(rows.candidate_categorical_NC, first=self.first_candidate).flatten(1)
        if self.candidate_bags is not None:
            bags_NY = self.embedding.pool(rows.candidate_multi_hot_NM, self.candidate_bags)
            candidate_NY = torch.cat((candidate_NY, bags_NY), dim=1)
        parts = [
            user_side.user_UY.index_select(0, rows.user_index_N),
            candidate_NY,
            self.embedding.look_up_one(rows.context_N, feature=self.context_feature),
            squash_dense(rows.candidate_dense_ND),
        ]
        if self.attention is not None:
            assert user_side.memory is not None
            parts.append(self.attention(candidate_NY, user_side.memory, rows.user_index_N))
        crossed_NX = self.crossing(torch.cat(parts, dim=1))
        return Shared(crossed_NX, self.experts(crossed_NX))

    def with_parts(self, **parts: nn.Module) -> "Trunk":
        """The same trunk, weights and all, with some of its parts replaced."""
        changed = copy.copy(self)
        changed._modules = {**self._modules, **parts}
        return changed

    def _bags(self, features: tuple[MultiHot, ...], first: int) -> MultiHotBags | None:
        starts = self.embedding.starts[first : first + len(features)]
        return MultiHotBags(starts, [max_values for _, _, max_values in features]) if features else None


class EngagementNetwork(nn.Module):
    """The trunk and the heads of all surfaces, as they train together; or one head for all of them, the baseline."""

    def __init__(
        self,
        spec: FeatureSpec,
        trunk: TrunkConfig,
        heads: Mapping[Surface, HeadConfig],
        *,
        has_one_head: bool = False,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.trunk = Trunk(spec, trunk)
        if has_one_head and (spec.surface_features or any(head != heads[spec.surfaces[0]] for head in heads.values())):
            raise InvalidField("has_one_head", "needs surfaces without features or towers of their own")
        made = [
            SurfaceHead(self.trunk.crossed_width, trunk.experts, heads[surface], spec.features_of(surface))
            for surface in (spec.surfaces[:1] if has_one_head else spec.surfaces)
        ]
        self.heads = nn.ModuleList(made * len(spec.surfaces) if has_one_head else made)

    def head_of(self, surface: Surface) -> SurfaceHead:
        head = self.heads[self.spec.surfaces.index(surface)]
        assert isinstance(head, SurfaceHead)
        return head

    def forward(self, surface: Surface, batch: RowBatch) -> Tensor:
        """Uncalibrated logits of one surface's rows, shape (N, T)."""
        device = self.trunk.embedding.table.device
        rows = to_tensors(self.spec, surface, batch, device=device)
        logit_NT: Tensor = self.head_of(surface)(self.trunk(rows), rows.own)
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
        view_type_N=_tensor(batch.view_type_N, device),
        user_multi_hot_UM=_optional(batch.user_multi_hot_UM, device),
        candidate_multi_hot_NM=_optional(batch.candidate_multi_hot_NM, device),
        history_action_UL=_optional(batch.history_action_UL, device),
        surface_categorical_NS=_optional(batch.surface_categorical_NS, device),
        surface_dense_NS=_optional(batch.surface_dense_NS, device),
    )


def first_context(spec: FeatureSpec, surface: Surface) -> int:
    """Where a surface's view types begin when those of all surfaces are counted on; 0 stays free for unknown."""
    before = spec.context_order[: spec.context_order.index(surface)]
    return 1 + sum(len(spec.view_types[name]) for name in before)


Config = TypeVar("Config")


def read_config(config_type: type[Config], name: str, value: object) -> Config:
    """Read what `dataclasses.asdict` wrote of a config; `InvalidField` names the entry.

    Every leaf is a size, from 1 to MAX_SIZE. An entry that was added later may be absent.
    """
    if not isinstance(value, dict):
        raise InvalidField(name, "must be an object")
    entries: dict[str, object] = {}
    for entry in fields(config_type):  # type: ignore[arg-type]  # every Config here is a dataclass
        if entry.name in value or not entry.metadata:
            entries[entry.name] = _read_entry(entry, f"{name}.{entry.name}", value.get(entry.name))
    return config_type(**entries)


def write_config(config: object) -> dict[str, object]:
    """What `read_config` reads; an entry that was added later is told only where it is not its default."""
    written = asdict(config)  # type: ignore[call-overload]  # every config here is a dataclass
    for entry in fields(config):  # type: ignore[arg-type]  # the same
        value = getattr(config, entry.name)
        is_default = value == (entry.default if entry.default_factory is MISSING else entry.default_factory())
        if entry.metadata and is_default:
            del written[entry.name]
    return dict(written)


def _read_entry(entry: Field[object], path: str, found: object) -> object:
    kinds = [kind for kind in get_args(entry.type) or (entry.type,) if kind is not NoneType]
    if entry.type == tuple[int, ...]:
        if not isinstance(found, list | tuple) or len(found) > MAX_LAYERS:
            raise InvalidField(path, f"must be a list of at most {MAX_LAYERS} widths")
        return tuple(_read_size(f"{path}[{index}]", size) for index, size in enumerate(found))
    if entry.type is int:
        return _read_size(path, found)
    if found is None and NoneType in get_args(entry.type):
        return None
    assert isinstance(kinds[0], type)
    return read_config(kinds[0], path, found)


def _read_size(path: str, found: object) -> int:
    if isinstance(found, bool) or not isinstance(found, int) or not 1 <= found <= MAX_SIZE:
        raise InvalidField(path, f"must be a whole number from 1 to {MAX_SIZE}, not {found!r}")
    return found


def _optional(array: NDArray[np.int64] | NDArray[np.float32], device: torch.device | str) -> Tensor:
    """What has no width is not moved: it is read by nobody."""
    if array.shape[1]:
        return _tensor(array, device)
    return torch.empty(array.shape, dtype=torch.int64 if array.dtype == np.int64 else torch.float32, device=device)


def _tensor(array: NDArray[np.int64] | NDArray[np.float32], device: torch.device | str) -> Tensor:
    whole = np.ascontiguousarray(array)
    return torch.from_numpy(whole if whole.flags.writeable else whole.copy()).to(device)
