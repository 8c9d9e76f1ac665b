"""How much traffic the evidence so far allows: the largest share at which the loss surely stays inside the budget.

"Surely" is the e-process that shows gates safe, asked the other way round: not whether a loss of the stage's margin is
ruled out, but which loss just is. That bound holds at all looks at once, so at whichever of them a share is chosen by
it, and however the shares before were chosen.
"""

import math
from collections.abc import Iterator, Mapping

import numpy as np
from scipy.special import ndtr, stdtrit

from control_plane.domain.moments import MATURED_OF, Measure
from control_plane.domain.plan import DIRECTION_OF, LABEL_OF, JudgePlan, Metric, OnMissing
from control_plane.domain.split import FULL_TRAFFIC_BP
from control_plane.domain.verdict import FIGURES, Answer, Finding
from control_plane.guardrails.estimate import FloatArray
from control_plane.guardrails.evalue import MAX_Z, log_e
from control_plane.guardrails.look import Look
from control_plane.guardrails.served_calibration import CALIBRATION

KNOWN = frozenset({Answer.SAFE, Answer.UNDECIDED})
HALVINGS = 50  # of an interval of 37: to the last bits of a double


def largest_safe_share_bp(look: Look, findings: tuple[Finding, ...]) -> int:
    """The largest share, in whole basis points and at most the next step's, that every required gate allows.

    A gate of engagement or calibration allows a share if the bound of its loss × the share × its segment's part of the
    traffic is within the loss budget, and no share if that loss may be beyond `max_stage_margin`. A gate that is not
    known allows none, and neither does one that is compared with a limit and not within it.
    """
    required = [finding for finding in findings if finding.gates and finding.policy != OnMissing.IGNORE]
    at_risk = list(_losses_at_risk(look, required))
    if not at_risk or any(risk is None for risk in at_risk):
        return 0
    worst = max((risk for risk in at_risk if risk is not None), default=0.0)
    if worst <= 0:
        return look.stage.next_share_bp
    allowed = float(f"{look.plan.judge.loss_budget / worst * FULL_TRAFFIC_BP:.{FIGURES}g}")
    return min(math.floor(allowed), look.stage.next_share_bp)


def loss_bounds(benefit_H: FloatArray, se_H: FloatArray, degrees_H: FloatArray, judge: JudgePlan) -> FloatArray:
    """The least loss that is ruled out, of each hypothesis: a relative one, negative where a gain is sure.

    Whatever the true loss is, the chance that the bound is ever below it is at most `alpha_advance`: the bound is
    below it only where the e-value against that very loss has reached 1/α (Ville's inequality).

    Args:
        benefit_H: log ratio of candidate and stable, positive where the candidate is better.
        se_H: its standard error.
        degrees_H: of freedom, of that standard error.
    """
    z_H = _resolving_z(se_H, judge)
    with np.errstate(under="ignore", over="ignore"):
        t_H = -stdtrit(np.maximum(degrees_H, 1.0), ndtr(-z_H))
        return np.asarray(-np.expm1(benefit_H - t_H * se_H))


def _resolving_z(se_H: FloatArray, judge: JudgePlan) -> FloatArray:
    """The normal score at which an e-value reaches 1/α, from above, to the last bits."""
    low_H, high_H = np.zeros_like(se_H), np.full_like(se_H, MAX_Z)
    for _ in range(HALVINGS):
        middle_H = (low_H + high_H) / 2
        is_reached_H = log_e(middle_H, se_H, judge.taus, judge.tau_weights) >= -math.log(judge.alpha_advance)
        low_H, high_H = np.where(is_reached_H, low_H, middle_H), np.where(is_reached_H, middle_H, high_H)
    return high_H


def _losses_at_risk(look: Look, required: list[Finding]) -> Iterator[float | None]:
    """Of each gate, the bound of its loss × its segment's part of the traffic; None where it allows no share."""
    bounds = _engagement_bounds(look, required)
    for finding in required:
        if finding.metric in set(Metric) or finding.metric == CALIBRATION:
            yield _at_risk(look, finding, bounds)
        elif finding.answer is not Answer.SAFE:
            yield None


def _at_risk(look: Look, finding: Finding, bounds: Mapping[tuple[str, str], float]) -> float | None:
    if finding.answer not in KNOWN:
        return None
    bound = bounds.get((finding.metric, finding.segment), _miscalibration(finding))
    if not bound <= look.plan.judge.max_stage_margin:
        return None
    segment = look.moments.segments.index(finding.segment)
    return bound * float(look.traffic_share(_matured(finding))[segment])


def _engagement_bounds(look: Look, required: list[Finding]) -> dict[tuple[str, str], float]:
    keys, columns = [], []
    wanted = {(finding.metric, finding.segment) for finding in required if finding.answer in KNOWN}
    for guardrail, ratios in zip(look.plan.guardrails, look.ratios, strict=True):
        for index, segment in enumerate(look.moments.segments):
            if (guardrail.metric.value, segment) in wanted:
                keys.append((guardrail.metric.value, segment))
                benefit = DIRECTION_OF[guardrail.metric] * ratios.theta_H[index]
                columns.append((benefit, ratios.se_H[index], ratios.buckets_H[index] - 1.0))
    if not keys:
        return {}
    benefit_H, se_H, degrees_H = np.array(columns, dtype=np.float64).T
    return dict(zip(keys, loss_bounds(benefit_H, se_H, degrees_H, look.plan.judge).tolist(), strict=True))


def _miscalibration(finding: Finding) -> float:
    """How far predictions may be off: what a wrong price per click can cost, as a part of what it earns."""
    if finding.lower is None or finding.upper is None:
        return math.inf
    return max(abs(finding.lower), abs(finding.upper))


def _matured(finding: Finding) -> Measure:
    return Measure.MATURED_CLICK if finding.metric == CALIBRATION else MATURED_OF[LABEL_OF[Metric(finding.metric)]]
