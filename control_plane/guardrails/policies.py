"""What the plan says of a guardrail that has no answer."""

from control_plane.domain.plan import ExternalPlan, GuardrailPlan, OnMissing, OperationalPlan
from control_plane.domain.verdict import Answer


def policy_of(entry: GuardrailPlan | OperationalPlan | ExternalPlan, answer: Answer) -> str:
    """The `OnMissing` for this answer, by name; empty where the answer is one."""
    policy = _of_external(entry, answer) if isinstance(entry, ExternalPlan) else _of_own(entry, answer)
    return "" if policy is None else policy.value


def _of_own(entry: GuardrailPlan | OperationalPlan, answer: Answer) -> OnMissing | None:
    if answer is Answer.NO_DATA:
        return entry.on_no_data
    if answer is Answer.INSUFFICIENT:
        return entry.on_insufficient
    if answer is Answer.STALE:
        return entry.on_stale
    return entry.on_error if answer is Answer.ERROR else None


def _of_external(entry: ExternalPlan, answer: Answer) -> OnMissing | None:
    if answer is Answer.EMPTY:
        return entry.on_empty
    if answer is Answer.NAN:
        return entry.on_nan
    if answer is Answer.STALE:
        return entry.on_stale
    return entry.on_failed if answer is Answer.FAILED else None
