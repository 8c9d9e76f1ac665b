"""The loss of a run, step by step, thinned to what a picture shows.

Shapes: P points.
"""

import torch
from torch import Tensor

POINTS = 50  # of a curve, each a mean over as many steps


class LossCurve:
    """Means over stretches of a run's steps."""

    def __init__(self) -> None:
        self._stretches: dict[int, tuple[int, float, int]] = {}  # by place: last step, sum of losses, steps

    def add(self, step: int, steps: int, loss: float) -> None:
        """Steps are counted from 1."""
        place = (step - 1) * POINTS // max(steps, POINTS)
        _, total, count = self._stretches.get(place, (step, 0.0, 0))
        self._stretches[place] = (step, total + loss, count + 1)

    def points(self) -> list[tuple[int, float]]:
        """The last step of each stretch, and its mean loss."""
        return [(step, total / count) for step, total, count in self._stretches.values()]

    def state(self) -> Tensor:
        """All of it, shape (P, 4)."""
        rows = [(place, *stretch) for place, stretch in self._stretches.items()]
        return torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)

    def restore(self, state_P4: Tensor) -> None:
        rows = state_P4.tolist()
        self._stretches = {int(place): (int(step), total, int(count)) for place, step, total, count in rows}
