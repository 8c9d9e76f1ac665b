"""Which rows of a batch may be kept: every rule looks at all rows at once, a row falls to the first it breaks."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from control_plane.domain.events import FUTURE_TOLERANCE_MS, HOME_ARM, MAX_VALUE, EventKind, Label

if TYPE_CHECKING:
    from numpy.typing import NDArray

    BoolArray = NDArray[np.bool_]

ARMS = ("stable", "candidate", HOME_ARM)
SHOWN_REFUSALS = 10  # enough to see what is wrong; the counts tell the rest


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """One refused row: its place in the batch, the field and the rule it breaks."""

    row: int
    field: str
    rule: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """The rows to keep, and what became of the others: `reasons` counts by 'field: rule'."""

    table: pa.Table
    refused: int
    reasons: dict[str, int]
    first_refused: tuple[Refusal, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rule:
    field: str
    rule: str
    broken_N: "BoolArray"


def check(
    table: pa.Table,
    kind: EventKind,
    *,
    now_ms: int,
    surfaces: Mapping[str, Sequence[str]],
    known_versions: Collection[str],
) -> Checked:
    """Keep the rows of a conforming table that can be true; `surfaces` maps each to its view types."""
    refused_by_N = np.full(table.num_rows, -1, np.int64)
    rules: list[_Rule] = []
    for rule in _rules(table, kind, now_ms, surfaces, known_versions):
        fresh_N = rule.broken_N & (refused_by_N < 0)
        if fresh_N.any():
            refused_by_N[fresh_N] = len(rules)
            rules.append(rule)
    refused_at = np.flatnonzero(refused_by_N >= 0)
    counts = np.bincount(refused_by_N[refused_at], minlength=len(rules))
    first = [(int(row), rules[refused_by_N[row]]) for row in refused_at[:SHOWN_REFUSALS]]
    return Checked(
        table=table if len(refused_at) == 0 else table.filter(pa.array(refused_by_N < 0)),
        refused=len(refused_at),
        reasons={f"{rule.field}: {rule.rule}": int(count) for rule, count in zip(rules, counts, strict=True)},
        first_refused=tuple(Refusal(row=row, field=rule.field, rule=rule.rule) for row, rule in first),
    )


def _rules(
    table: pa.Table,
    kind: EventKind,
    now_ms: int,
    surfaces: Mapping[str, Sequence[str]],
    known_versions: Collection[str],
) -> Iterator[_Rule]:
    for field in table.schema:
        yield _Rule(field=field.name, rule="must not be null", broken_N=_is_null(table[field.name]))
    yield from _times(table, kind, now_ms)
    surface = _Text(table["surface"])
    yield _Rule(field="surface", rule="unknown", broken_N=~surface.among(surfaces))
    if kind is EventKind.ENGAGEMENT:
        yield from _engagement(table)
        return
    yield _Rule(field="view_type", rule="not of this surface", broken_N=~_of_surface(table, surface, surfaces))
    if kind is EventKind.EXPOSURE:
        rule = "must be 'stable', 'candidate' or 'home'"
        yield _Rule(field="arm", rule=rule, broken_N=~_Text(table["arm"]).among(ARMS))
    yield _Rule(field="version_id", rule="unknown", broken_N=~_Text(table["version_id"]).among(known_versions))
    yield _Rule(field="generation", rule="must be 1 or more", broken_N=_numbers(table, "generation") < 1)
    score_N = _numbers(table, "score")
    yield _Rule(field="score", rule="must be 0 to 1", broken_N=~((score_N >= 0) & (score_N <= 1)))


def _times(table: pa.Table, kind: EventKind, now_ms: int) -> Iterator[_Rule]:
    served_N = _numbers(table, "served_at_ms")
    yield _Rule(field="served_at_ms", rule="must be 0 or more", broken_N=served_N < 0)
    yield _Rule(field="served_at_ms", rule="lies in the future", broken_N=served_N > now_ms + FUTURE_TOLERANCE_MS)
    if kind is EventKind.ENGAGEMENT:
        occurred_N = _numbers(table, "occurred_at_ms")
        yield _Rule(field="occurred_at_ms", rule="lies before served_at_ms", broken_N=occurred_N < served_N)
        yield _Rule(
            field="occurred_at_ms", rule="lies in the future", broken_N=occurred_N > now_ms + FUTURE_TOLERANCE_MS
        )


def _engagement(table: pa.Table) -> Iterator[_Rule]:
    label = _Text(table["label"])
    value_N = _numbers(table, "value")
    yield _Rule(field="label", rule="unknown", broken_N=~label.among([label.value for label in Label]))
    yield _Rule(
        field="value", rule=f"must be 0 to {MAX_VALUE:.0e}", broken_N=~((value_N >= 0) & (value_N <= MAX_VALUE))
    )
    yield _Rule(
        field="value", rule="must be 1 for all but revenue", broken_N=~label.among([Label.REVENUE]) & (value_N != 1)
    )


class _Text:
    """A string column by its distinct values, so that rules look at each only once."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        encoded = column.combine_chunks().dictionary_encode()
        self.values: list[str] = encoded.dictionary.to_pylist()
        self.code_N: NDArray[np.int32] = encoded.indices.fill_null(0).to_numpy(zero_copy_only=False)

    def among(self, allowed: Collection[str]) -> "BoolArray":
        known = np.array([value in allowed for value in self.values] or [False], np.bool_)
        return np.asarray(known[self.code_N])


def _of_surface(table: pa.Table, surface: _Text, surfaces: Mapping[str, Sequence[str]]) -> "BoolArray":
    view_type = _Text(table["view_type"])
    allowed = np.zeros((len(surface.values) or 1, len(view_type.values) or 1), np.bool_)
    for row, name in enumerate(surface.values):
        allowed[row, : len(view_type.values)] = [value in surfaces.get(name, ()) for value in view_type.values]
    return np.asarray(allowed[surface.code_N, view_type.code_N])


def _numbers(table: pa.Table, name: str) -> "NDArray[np.number]":
    number_N: NDArray[np.number] = table[name].fill_null(0).to_numpy()
    return number_N


def _is_null(column: pa.ChunkedArray) -> "BoolArray":
    is_null_N: BoolArray = column.is_null().to_numpy()
    return is_null_N
