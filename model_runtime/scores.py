"""What a version says of each row, and which of it is no probability. N = rows of a batch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_runtime.tally import is_bad

HEADS = ("click", "good_click", "hide")


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What each row scored; NaN where the version raised."""

    click_N: NDArray[np.float32]
    good_click_N: NDArray[np.float32]
    hide_N: NDArray[np.float32]

    @classmethod
    def none_of(cls, rows: int) -> "Scores":
        return cls(**{f"{head}_N": np.full(rows, np.nan, np.float32) for head in HEADS})

    def put(self, row_M: NDArray[np.int64], found: "Scores") -> None:
        """Fill in what the named rows scored."""
        self.click_N[row_M] = found.click_N
        self.good_click_N[row_M] = found.good_click_N
        self.hide_N[row_M] = found.hide_N

    def rows(self, part: slice) -> "Scores":
        return Scores(**{f"{head}_N": getattr(self, f"{head}_N")[part] for head in HEADS})

    def bad_rows(self) -> NDArray[np.bool_]:
        """Rows of which a score is no probability, shape (N,)."""
        return is_bad(self.click_N) | is_bad(self.good_click_N) | is_bad(self.hide_N)
