"""SIMULATED clicks: the stated truth behind the demo's second half. Nothing here was observed.

    logit p(click) = intercept(surface) + position(view type) + quality(item) + affinity(user group, item group)

Shapes: N rows, C categorical features.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from control_plane.demo.contexts import IntArray, Vocabularies

INTERCEPTS = {"home_feed": -1.2, "search": -1.0, "related_pins": -1.1}
POSITIONS = (0.20, 0.0, -0.20)  # of the surface's first, second and third view type
QUALITY_SD = 0.45  # of an item
AFFINITY_SD = 0.30  # of a user group (first user feature) with an item group (last item feature)
TRUTH_SEED = 20_191_124  # fixed, so that the coefficients printed are those of every run

Probabilities = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClickModel:
    """Logistic, with tables drawn once from `TRUTH_SEED`."""

    intercepts: Mapping[str, float]
    positions: tuple[float, ...]
    quality_I: NDArray[np.float64]
    affinity_UI: NDArray[np.float64]
    item_column: int

    def probability(
        self, surface: str, *, view_type_N: IntArray, user_categorical_NC: IntArray, candidate_categorical_NC: IntArray
    ) -> Probabilities:
        position_V = np.array(self.positions)
        logit_N = (
            self.intercepts[surface]
            + position_V[view_type_N % position_V.size]
            + self.quality_I[candidate_categorical_NC[:, self.item_column]]
            + self.affinity_UI[user_categorical_NC[:, 0], candidate_categorical_NC[:, -1]]
        )
        return np.asarray(1 / (1 + np.exp(-logit_N)), np.float64)

    def in_words(self) -> str:
        intercepts = ", ".join(f"{surface} {value:+.2f}" for surface, value in self.intercepts.items())
        positions = ", ".join(f"{value:+.2f}" for value in self.positions)
        return (
            "SIMULATED clicks:\n"
            "logit p = intercept(surface) + position(view type) + quality(item) + affinity(user group, item group)\n"
            f"  intercepts: {intercepts}\n"
            f"  positions (view types 1, 2, 3): {positions}\n"
            f"  quality: one number per item, normal, sd {QUALITY_SD}\n"
            f"  affinity: one per pair of user group and item group, normal, sd {AFFINITY_SD}\n"
            f"  both tables drawn from seed {TRUTH_SEED}"
        )


def the_truth(vocabularies: Vocabularies) -> ClickModel:
    rng = np.random.default_rng(TRUTH_SEED)
    items = vocabularies.candidate_cardinalities[vocabularies.item_column]
    groups = (vocabularies.user_cardinalities[0], vocabularies.candidate_cardinalities[-1])
    return ClickModel(
        intercepts=INTERCEPTS,
        positions=POSITIONS,
        quality_I=rng.normal(0, QUALITY_SD, items),
        affinity_UI=rng.normal(0, AFFINITY_SD, groups),
        item_column=vocabularies.item_column,
    )
