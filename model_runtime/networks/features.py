"""What the network reads: the contract of its features, and rows that keep it.

Shapes: U users of a batch, N candidate rows, C categorical features, D dense features, L history entries.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from control_plane.domain.errors import InvalidField, UnknownName
from control_plane.domain.model_version import Digest, Surface, ViewType, check_name, digest_of

UNKNOWN = 0  # index of every vocabulary that stands for "unknown", and in a history for padding

Categorical = tuple[str, int]  # name and cardinality, UNKNOWN included
IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSpec:
    """Names and vocabularies of all features, the same on every surface; view types differ by surface.

    `history_of` names the candidate feature whose values a user's history is made of: both share one vocabulary.
    """

    user_categorical: tuple[Categorical, ...]
    user_dense: tuple[str, ...]
    candidate_categorical: tuple[Categorical, ...]
    candidate_dense: tuple[str, ...]
    history_of: str
    history_length: int
    view_types: Mapping[Surface, tuple[ViewType, ...]]

    def __post_init__(self) -> None:
        categorical = (*self.user_categorical, *self.candidate_categorical)
        names = [name for name, _ in categorical] + [*self.user_dense, *self.candidate_dense]
        if len(set(names)) != len(names):
            raise InvalidField("features", "names must not repeat")
        for name, cardinality in categorical:
            if cardinality < 2:
                raise InvalidField(name, f"cardinality must be at least 2 (0 is unknown), not {cardinality}")
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

    @property
    def surfaces(self) -> tuple[Surface, ...]:
        """In the order of their names: JSON does not keep that of `view_types`, and the network counts on one."""
        return tuple(sorted(self.view_types))

    @property
    def history_vocabulary(self) -> int:
        return dict(self.candidate_categorical)[self.history_of]

    def view_types_of(self, surface: Surface) -> tuple[ViewType, ...]:
        if surface not in self.view_types:
            raise UnknownName("surface", surface, known=self.surfaces)
        return self.view_types[surface]

    def signature(self, surface: Surface) -> Digest:
        """The digest of what a caller must send for this surface; it never changes within a model name."""
        contract = {**self.to_json(), "view_types": {surface: list(self.view_types_of(surface))}}
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
        }

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
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RowBatch:
    """Candidate rows of one surface, with each user once: row n belongs to user `user_index_N[n]`.

    `view_type_N` counts within the surface's own view types; a history holds the strongest or latest first,
    padded with 0.
    """

    user_categorical_UC: IntArray
    user_dense_UD: FloatArray
    history_UL: IntArray
    user_index_N: IntArray
    view_type_N: IntArray
    candidate_categorical_NC: IntArray
    candidate_dense_ND: FloatArray

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
        )


def check_batch(spec: FeatureSpec, surface: Surface, batch: RowBatch) -> RowBatch:
    """Return the batch with categories outside their vocabulary replaced by UNKNOWN.

    Raises:
        InvalidField: a shape, a type, an index or a number that breaks the contract, named by its field.
    """
    _check_shapes(spec, batch)
    _check_range("user_index_N", batch.user_index_N, batch.num_users, "the number of users")
    num_view_types = len(spec.view_types_of(surface))
    _check_range("view_type_N", batch.view_type_N, num_view_types, f"the number of view types of {surface}")
    _check_finite("user_dense_UD", batch.user_dense_UD)
    _check_finite("candidate_dense_ND", batch.candidate_dense_ND)
    return replace(
        batch,
        user_categorical_UC=_known(batch.user_categorical_UC, _cardinalities(spec.user_categorical)),
        history_UL=_known(batch.history_UL, np.array([spec.history_vocabulary], np.int64)),
        candidate_categorical_NC=_known(batch.candidate_categorical_NC, _cardinalities(spec.candidate_categorical)),
    )


def _check_shapes(spec: FeatureSpec, batch: RowBatch) -> None:
    users, rows = ("users", batch.num_users), ("rows", batch.num_rows)
    for (name, size), field in ((users, "history_UL"), (rows, "user_index_N")):
        if size == 0:
            raise InvalidField(field, f"must hold at least one of the {name}")
    expected: dict[str, tuple[type, tuple[int, ...]]] = {
        "user_categorical_UC": (np.int64, (users[1], len(spec.user_categorical))),
        "user_dense_UD": (np.float32, (users[1], len(spec.user_dense))),
        "history_UL": (np.int64, (users[1], spec.history_length)),
        "user_index_N": (np.int64, (rows[1],)),
        "view_type_N": (np.int64, (rows[1],)),
        "candidate_categorical_NC": (np.int64, (rows[1], len(spec.candidate_categorical))),
        "candidate_dense_ND": (np.float32, (rows[1], len(spec.candidate_dense))),
    }
    for field, (dtype, shape) in expected.items():
        array = getattr(batch, field)
        if array.dtype != dtype:
            raise InvalidField(field, f"must be {np.dtype(dtype).name}, not {array.dtype.name}")
        if array.shape != shape:
            raise InvalidField(field, f"must have the shape {shape}, not {array.shape}")


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


def _mapping(field: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise InvalidField(field, "must be an object")
    return value


def _categoricals(fields: Mapping[str, object], field: str) -> tuple[Categorical, ...]:
    entries = fields.get(field)
    if not isinstance(entries, list) or not all(isinstance(entry, list) and len(entry) == 2 for entry in entries):
        raise InvalidField(field, "must be a list of [name, cardinality]")
    return tuple((_text(field, name), _integer(f"{field}.{name}", cardinality)) for name, cardinality in entries)


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
