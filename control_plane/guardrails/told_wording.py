"""How findings are said that are told for attribution: drift of the scores, calibration by score, the Brier score."""

from control_plane.domain.verdict import Answer, Finding, percent
from control_plane.guardrails.evalue import relative
from control_plane.guardrails.finding_names import (
    BRIER,
    CALIBRATION_BY_SCORE,
    CALIBRATION_ERROR,
    CALIBRATION_SHIFT,
    DRIFT,
    JENSEN_SHANNON,
    KOLMOGOROV_SMIRNOV,
    MEAN_LOG_RATIO,
    PSI,
    RANK_AGREEMENT,
    STABLE_CALIBRATION_ERROR,
    WASSERSTEIN,
)

NAMES = {
    PSI: "PSI",
    JENSEN_SHANNON: "Jensen–Shannon divergence",
    WASSERSTEIN: "Wasserstein distance",
    KOLMOGOROV_SMIRNOV: "Kolmogorov–Smirnov distance",
    RANK_AGREEMENT: "rank agreement",
    MEAN_LOG_RATIO: "mean log-ratio of the scores",
    BRIER: "Brier score",
    CALIBRATION_BY_SCORE: "calibration by score",
    CALIBRATION_SHIFT: "calibration beside stable's",
    CALIBRATION_ERROR: "calibration error",
    STABLE_CALIBRATION_ERROR: "stable's calibration error",
}
MOST_TOLD = 10.0  # of an error, relative: the end of an interval on few users may be anywhere
UNITS = {JENSEN_SHANNON: " nats", WASSERSTEIN: " logits"}


def sentence(finding: Finding, where: str) -> str:
    """'the candidate ranks impressions on home_feed differently from stable: rank agreement 0.71 (interval …)'."""
    name = NAMES[finding.metric]
    if finding.effect is None or finding.lower is None or finding.upper is None:
        return f"{name} on {where} has no estimate yet"
    effect, interval = finding.effect, _interval(finding)
    is_shown = finding.lower > 0 or finding.upper < 0
    size = percent(abs(effect), signed=False)
    match finding.metric:
        case "psi" | "js" | "ks":
            return f"the candidate's scores on {where} {_spread(is_shown)}: {name} {figure(finding, effect)} {interval}"
        case "wasserstein":
            distance = f"lie {figure(finding, effect)} from stable's on average"
            return f"the candidate's scores on {where} {distance} {interval}"
        case "rank_agreement":
            return f"{_ranks(finding, where)}: rank agreement {figure(finding, effect)} {interval}"
        case "mean_log_ratio":
            side, size = "higher" if effect >= 0 else "lower", percent(abs(relative(effect)), signed=False)
            return f"the candidate's scores on {where} are {size} {side} than stable's in geometric mean {interval}"
        case "brier":
            side = "higher" if effect >= 0 else "lower"
            return (
                f"the candidate's Brier score on {where} is {abs(effect) * 100:.2f} % {side} than stable's {interval}"
            )
        case "calibration_by_score":
            side = "above" if effect >= 0 else "below"
            return f"the candidate's predicted clicks on {where} are {size} {side} observed {interval}"
        case "calibration_shift":
            side = "more" if effect >= 0 else "fewer"
            return (
                f"the candidate predicts {size} {side} clicks for one that comes on {where} than stable does {interval}"
            )
        case _:
            whose = "stable's" if finding.metric == STABLE_CALIBRATION_ERROR else "the candidate's"
            return f"{whose} scores on {where} are off by {size} of the click rate within a score bin {interval}"


def short(finding: Finding) -> str:
    """The same for a list that says already what it is of: 'PSI 0.031 (interval 0 to 0.05), limit 0.25: within it'."""
    name = finding.segment if finding.metric == CALIBRATION_BY_SCORE else NAMES[finding.metric]
    if finding.effect is None:
        return f"{name}: no estimate yet"
    return f"{name} {figure(finding, finding.effect)} {_interval(finding)}{limit_words(finding)}"


def limit_words(finding: Finding) -> str:
    if finding.safe_margin is None:
        return ""
    limit = f", limit {limit_text(finding, finding.safe_margin)}"
    if finding.answer is Answer.SAFE:
        return f"{limit}: surely within it"
    return f"{limit}: surely beyond it" if is_beyond_limit(finding) else f"{limit}: not sure to be within it"


def beyond_limit(finding: Finding, where: str) -> str:
    limit = limit_text(finding, finding.safe_margin or 0.0)
    side = "below" if finding.metric == RANK_AGREEMENT else "beyond"
    return f"{sentence(finding, where)}, surely {side} the plan's limit of {limit}"


def is_beyond_limit(finding: Finding) -> bool:
    """Whether all of a drift's interval lies beyond the plan's limit."""
    return excess(finding) > 0


def excess(finding: Finding) -> float:
    """Standard errors by which even the near end of the interval lies beyond the limit; 0 or less if it does not."""
    lower, upper, limit, se = finding.lower, finding.upper, finding.safe_margin, finding.standard_error
    if finding.metric not in DRIFT or lower is None or upper is None or limit is None or not se:
        return 0.0
    match finding.metric:
        case "rank_agreement":
            return (limit - upper) / se
        case "mean_log_ratio":
            return (max(lower, -upper) - limit) / se
        case _:
            return (lower - limit) / se


def limit_text(finding: Finding, limit: float) -> str:
    """In the metric's unit; relative ones in per cent."""
    if finding.metric == MEAN_LOG_RATIO:
        return f"±{relative(limit) * 100:.3g} %"
    return f"{limit:.3g}{UNITS.get(finding.metric, '')}" if finding.metric in DRIFT else f"{limit * 100:.3g} %"


def figure(finding: Finding, value: float) -> str:
    """An effect or an end of its interval, in the metric's unit."""
    if finding.metric == RANK_AGREEMENT:
        return f"{value:.2f}"
    if finding.metric in DRIFT and finding.metric != MEAN_LOG_RATIO:
        return f"{value:.{4 if finding.metric == JENSEN_SHANNON else 3}f}{UNITS.get(finding.metric, '')}"
    if finding.metric == BRIER:
        return f"{value * 100:+.2f} %"
    if finding.metric in (CALIBRATION_ERROR, STABLE_CALIBRATION_ERROR) and value > MOST_TOLD:
        return f"more than {percent(MOST_TOLD, signed=False)}"
    relatively = relative(value) if finding.metric == MEAN_LOG_RATIO else value
    return percent(relatively, signed=finding.metric not in (CALIBRATION_ERROR, STABLE_CALIBRATION_ERROR))


def _interval(finding: Finding) -> str:
    unit, ends = UNITS.get(finding.metric, ""), (finding.lower, finding.upper)
    words = [figure(finding, end).removesuffix(unit) for end in ends if end is not None]
    return f"(interval {' to '.join(words)})"


def _spread(is_shown: bool) -> str:
    return (
        "are spread differently from stable's" if is_shown else "are not shown to be spread differently from stable's"
    )


def _ranks(finding: Finding, where: str) -> str:
    is_one_order = finding.upper is not None and finding.upper >= 1.0
    how = "as stable does, as far as can be told" if is_one_order else "differently from stable"
    return f"the candidate ranks impressions on {where} {how}"
