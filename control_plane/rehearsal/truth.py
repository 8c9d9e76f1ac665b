"""What is true of one impression at one moment, by view type, wave and type of user; and what scores say of it.

Letters: V view types, W waves (0 is stable), J types of user (L tastes × E score errors), A arms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammainc, gammaincinv

from control_plane.domain.events import Label
from control_plane.rehearsal.audience import DAY_MS, Audience, Effects, is_weekend
from control_plane.rehearsal.scores import SCORE_CLIP

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

NUM_TASTES = 8  # levels of a user's CTR, equally many users on each
NUM_ERRORS = 7  # of a candidate's score: Gauss-Hermite nodes keep a normal law's moments up to the 13th
MIN_TASTE = 0.02  # of a mean user's
MAX_CTR = 0.9


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tastes:
    """Types of user: what they click under stable on a weekday, and the standard error of a blurred model's score."""

    ctr_J: FloatArray
    error_J: FloatArray
    share_J: FloatArray

    @classmethod
    def drawn(cls, audience: Audience, *, has_errors: bool) -> Self:
        taste_L = _levels(audience.ctr_spread)
        error_E, share_E = np.zeros(1), np.ones(1)
        if has_errors:
            error_E, share_E = np.polynomial.hermite_e.hermegauss(NUM_ERRORS)
        return cls(
            ctr_J=np.repeat(np.minimum(taste_L * audience.ctr, MAX_CTR), error_E.size),
            error_J=np.tile(error_E, taste_L.size),
            share_J=np.tile(share_E / share_E.sum(), taste_L.size) / taste_L.size,
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Truth:
    click_VWJ: FloatArray  # chance of a click in time
    score_VWJ: FloatArray
    shadow_score_VJ: FloatArray  # of the candidate, on what stable serves
    good_VA1: FloatArray  # of clicks in time, in time too
    hide_VA1: FloatArray  # in time
    price_VA1: FloatArray  # mean revenue of a click that pays in time
    at_stable: Mapping[str, FloatArray]  # engagement per impression under stable, broadcast against V, W, J
    lost: Mapping[str, FloatArray]  # of it, under each wave
    is_worse_VWJ: BoolArray

    @classmethod
    def of(
        cls,
        tastes: Tastes,
        audience: Audience,
        effects: Effects,
        in_time: Mapping[Label, float],
        *,
        joined_ms: Sequence[int],
        at_ms: int,
    ) -> Self:
        by_view = [effects.at(view_type) for view_type in audience.view_types]
        days_W = [(at_ms - since_ms) / DAY_MS for since_ms in joined_ms]
        base_J = tastes.ctr_J * (audience.weekend_ctr_factor if is_weekend(at_ms // DAY_MS) else 1.0)
        factor_VW = np.array([[1.0, *(one.ctr_factor(days) for days in days_W[1:])] for one in by_view])
        ctr_VWJ = np.minimum(base_J * factor_VW[..., None], MAX_CTR)
        prediction_V, noise_V = (_column(by_view, name) for name in ("prediction", "score_noise"))
        blur_VJ = np.exp(tastes.error_J * noise_V - noise_V**2 / 2) * (1 + prediction_V)
        foreseen_VWJ = np.where(np.array([one.is_foreseen for one in by_view])[:, None, None], ctr_VWJ, base_J)
        score_VWJ = foreseen_VWJ * blur_VJ[:, None]
        score_VWJ[:, 0] = base_J
        q = in_time[Label.CLICK]
        price, good, hide = audience.revenue_per_click, audience.good_click_share, audience.hide_rate
        good_VA = _by_arm(good, _column(by_view, "good_click_rate"), at_most=1.0)
        hide_VA = _by_arm(hide, _column(by_view, "hide_rate"), at_most=1.0)
        price_VA = _by_arm(price, _column(by_view, "revenue_per_click"))
        arm_W = np.minimum(np.arange(len(joined_ms)), 1)
        good_VW1, hide_VW1, price_VW1 = (table[:, arm_W, None] for table in (good_VA, hide_VA, price_VA))
        at_stable = {"clicks": base_J, "good_clicks": base_J * good, "revenue": base_J * price}
        lost = {
            "clicks": base_J - ctr_VWJ,
            "good_clicks": base_J * good - ctr_VWJ * good_VW1,
            "revenue": base_J * price - ctr_VWJ * price_VW1,
            "hides": hide_VW1 - hide + np.zeros_like(ctr_VWJ),
        }
        is_off_V11 = (np.abs(prediction_V) + noise_V > 0)[..., None]
        return cls(
            click_VWJ=ctr_VWJ * q,
            score_VWJ=_clipped(score_VWJ * q),
            shadow_score_VJ=_clipped(base_J * blur_VJ * q),
            good_VA1=good_VA[..., None] * in_time[Label.GOOD_CLICK],
            hide_VA1=hide_VA[..., None] * in_time[Label.HIDE],
            price_VA1=price_VA[..., None],
            at_stable={**at_stable, "hides": np.full_like(base_J, hide)},
            lost=lost,
            is_worse_VWJ=np.any([loss > 1e-12 for loss in lost.values()], axis=0) | is_off_V11,
        )

    def of_stable_alone(self) -> "Truth":
        """The same with stable's rates alone, for waves that all saw stable."""
        return replace(
            self, good_VA1=self.good_VA1[:, :1], hide_VA1=self.hide_VA1[:, :1], price_VA1=self.price_VA1[:, :1]
        )


def _levels(spread: float) -> FloatArray:
    """A gamma law of mean 1 in equally likely levels, which keep its mean and its coefficient of variation."""
    if spread == 0:
        return np.ones(1)
    shape = spread**-2
    edges = gammaincinv(shape, np.linspace(0, 1, NUM_TASTES + 1))
    level_L: FloatArray = np.diff(gammainc(shape + 1, edges)) * NUM_TASTES  # the mean of each level
    level_L = np.maximum(1 + (level_L - 1) * spread / level_L.std(), MIN_TASTE)
    return level_L / float(level_L.mean())


def _column(by_view: Sequence[Effects], name: str) -> FloatArray:
    return np.array([[getattr(effects, name)] for effects in by_view], dtype=np.float64)


def _by_arm(stable: float, effect_V1: FloatArray, *, at_most: float = np.inf) -> FloatArray:
    table_VA: FloatArray = np.concatenate([np.full_like(effect_V1, stable), stable * (1 + effect_V1)], axis=1)
    return np.clip(table_VA, None, at_most)


def _clipped(score: FloatArray) -> FloatArray:
    return np.clip(score, SCORE_CLIP, 1 - SCORE_CLIP)
