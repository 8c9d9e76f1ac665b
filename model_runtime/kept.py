"""The trunk's activations of an answered request, kept until a shadow of the same trunk has read its shown rows.

Shapes: N rows of a request, M rows of a part of it, S rows wanted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from model_runtime.checkpoints import Activations
from model_runtime.networks.engagement import RowTensors, Shared

ABSENT = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """Activations by forward, and where among all their rows each row of the request is (ABSENT: nowhere)."""

    parts: tuple[Activations, ...]
    position_N: NDArray[np.int64]

    @classmethod
    def of(cls, num_rows: int, parts: list[tuple[Activations, NDArray[np.int64]]]) -> "Kept":
        """From activations, each with the request's rows that it is of."""
        position_N = np.full(num_rows, ABSENT, np.int64)
        row_M = np.concatenate([rows for _, rows in parts]) if parts else np.zeros(0, np.int64)
        position_N[row_M] = np.arange(len(row_M))
        return cls(parts=tuple(activations for activations, _ in parts), position_N=position_N)

    def take(self, row_S: NDArray[np.int64]) -> Activations | None:
        """Copies of the named rows' activations, so that all else is let go; None where one of them was not kept."""
        position_S = self.position_N[row_S]
        if not self.parts or (position_S == ABSENT).any():
            return None
        if len(self.parts) == 1:
            return _rows(self.parts[0], position_S)
        order_S = np.argsort(position_S, kind="stable")
        taken, start = [], 0
        for part in self.parts:
            end = start + len(part.shared.crossed_NX)
            inside = position_S[order_S]
            taken.append(_rows(part, inside[(inside >= start) & (inside < end)] - start))
            start = end
        return _rows(joined(taken), np.argsort(order_S, kind="stable"))


def num_bytes(activations: Activations) -> int:
    return sum(tensor.nbytes for tensor in (*activations.shared, *activations.rows))


def slice_of(activations: Activations, part: slice) -> Activations:
    return Activations(activations.shared.rows(part), activations.rows.rows(part))


def joined(parts: Sequence[Activations]) -> Activations:
    """All their rows, one after the other."""
    if len(parts) == 1:
        return parts[0]
    with torch.inference_mode():
        shared = Shared(*map(torch.cat, zip(*(part.shared for part in parts), strict=True)))
        rows = RowTensors(*map(torch.cat, zip(*(part.rows for part in parts), strict=True)))
        return Activations(shared, rows)


def _rows(activations: Activations, index_S: NDArray[np.int64]) -> Activations:
    shared, rows = activations
    with torch.inference_mode():
        index = torch.from_numpy(index_S).to(shared.crossed_NX.device)
        fields = rows._asdict()
        of_rows = {name: tensor.index_select(0, index) for name, tensor in fields.items() if _is_of_rows(name)}
        # A head reads nothing of users, and a view of them would hold them all.
        of_users = {name: t.new_empty((0, *t.shape[1:])) for name, t in fields.items() if not _is_of_rows(name)}
        return Activations(Shared(*(each.index_select(0, index) for each in shared)), RowTensors(**of_rows, **of_users))


def _is_of_rows(name: str) -> bool:
    return name.rpartition("_")[2].startswith("N")
