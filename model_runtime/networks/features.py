"""What the network reads: the contract of its features, and rows that keep it.

Shapes: U users of a batch, N candidate rows, C categorical features, D dense features, L history entries, M values of
all multi-hot features, S features that one surface alone has.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from control_plane.domain.errors import InvalidField, UnknownName
from control_plane.domain.model_version import Digest, Surface, ViewType, check_name, digest_of

UNKNOWN = 0  # index of every vocabulary that stands for "unknown", and in a history for padding

Categorical = tuple[str, int]  # name and cardinality, UNKNOWN included
MultiHot = tuple[str, int, int]  # name, cardinality, and how many values there may be at once
IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]

MAX_VALUES = 1 << 10  # of one multi-hot feature
NO_INDEX, NO_NUMBER = np.zeros((0, 0), np.int64), np.zeros((0, 0), np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class SurfaceFeatures:
    """What one surface alone knows of a candidate: read by that surface's own module, never by the trunk."""

    candidate_categorical: tuple[Categorical, ...] = ()
    candidate_dense: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (*(name for name, _ in self.candidate_categorical), *self.candidate_dense)

    def to_json(self) -> dict[str, object]:
        return {
            "candidate_categorical": [list(feature) for feature in self.candidate_categorical],
            "candidate_dense": list(self.candidate_dense),
        }


