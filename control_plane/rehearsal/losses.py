"""What a candidate cost while it served: engagement expected of the impressions it had, not what chance made of it."""

from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(kw_only=True, slots=True)
class Engagement:
    """Expected labels, in time or not; revenue in currency units."""

    clicks: float = 0.0
    good_clicks: float = 0.0
    hides: float = 0.0
    revenue: float = 0.0

    def to_json(self) -> dict[str, float]:
        return {one.name: getattr(self, one.name) for one in fields(self)}


@dataclass(kw_only=True, slots=True)
class Losses:
    """`lost` is stable's engagement less the candidate's on the candidate's impressions; hides are those too many.

    `at_stable` is what all impressions of the surface would have brought under stable. `harmed` counts impressions
    by a candidate that is worse there in any respect, predictions and failed requests included.
    """

    lost: Engagement = field(default_factory=Engagement)
    at_stable: Engagement = field(default_factory=Engagement)
    harmed: float = 0.0

    def add(self, *, lost: dict[str, float], at_stable: dict[str, float], harmed: float) -> None:
        for total, part in ((self.lost, lost), (self.at_stable, at_stable)):
            for name, value in part.items():
                setattr(total, name, getattr(total, name) + value)
        self.harmed += harmed
