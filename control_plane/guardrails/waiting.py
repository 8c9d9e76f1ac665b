"""About when will enough be known? H hypotheses, W times ahead."""

import math
from collections.abc import Callable

import numpy as np

from control_plane.guardrails.estimate import FloatArray

LONGEST_WAIT_SECONDS = 10 * 365 * 86_400.0  # beyond it "about when" means nothing
NUM_WAITS = 14
ZOOMS = 3  # each time between two of the waits before: in the end 1 % apart, finer than any rate is known
LOG_WAITS_W = np.linspace(0.0, math.log(LONGEST_WAIT_SECONDS), NUM_WAITS)
PARTS_W = np.linspace(0.0, 1.0, NUM_WAITS)


def seconds_until(
    excess: Callable[[FloatArray], FloatArray], se_H: FloatArray, pace_H: FloatArray
) -> list[float | None]:
    """When `excess` will no longer be negative, if information goes on growing at `Look.pace`.

    `excess` is a rising function of information: it takes standard errors and gives its values, (H, W) both.
    None if never or unknown.
    """
    is_known_H = np.isfinite(se_H) & (pace_H > 0)
    if not is_known_H.any():
        return [None] * len(se_H)
    log_wait_HW = np.broadcast_to(LOG_WAITS_W, (len(se_H), NUM_WAITS))
    for _ in range(ZOOMS):
        excess_HW = excess(se_H[:, None] / np.sqrt(1.0 + pace_H[:, None] * np.exp(log_wait_HW)))
        is_past_HW = excess_HW >= 0
        place_H = np.maximum(np.argmax(is_past_HW, axis=1) - 1, 0)
        is_known_H &= is_past_HW.any(axis=1)
        start_H1 = np.take_along_axis(log_wait_HW, place_H[:, None], axis=1)
        step_H1 = np.take_along_axis(log_wait_HW, place_H[:, None] + 1, axis=1) - start_H1
        log_wait_HW = start_H1 + step_H1 * PARTS_W
    wait_H = np.exp(start_H1[:, 0])
    return [wait if known else None for wait, known in zip(wait_H.tolist(), is_known_H.tolist(), strict=True)]