NO_SURFACE_FEATURES = SurfaceFeatures()


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSpec:
    """Names and vocabularies of all features, the same on every surface; view types differ by surface.

    `history_of` names the candidate feature whose values a user's history is made of: both share one vocabulary.
    `history_actions` names what a user may have done to an entry, as 1, 2, …; 0 is not known. `surface_order` is the
    order in which the surfaces came, whose view types are counted on: what was trained stays where it was.
    """

    user_categorical: tuple[Categorical, ...]
    user_dense: tuple[str, ...]
    candidate_categorical: tuple[Categorical, ...]
    candidate_dense: tuple[str, ...]
    history_of: str
    history_length: int
    view_types: Mapping[Surface, tuple[ViewType, ...]]
    user_multi_hot: tuple[MultiHot, ...] = ()
    candidate_multi_hot: tuple[MultiHot, ...] = ()
    history_actions: tuple[str, ...] = ()
    surface_features: Mapping[Surface, SurfaceFeatures] = field(default_factory=dict)
    surface_order: tuple[Surface, ...] = ()

    def __post_init__(self) -> None:
        multi_hot = (*self.user_multi_hot, *self.candidate_multi_hot)
        categorical = (*self.user_categorical, *self.candidate_categorical, *(each[:2] for each in multi_hot))
        names = [name for name, _ in categorical] + [*self.user_dense, *self.candidate_dense]
        for surface, features in self.surface_features.items():
            if surface not in self.view_types:
                raise InvalidField(f"surface_features.{surface}", "is of a surface without view types")
            _check_names([*names, *features.names])
            _check_cardinalities(features.candidate_categorical)
        _check_names(names)
        _check_cardinalities(categorical)
        for name, _, max_values in multi_hot:
            if not 1 <= max_values <= MAX_VALUES:
                raise InvalidField(name, f"must take 1 to {MAX_VALUES} values at once, not {max_values}")
        if len(set(self.history_actions)) != len(self.history_actions):
            raise InvalidField("history_actions", "must not repeat")
        if self.history_of not in dict(self.candidate_categorical):
            raise InvalidField("history_of", f"must name a candidate's categorical feature, not {self.history_of!r}")
        if self.history_length < 1:
            raise InvalidField("history_length", f"must be at least 1, not {self.history_length}")
        if not self.view_types:
            raise InvalidField("view_types", "must name at least one surface")
        for surface, view_types in self.view_types.items():
            check_name("surface", surface)
            if not view_types or len(set(view_types)) != len(view_types):
                raise InvalidField(f"view_types.{surface}", "must be a non-empty list without repeats")
        if self.surface_order and sorted(self.surface_order) != sorted(self.view_types):
            raise InvalidField("surface_order", f"must name each of {', '.join(self.surfaces)} once")

    @property
    def surfaces(self) -> tuple[Surface, ...]:
        """In the order of their names: JSON does not keep that of `view_types`, and the network counts on one."""
        return tuple(sorted(self.view_types))

    @property
    def context_order(self) -> tuple[Surface, ...]:
        """In the order in which their view types are counted on."""
        return self.surface_order or self.surfaces

    @property
    def history_vocabulary(self) -> int:
        return dict(self.candidate_categorical)[self.history_of]

    def view_types_of(self, surface: Surface) -> tuple[ViewType, ...]:
        if surface not in self.view_types:
            raise UnknownName("surface", surface, known=self.surfaces)
        return self.view_types[surface]

    def features_of(self, surface: Surface) -> SurfaceFeatures:
        """What this surface alone has."""
        return self.surface_features.get(surface, NO_SURFACE_FEATURES)

    def pruned(self, surface: Surface | None) -> "FeatureSpec":
        """Without what other surfaces alone have; None is the trunk, which reads nobody's own."""
        own = {name: each for name, each in self.surface_features.items() if name == surface}
        return replace(self, surface_features=own)

    def of_surfaces(self, surfaces: Sequence[Surface]) -> "FeatureSpec":
        """Of some surfaces alone, and of what they have of their own."""
        return replace(
            self,
            view_types={surface: self.view_types_of(surface) for surface in surfaces},
            surface_features={name: each for name, each in self.surface_features.items() if name in surfaces},
            surface_order=tuple(surface for surface in self.surface_order if surface in surfaces),
        )

    def widths(self, surface: Surface) -> dict[str, int]:
        """The second dimension of each field of this surface's `RowBatch` that has one; 0 need not be sent."""
        own = self.features_of(surface)
        return {
            "user_categorical_UC": len(self.user_categorical),
            "user_dense_UD": len(self.user_dense),
            "user_multi_hot_UM": sum(max_values for _, _, max_values in self.user_multi_hot),
            "history_UL": self.history_length,
            "history_action_UL": self.history_length if self.history_actions else 0,
            "candidate_categorical_NC": len(self.candidate_categorical),
            "candidate_dense_ND": len(self.candidate_dense),
            "candidate_multi_hot_NM": sum(max_values for _, _, max_values in self.candidate_multi_hot),
            "surface_categorical_NS": len(own.candidate_categorical),
            "surface_dense_NS": len(own.candidate_dense),
        }

    def signature(self, surface: Surface) -> Digest:
        """The digest of what a caller must send for this surface; it never changes within a model name."""
        contract = {**self.pruned(surface).to_json(), "view_types": {surface: list(self.view_types_of(surface))}}
        contract.pop("surface_order", None)
        return digest_of(json.dumps(contract, sort_keys=True, separators=(",", ":")).encode())

    def to_json(self) -> dict[str, object]:
        return {
            "user_categorical": [list(feature) for feature in self.user_categorical],
            "user_dense": list(self.user_dense),
            "candidate_categorical": [list(feature) for feature in self.candidate_categorical],
            "candidate_dense": list(self.candidate_dense),
            "history_of": self.history_of,
            "history_length": self.history_length,
            "view_types": {surface: list(self.view_types[surface]) for surface in self.surfaces},
            **self._added_json(),
        }

    def _added_json(self) -> dict[str, object]:
        """Only what there is: a contract of before has the digest that it had."""
        own = {surface: self.surface_features[surface].to_json() for surface in sorted(self.surface_features)}
        added: dict[str, object] = {
            "user_multi_hot": [list(feature) for feature in self.user_multi_hot],
            "candidate_multi_hot": [list(feature) for feature in self.candidate_multi_hot],
            "history_actions": list(self.history_actions),
            "surface_features": own,
            "surface_order": list(self.surface_order),
        }
        return {name: value for name, value in added.items() if value}

    @classmethod
    def from_json(cls, value: object) -> "FeatureSpec":
        """Read what `to_json` wrote; `InvalidField` names what is missing or malformed."""
        fields = _mapping("features", value)
        return cls(
            user_categorical=_categoricals(fields, "user_categorical"),
            user_dense=_names(fields, "user_dense"),
            candidate_categorical=_categoricals(fields, "candidate_categorical"),
            candidate_dense=_names(fields, "candidate_dense"),
            history_of=_text("history_of", fields.get("history_of")),
            history_length=_integer("history_length", fields.get("history_length")),
            view_types={
                Surface(surface): tuple(ViewType(name) for name in _names(view_types, surface))
                for view_types in [_mapping("view_types", fields.get("view_types"))]
                for surface in view_types
            },
            user_multi_hot=_multi_hots(fields, "user_multi_hot"),
            candidate_multi_hot=_multi_hots(fields, "candidate_multi_hot"),
            history_actions=_names({"history_actions": [], **fields}, "history_actions"),
            surface_features={
                Surface(surface): _surface_features(surface, value)
                for surface, value in _mapping("surface_features", fields.get("surface_features", {})).items()
            },
            surface_order=tuple(map(Surface, _names({"surface_order": [], **fields}, "surface_order"))),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RowBatch:
    """Candidate rows of one surface, with each user once: row n belongs to user `user_index_N[n]`.

    `view_type_N` counts within the surface's own view types; a history holds the strongest or latest first,
    padded with 0, and so do the values of each multi-hot feature. What a spec has none of has the width 0, and need
    not be given.
    """

    user_categorical_UC: IntArray
    user_dense_UD: FloatArray
    history_UL: IntArray
    user_index_N: IntArray
    view_type_N: IntArray
    candidate_categorical_NC: IntArray
    candidate_dense_ND: FloatArray
    user_multi_hot_UM: IntArray = field(default_factory=NO_INDEX.copy)
    candidate_multi_hot_NM: IntArray = field(default_factory=NO_INDEX.copy)
    history_action_UL: IntArray = field(default_factory=NO_INDEX.copy)
    surface_categorical_NS: IntArray = field(default_factory=NO_INDEX.copy)
    surface_dense_NS: FloatArray = field(default_factory=NO_NUMBER.copy)

    def __post_init__(self) -> None:
        for name in OPTIONAL_FIELDS:  # nothing of nobody's: what has no width has as many users or rows as there are
            size, array = self.num_users if "_U" in name else self.num_rows, getattr(self, name)
            if array.ndim == 2 and array.shape[1] == 0 and array.shape[0] != size:
                object.__setattr__(self, name, np.zeros((size, 0), array.dtype))

    @property
    def num_users(self) -> int:
        return self.history_UL.shape[0] if self.history_UL.ndim else 0

    @property
    def num_rows(self) -> int:
        return self.user_index_N.shape[0] if self.user_index_N.ndim else 0

    def take(self, row_M: IntArray) -> "RowBatch":
        """The named rows in the named order, over the same users."""
        return replace(
            self,
            user_index_N=self.user_index_N[row_M],
            view_type_N=self.view_type_N[row_M],
            candidate_categorical_NC=self.candidate_categorical_NC[row_M],
            candidate_dense_ND=self.candidate_dense_ND[row_M],
            candidate_multi_hot_NM=self.candidate_multi_hot_NM[row_M],
            surface_categorical_NS=self.surface_categorical_NS[row_M],
            surface_dense_NS=self.surface_dense_NS[row_M],
        )

    def of_surface(self, spec: FeatureSpec, surface: Surface) -> "RowBatch":
        """Rows of one surface out of rows of several, whose own features are padded to the widest surface's."""
        own = spec.features_of(surface)
        return replace(
            self,
            surface_categorical_NS=self.surface_categorical_NS[:, : len(own.candidate_categorical)],
            surface_dense_NS=self.surface_dense_NS[:, : len(own.candidate_dense)],
        )

    def given(self) -> tuple[str, ...]:
        """The fields that hold something: all but the optional ones without width."""
        return tuple(name for name in self.__slots__ if name not in OPTIONAL_FIELDS or getattr(self, name).shape[1])


OPTIONAL_FIELDS = (
    "user_multi_hot_UM",
    "candidate_multi_hot_NM",
    "history_action_UL",
    "surface_categorical_NS",
    "surface_dense_NS",
)
PLAIN_FIELDS = tuple(name for name in RowBatch.__slots__ if name not in OPTIONAL_FIELDS)


def check_batch(spec: FeatureSpec, surface: Surface, batch: RowBatch) -> RowBatch:
    """Return the batch with categories outside their vocabulary replaced by UNKNOWN.

    Raises:
        InvalidField: a shape, a type, an index or a number that breaks the contract, named by its field.
    """
    _check_shapes(spec, surface, batch)
    _check_range("user_index_N", batch.user_index_N, batch.num_users, "the number of users")
    num_view_types = len(spec.view_types_of(surface))
    _check_range("view_type_N", batch.view_type_N, num_view_types, f"the number of view types of {surface}")
    _check_finite("user_dense_UD", batch.user_dense_UD)
    _check_finite("candidate_dense_ND", batch.candidate_dense_ND)
    known = replace(
        batch,
        user_categorical_UC=_known(batch.user_categorical_UC, _cardinalities(spec.user_categorical)),
        history_UL=_known(batch.history_UL, np.array([spec.history_vocabulary], np.int64)),
        candidate_categorical_NC=_known(batch.candidate_categorical_NC, _cardinalities(spec.candidate_categorical)),
    )
    return known if len(batch.given()) == len(PLAIN_FIELDS) else _check_added(spec, surface, known)


def known_categories(index_BC: IntArray, features: tuple[Categorical, ...]) -> IntArray:
    """The same with categories outside their vocabulary replaced by UNKNOWN."""
    return _known(index_BC, _cardinalities(features))


def multi_hot_cardinalities(features: tuple[MultiHot, ...]) -> IntArray:
    """The cardinality of each value's feature, shape (M,)."""
    return np.array([size for _, size, max_values in features for _ in range(max_values)], np.int64)


def _check_added(spec: FeatureSpec, surface: Surface, batch: RowBatch) -> RowBatch:
    """The same for the fields that not every spec has."""
    _check_finite("surface_dense_NS", batch.surface_dense_NS)
    own = spec.features_of(surface).candidate_categorical
    return replace(
        batch,
        user_multi_hot_UM=_known(batch.user_multi_hot_UM, multi_hot_cardinalities(spec.user_multi_hot)),
        candidate_multi_hot_NM=_known(batch.candidate_multi_hot_NM, multi_hot_cardinalities(spec.candidate_multi_hot)),
        history_action_UL=_known(batch.history_action_UL, np.array([1 + len(spec.history_actions)], np.int64)),
        surface_categorical_NS=_known(batch.surface_categorical_NS, _cardinalities(own)),
    )


def _check_shapes(spec: FeatureSpec, surface: Surface, batch: RowBatch) -> None:
    users, rows = batch.num_users, batch.num_rows
    for name, size, field_name in (("users", users, "history_UL"), ("rows", rows, "user_index_N")):
        if size == 0:
            raise InvalidField(field_name, f"must hold at least one of the {name}")
    _check_array(batch, "user_index_N", (rows,))
    _check_array(batch, "view_type_N", (rows,))
    for field_name, width in spec.widths(surface).items():
        _check_array(batch, field_name, (users if "_U" in field_name else rows, width))


def _check_array(batch: RowBatch, field_name: str, shape: tuple[int, ...]) -> None:
    array, dtype = getattr(batch, field_name), np.float32 if "dense" in field_name else np.int64
    if array.dtype != dtype:
        raise InvalidField(field_name, f"must be {np.dtype(dtype).name}, not {array.dtype.name}")
    if array.shape != shape:
        raise InvalidField(field_name, f"must have the shape {shape}, not {array.shape}")


def _check_range(field: str, index_N: IntArray, end: int, meaning: str) -> None:
    wrong = np.flatnonzero((index_N < 0) | (index_N >= end))
    if wrong.size:
        raise InvalidField(f"{field}[{wrong[0]}]", f"must be 0 to {end - 1} ({meaning}), not {index_N[wrong[0]]}")


def _check_finite(field: str, value_ND: FloatArray) -> None:
    if not np.isfinite(value_ND).all():
        row, column = np.argwhere(~np.isfinite(value_ND))[0]
        raise InvalidField(f"{field}[{row}, {column}]", f"must be finite, not {value_ND[row, column]}")


def _known(index_BC: IntArray, cardinality_C: IntArray) -> IntArray:
    is_unknown_BC = (index_BC < 0) | (index_BC >= cardinality_C)
    return np.where(is_unknown_BC, UNKNOWN, index_BC) if is_unknown_BC.any() else index_BC


def _cardinalities(features: tuple[Categorical, ...]) -> IntArray:
    return np.array([cardinality for _, cardinality in features], np.int64)


def _check_names(names: list[str]) -> None:
    if len(set(names)) != len(names):
        raise InvalidField("features", "names must not repeat")


def _check_cardinalities(features: tuple[Categorical, ...]) -> None:
    for name, cardinality in features:
        if cardinality < 2:
            raise InvalidField(name, f"cardinality must be at least 2 (0 is unknown), not {cardinality}")


def _mapping(field: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise InvalidField(field, "must be an object")
    return value


def _categoricals(fields: Mapping[str, object], field: str) -> tuple[Categorical, ...]:
    entries = fields.get(field)
    if not isinstance(entries, list) or not all(isinstance(entry, list) and len(entry) == 2 for entry in entries):
        raise InvalidField(field, "must be a list of [name, cardinality]")
    return tuple((_text(field, name), _integer(f"{field}.{name}", cardinality)) for name, cardinality in entries)


def _multi_hots(fields: Mapping[str, object], field: str) -> tuple[MultiHot, ...]:
    entries = fields.get(field, [])
    if not isinstance(entries, list) or not all(isinstance(entry, list) and len(entry) == 3 for entry in entries):
        raise InvalidField(field, "must be a list of [name, cardinality, max_values]")
    return tuple(
        (
            _text(field, name),
            _integer(f"{field}.{name}", cardinality),
            _integer(f"{field}.{name}", max_values),
        )
        for name, cardinality, max_values in entries
    )


def _surface_features(surface: str, value: object) -> SurfaceFeatures:
    fields = {"candidate_categorical": [], "candidate_dense": [], **_mapping(f"surface_features.{surface}", value)}
    return SurfaceFeatures(
        candidate_categorical=_categoricals(fields, "candidate_categorical"),
        candidate_dense=_names(fields, "candidate_dense"),
    )


def _names(fields: Mapping[str, object], field: str) -> tuple[str, ...]:
    names = fields.get(field)
    if not isinstance(names, list):
        raise InvalidField(field, "must be a list of names")
    return tuple(_text(field, name) for name in names)


def _text(field: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidField(field, f"must be a non-empty string, not {value!r}")
    return value


def _integer(field: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidField(field, f"must be a whole number, not {value!r}")
    return value
