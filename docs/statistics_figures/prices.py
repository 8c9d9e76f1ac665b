"""Tables of the e-process itself: which z it asks for, and what being one of many hypotheses costs."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import brentq

from benchmarks.guardrail_bars.rules import ALPHA, LOG_BAR, PLAN
from control_plane.domain.plan import DEFAULT_MARGINS, CalibrationPlan, GuardrailPlan, Metric, RolloutPlan, Step
from control_plane.domain.split import FULL_TRAFFIC_BP
from control_plane.guardrails.evalue import MAX_Z, log_e
from control_plane.guardrails.look import weights_of
from docs.statistics_figures.table import markdown, percent

ERRORS = (0.10, 0.05, 0.02, 0.01, 0.005, 0.002)  # standard errors of a log ratio
READ_AT = 0.015  # about where a loss of 5 % is found
FAMILIES: dict[str, tuple[Sequence[Metric], int]] = {  # guarded metrics beside calibration, and view types
    "CTR": ((Metric.CTR,), 3),
    "CTR and hides": ((Metric.CTR, Metric.HIDE_RATE), 3),
    "all four": (tuple(Metric), 8),
}


def threshold_table() -> str:
    """The z at which one e-value reaches 20, by standard error."""
    cells = [f"{_deciding_z(LOG_BAR, se):.2f}" for se in ERRORS]
    return markdown(["standard error", *(percent(se) for se in ERRORS)], [["z at which E = 20", *cells]])


def family_table() -> str:
    """What one hypothesis must reach if no other says anything, and the users that costs over being alone."""
    alone = _deciding_z(LOG_BAR, READ_AT)
    rows = [["a single hypothesis", "1", "20", f"{alone:.2f}", "1.00×"]]
    for name, (metrics, num_view_types) in FAMILIES.items():
        weights = weights_of(_plan(metrics), num_view_types=num_view_types)
        for place, weight in (("the surface", weights.surface), ("one view type", weights.rest)):
            needed = math.log((math.exp(LOG_BAR) - (1 - weight)) / weight)
            z = _deciding_z(needed, READ_AT)
            label = f"{name} × {num_view_types} view types: one metric on {place}"
            rows.append([label, f"{weight:.3f}", f"{math.exp(needed):.0f}", f"{z:.2f}", f"{(z / alone) ** 2:.2f}×"])
    return markdown(["hypothesis", "weight", "E it needs alone", f"z, at se {percent(READ_AT)}", "users"], rows)


def default_table() -> str:
    calibration = CalibrationPlan()
    rows = [[metric.value, percent(harm), percent(safe)] for metric, (harm, safe) in DEFAULT_MARGINS.items()]
    rows += [
        ["calibration of a surface", percent(calibration.epsilon), percent(calibration.band)],
        ["calibration of a view type", percent(calibration.view_type_epsilon), percent(calibration.view_type_band)],
    ]
    return markdown(["metric", "harm beyond h", "safe within m, at the last gates"], rows)


def budget_table() -> str:
    """Error budgets and evidence gates, and what they are for."""
    rows = [
        ["`alpha_rollback`", f"{ALPHA:g}", "false rollback, over the whole rollout"],
        ["`alpha_advance`", f"{PLAN.alpha_advance:g}", "one gate passed at its safe margin, over all looks"],
        [
            "`min_expected_conversions`",
            f"{PLAN.min_expected_conversions:g}",
            "before harm is judged, at stable's rates",
        ],
        ["`min_conversions`", f"{PLAN.min_conversions}", "before safety is judged, matured, in each arm"],
        ["`min_buckets`", f"{PLAN.min_buckets}", "user buckets with data, before either"],
        ["`min_users`", f"{PLAN.min_users}", "users of the candidate, before any advance"],
        ["`loss_budget`", percent(PLAN.loss_budget), "share × margin at the early gates"],
        ["`sample_ratio_threshold`", f"{PLAN.sample_ratio_threshold:g}", "e-value at which the split is not believed"],
    ]
    return markdown(["in the plan's `judge`", "default", "what for"], rows)


def _deciding_z(log_bar: float, se: float) -> float:
    def excess(z: float) -> float:
        return float(log_e(np.array(z), np.array(se), PLAN.taus, PLAN.tau_weights)) - log_bar

    return float(brentq(excess, 0.0, MAX_Z))


def _plan(metrics: Sequence[Metric]) -> RolloutPlan:
    guardrails = tuple(
        GuardrailPlan(metric=metric, harm_margin=DEFAULT_MARGINS[metric][0], safe_margin=DEFAULT_MARGINS[metric][1])
        for metric in metrics
    )
    return RolloutPlan(name="table", steps=(Step(share_bp=FULL_TRAFFIC_BP),), guardrails=guardrails)
