"""Pictures of scores: labels that have not come yet, and drift among users who come back.

Letters of the shapes: R runs, T times, A arms, K buckets, B score bins, U users, N impressions, D groups of bins.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from benchmarks.guardrail_bars.outcome import chunked
from benchmarks.guardrail_bars.rules import ALPHA
from control_plane.domain.moments import FIXED_POINT, NUM_SCORE_BINS, SCORE_BIN_LOGIT_MIN, SCORE_BIN_LOGIT_WIDTH
from control_plane.domain.plan import ShadowPlan
from control_plane.domain.split import NUM_BUCKETS, Arm
from control_plane.guardrails.calibration import calibrations
from control_plane.guardrails.estimate import FloatArray, IntArray
from control_plane.guardrails.evalue import INTERVAL_TAU, half_width
from control_plane.guardrails.score_distances import score_distances, starts_of_tenths
from docs.statistics_figures.drawing import BLUE, GREY, INK, ORANGE, canvas, style, svg
from docs.statistics_figures.table import markdown, percent

SHOWN, CLICK_RATE = 400_000, 0.03  # impressions of a week, spread evenly; clicks that come in the end
DAYS, MEAN_DELAY, WINDOW = 7.0, 0.5, 1.0  # days
READ_AT = (0.25, 0.5, 1.0, 2.0, 4.0, 7.0)  # days, in the table
LABEL_SEED = 6

USERS, MEAN_LOGIT, SPREAD = 500, -3.9, 1.2  # per version; of an impression's score, on the logit scale
OF_USER = 0.5  # part of the scores' variance that is between users
PER_USER = (1, 2, 5, 10, 20, 50, 100, 200, 500)  # impressions
DRIFT_RUNS = 200


def maturity() -> tuple[str, dict[str, str]]:
    """A perfect model, read as its impressions age."""
    week = _Week.drawn(np.random.default_rng(LABEL_SEED))
    at_T = np.arange(0.05, DAYS + 0.01, 0.05)
    ratio_T = np.array([week.calibration(at, waits=False)[0] for at in at_T.tolist()])
    waiting_T = np.array([week.calibration(at, waits=True) for at in at_T.tolist()]).T
    with style():
        figure, axes = canvas(3.4)
        axes.plot(at_T, ratio_T, "--", color=ORANGE, label="every impression, clicks so far")
        axes.fill_between(at_T, waiting_T[1], waiting_T[2], color=BLUE, alpha=0.2, linewidth=0)
        axes.plot(at_T, waiting_T[0], color=BLUE, label="impressions a day old, clicks within the day (Surefoot)")
        axes.axhline(1.0, color=INK, linewidth=1, linestyle=":")
        axes.set_xlim(0, DAYS)
        axes.set_ylim(0.7, 4.0)
        axes.set_yscale("log")
        axes.set_yticks([0.8, 1, 1.25, 1.5, 2, 3, 4], ["0.8", "1", "1.25", "1.5", "2", "3", "4"])
        axes.minorticks_off()
        axes.set_xlabel("days since the start")
        axes.set_ylabel("predicted over observed clicks")
        axes.legend(loc="upper right")
        return svg(figure), {"maturity": _maturity_table(week)}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Week:
    """Impressions, each with its user bucket, and the day of its click; infinite where none comes."""

    shown_at_N: FloatArray
    delay_N: FloatArray
    bucket_N: IntArray

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> "_Week":
        delay_N = np.where(rng.random(SHOWN) < CLICK_RATE, rng.exponential(MEAN_DELAY, SHOWN), np.inf)
        return cls(
            shown_at_N=rng.uniform(0, DAYS, SHOWN), delay_N=delay_N, bucket_N=rng.integers(NUM_BUCKETS, size=SHOWN)
        )

    def calibration(self, at: float, *, waits: bool) -> tuple[float, float, float]:
        """Predicted over observed with its always-valid interval; NaN before anything counts.

        The model knows the chance of a click, or of a click within the window, which is what a label then is.
        """
        age_N = at - self.shown_at_N
        counts_N = age_N >= (WINDOW if waits else 0.0)
        is_click_N = counts_N & (self.delay_N <= (np.minimum(age_N, WINDOW) if waits else age_N))
        chance = CLICK_RATE * (-np.expm1(-WINDOW / MEAN_DELAY) if waits else 1.0)
        shown_K, click_K = (
            np.bincount(self.bucket_N[is_in_N], minlength=NUM_BUCKETS).astype(np.int64)
            for is_in_N in (counts_N, is_click_N)
        )
        if not click_K.any():
            return np.nan, np.nan, np.nan
        score_K = np.rint(shown_K * (chance * FIXED_POINT)).astype(np.int64)
        found = calibrations(shown_K[None], score_K[None], click_K[None])
        ratio, width = (
            found.log_ratio_H[0],
            half_width(found.se_H, (found.buckets_H - 1).astype(np.float64), alpha=ALPHA)[0],
        )
        return float(np.exp(ratio)), float(np.exp(ratio - width)), float(np.exp(ratio + width))


def _maturity_table(week: _Week) -> str:
    rows = []
    for at in READ_AT:
        naive, (ratio, low, high) = week.calibration(at, waits=False)[0], week.calibration(at, waits=True)
        waiting = f"{ratio:.2f} ({low:.2f} – {high:.2f})" if np.isfinite(ratio) else "none yet"
        rows.append([f"{at:g}", f"{naive:.2f}", waiting])
    return markdown(["days", "every impression, clicks so far", "matured impressions (interval)"], rows)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Drift:
    """R readings where nothing has drifted."""

    plain_R: FloatArray
    debiased_R: FloatArray
    lower_R: FloatArray
    theory: "stats.rv_frozen"  # of the plain one if impressions were independent: a scaled chi-square


def drift_null() -> tuple[str, dict[str, str]]:
    """PSI of two versions that score alike, by how often their users come back."""
    found = {per_user: _no_drift(per_user) for per_user in PER_USER}
    impressions_N = np.array(PER_USER)
    with style():
        figure, axes = canvas(3.7)
        plain_QN = np.array([np.quantile(one.plain_R, [0.05, 0.95]) for one in found.values()]).T
        theory_QN = np.array([one.theory.ppf([0.05, 0.95]) for one in found.values()]).T
        axes.fill_between(impressions_N, *plain_QN, color=ORANGE, alpha=0.25, linewidth=0)
        axes.plot(
            impressions_N, [one.plain_R.mean() for one in found.values()], "o-", color=ORANGE, label="PSI as usual"
        )
        axes.fill_between(impressions_N, *theory_QN, color=GREY, alpha=0.3, linewidth=0)
        axes.plot(
            impressions_N,
            [one.theory.mean() for one in found.values()],
            "--",
            color=GREY,
            label="its theory for independent impressions",
        )
        axes.plot(
            impressions_N,
            [one.debiased_R.mean() for one in found.values()],
            "-.",
            color=BLUE,
            label="Surefoot's estimate",
        )
        axes.axhline(ShadowPlan().max_psi or 0.0, color=INK, linewidth=1, linestyle=":")
        axes.annotate("limit .25", (1.05, 0.27))
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(1e-4, 0.5)
        axes.set_xlim(1, PER_USER[-1])
        axes.set_xticks(PER_USER, [str(per_user) for per_user in PER_USER])
        axes.minorticks_off()
        axes.set_xlabel(f"impressions of each of {USERS} users per version")
        axes.set_ylabel("PSI where nothing drifted")
        axes.legend(loc="lower left")
        return svg(figure), {"psi": _drift_table(found)}


def _no_drift(per_user: int) -> _Drift:
    plain, debiased, lower, groups = [], [], [], []
    for count, rng in chunked(f"picture of drift, {per_user} a user", DRIFT_RUNS, DRIFT_RUNS):
        for _ in range(count):
            bins_AKB = _scores(rng, per_user)
            psi = score_distances(bins_AKB).psi
            buckets = int((bins_AKB.sum(axis=2) > 0).all(axis=0).sum())
            width = half_width(np.array(psi.se), np.array(buckets - 1.0), alpha=ALPHA, tau=INTERVAL_TAU)
            count_AD = _groups(bins_AKB.sum(axis=1))
            groups.append(count_AD.shape[1])
            plain.append(_psi(count_AD))
            debiased.append(psi.value)
            lower.append(max(0.0, psi.value - float(width)))
    return _Drift(
        plain_R=np.array(plain),
        debiased_R=np.array(debiased),
        lower_R=np.array(lower),
        theory=stats.chi2(float(np.mean(groups)) - 1.0, scale=2 / (USERS * per_user)),
    )


def _scores(rng: np.random.Generator, per_user: int) -> IntArray:
    """Counts by version, bucket and bin: both versions alike, each over users of its own."""
    counts_AKB = np.zeros((len(Arm), NUM_BUCKETS, NUM_SCORE_BINS), dtype=np.int64)
    for arm in Arm:
        of_user_U1 = rng.normal(MEAN_LOGIT, SPREAD * np.sqrt(OF_USER), (USERS, 1))
        logit_UN = of_user_U1 + rng.normal(0.0, SPREAD * np.sqrt(1 - OF_USER), (USERS, per_user))
        bin_UN = ((logit_UN - SCORE_BIN_LOGIT_MIN) / SCORE_BIN_LOGIT_WIDTH).astype(np.int64)
        bucket_U1 = rng.integers(NUM_BUCKETS, size=(USERS, 1))
        np.add.at(counts_AKB[arm], (bucket_U1, np.clip(bin_UN, 0, NUM_SCORE_BINS - 1)), 1)
    return counts_AKB


def _groups(count_AB: IntArray) -> IntArray:
    starts, _ = starts_of_tenths(count_AB[Arm.STABLE])
    return np.add.reduceat(count_AB, starts, axis=1)


def _psi(count_AD: IntArray) -> float:
    """As everyone computes it."""
    share_AD = (count_AD + 0.5) / (count_AD + 0.5).sum(axis=1, keepdims=True)
    return float(((share_AD[1] - share_AD[0]) * np.log(share_AD[1] / share_AD[0])).sum())


def _drift_table(found: dict[int, _Drift]) -> str:
    rows = []
    for per_user in (1, 10, 100, 500):
        one = found[per_user]
        plain, theory = float(one.plain_R.mean()), float(one.theory.mean())
        beyond = float((one.plain_R > one.theory.ppf(0.95)).mean())
        rows.append(
            [
                str(per_user),
                f"{theory:.5f}",
                f"{plain:.5f}",
                f"{plain / theory:.1f}×",
                percent(beyond, 0),
                f"{one.debiased_R.mean():.5f}",
                percent(float((one.lower_R > 0).mean())),
            ]
        )
    columns = ["impressions per user", "theory's mean", "PSI's mean", "ratio", "beyond theory's 95 % limit"]
    return markdown([*columns, "Surefoot's mean", "its lower bound above 0"], rows)
