"""The law of simulated traffic, written down once more and drawn the slow way: every user, every impression.

Letters: U users, N impressions.
"""

from collections.abc import Sequence

import numpy as np

from control_plane.domain.events import Label
from control_plane.rehearsal.audience import DAY_MS, Audience, Effects
from control_plane.rehearsal.truth import Tastes

HOUR_MS = DAY_MS // 24


def simulate(
    rng: np.random.Generator,
    audience: Audience,
    effects: Effects,
    windows_ms: dict[Label, int],
    *,
    first_day: int,
    days: int,
    entry_days: int,
    shares_bp: Sequence[int],
) -> dict[str, float]:
    """Serve day i under `shares_bp[i]`; a few sums of it as of the end."""
    pace = [audience.weekend_factor if _weekend(first_day + day) else 1.0 for day in range(days)]
    clock = np.concatenate([[0.0], np.cumsum(pace)])
    tastes = Tastes.drawn(audience, has_errors=False)
    newcomers = round(audience.users * audience.new_users_per_day * entry_days)
    found: dict[str, float] = dict.fromkeys(
        ("stable", "candidate", "stable_clicks", "candidate_clicks", "good", "hides", "revenue", "score"), 0.0
    )
    found |= {"users_stable": 0, "users_candidate": 0}
    found |= {f"{arm}_{split}": 0.0 for split in splits_of(shares_bp) for arm in ("stable", "candidate")}
    end_ms = days * DAY_MS
    for user in range(audience.users + newcomers):
        entry = 0.0 if user < audience.users else rng.uniform(0, entry_days)
        activity = audience.impressions_per_day * rng.gamma(audience.activity_spread**-2, audience.activity_spread**2)
        taste = rng.choice(tastes.ctr_J)
        slot = rng.integers(10_000)
        seen: set[str] = set()
        above = 0
        count = rng.poisson(activity * clock[-1])
        ticks = np.sort(rng.uniform(0, clock[-1], size=count))
        for tick in ticks[ticks >= entry]:
            at_ms = float(np.interp(tick, clock, np.arange(days + 1))) * DAY_MS
            day = min(int(at_ms // DAY_MS), days - 1)
            arm = "candidate" if slot < shares_bp[day] else "stable"
            if above < shares_bp[day]:
                found[f"{arm}_{above}_{shares_bp[day]}"] += 1
                above = shares_bp[day] if arm == "stable" else 10_000
            seen.add(arm)
            found[arm] += 1
            _label(rng, found, audience, effects, windows_ms, taste, arm, _weekend(first_day + day), end_ms - at_ms)
        for arm in seen:
            found[f"users_{arm}"] += 1
    return found


def splits_of(shares_bp: Sequence[int]) -> list[str]:
    """What may be known of a user before, and the weight under which they are met then."""
    return [f"{above}_{share}" for above in sorted({0, *shares_bp}) for share in sorted({*shares_bp}) if above < share]


def _label(
    rng: np.random.Generator,
    found: dict[str, float],
    audience: Audience,
    effects: Effects,
    windows_ms: dict[Label, int],
    taste: float,
    arm: str,
    is_weekend: bool,
    age_ms: float,
) -> None:
    truth = effects if arm == "candidate" else Effects()
    chance = taste * (audience.weekend_ctr_factor if is_weekend else 1.0) * (1 + truth.ctr)
    is_mature = {label: age_ms >= window for label, window in windows_ms.items()}
    click_delay = rng.exponential(audience.click_delay_seconds) * 1_000
    is_click = rng.random() < chance and click_delay <= windows_ms[Label.CLICK]
    in_time = -np.expm1(-windows_ms[Label.CLICK] / 1_000 / audience.click_delay_seconds)
    if is_mature[Label.CLICK]:
        found[f"{arm}_clicks"] += is_click
        found["score"] += chance * in_time
    good_delay = rng.exponential(audience.good_click_delay_seconds) * 1_000
    is_good = is_click and rng.random() < audience.good_click_share * (1 + truth.good_click_rate)
    found["good"] += is_mature[Label.GOOD_CLICK] and is_good and good_delay <= windows_ms[Label.GOOD_CLICK]
    hide_delay = rng.exponential(audience.hide_delay_seconds) * 1_000
    is_hide = rng.random() < audience.hide_rate * (1 + truth.hide_rate)
    found["hides"] += is_mature[Label.HIDE] and is_hide and hide_delay <= windows_ms[Label.HIDE]
    pay_delay = rng.exponential(audience.revenue_delay_seconds) * 1_000
    if is_mature[Label.REVENUE] and is_click and pay_delay <= windows_ms[Label.REVENUE]:
        mean = audience.revenue_per_click * (1 + truth.revenue_per_click)
        found["revenue"] += rng.gamma(audience.revenue_spread**-2, audience.revenue_spread**2) * mean


def _weekend(day: int) -> bool:
    return (day + 3) % 7 >= 5
