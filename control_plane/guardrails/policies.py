"""What the plan says of a guardrail that has no answer."""

from control_plane.domain.plan import ExternalPlan, GuardrailPlan, OnMissing, OperationalPlan
from control_plane.domain.verdict import Answer


def policy_of(entry: GuardrailPlan | OperationalPlan | ExternalPlan, answer: Answer) -> str:
    """The `OnMissing` for this answer, by name; empty where the answer is one."""
    policy = _of_external(entry, answer) if isinstance(entry, ExternalPlan) else _of_own(entry, answer)
    return "" if policy is None else policy.value


def _of_own(entry: GuardrailPlan | OperationalPlan, answer: Answer) -> OnMissing | None:
    return {
        Answer.NO_DATA: entry.on_no_data,
        Answer.INSUFFICIENT: entry.on_insufficient,
        Answer.STALE: entry.on_stale,
        Answer.ERROR: entry.on_error,
    }.get(answer)


def _of_external(entry: ExternalPlan, answer: Answer) -> OnMissing | None:
    return {
        Answer.EMPTY: entry.on_empty,
        Answer.NAN: entry.on_nan,
        Answer.STALE: entry.on_stale,
        Answer.FAILED: entry.on_failed,
    }.get(answer)
