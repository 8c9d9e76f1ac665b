"""The next weight of a ramp that takes as much traffic as the loss budget allows, and never more than its plan."""

from control_plane.domain.plan import RolloutPlan
from control_plane.domain.split import FULL_TRAFFIC_BP

LEAST_RAISE = 1.25  # of the weight: each raise is a stage of its own, which less would not be worth
EVEN_SPLIT_BP = FULL_TRAFFIC_BP // 2  # of all splits it tells most of the difference between the arms


def next_weight_bp(
    plan: RolloutPlan, *, step: int, weight_bp: int, safe_share_bp: int | None, is_shown_safe: bool
) -> int:
    """The candidate's next weight in basis points; `weight_bp`, the present one, where it has to wait.

    Once the step's gates are shown safe that is the plan's next step. Until then it is `safe_share_bp`, at which the
    loss surely stays inside the plan's budget, if that is a raise worth making. Before full traffic such raises end at
    half: further ones would leave too little of stable to compare with, and what is still open would take longer.
    """
    next_step_bp = plan.steps[step + 1].share_bp if step + 1 < len(plan.steps) else FULL_TRAFFIC_BP
    if is_shown_safe:
        return next_step_bp
    if not plan.is_adaptive or safe_share_bp is None:
        return weight_bp
    most_bp = next_step_bp if next_step_bp < FULL_TRAFFIC_BP else EVEN_SPLIT_BP
    allowed_bp = min(safe_share_bp, most_bp)
    return allowed_bp if allowed_bp >= LEAST_RAISE * weight_bp else weight_bp
