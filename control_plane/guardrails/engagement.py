"""Findings on engagement: each guarded metric on the surface and on each view type, candidate against stable.

H runs over the hypotheses, look by look, in each guardrail by guardrail and within these over the segments; O over
the open ones; the other letters are those of `domain.moments`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from control_plane.domain.moments import MATURED_OF
from control_plane.domain.plan import DIRECTION_OF, LABEL_OF, GuardrailPlan, OnMissing, Role
from control_plane.domain.split import Arm
from control_plane.domain.verdict import Answer, Finding
from control_plane.guardrails.conversions import Conversions, conversion_of, conversions_of
from control_plane.guardrails.estimate import BoolArray, FloatArray
from control_plane.guardrails.evalue import about_z_of_t, half_width, log_e, relative, z_of_t
from control_plane.guardrails.look import Look
from control_plane.guardrails.policies import policy_of
from control_plane.guardrails.waiting import seconds_until

RESOLVING_Z = 3.2  # normal score at which a mixture e-value reaches 20 whatever the margin, give or take a tenth


def engagement_findings(looks: Sequence[Look]) -> list[tuple[Finding, ...]]:
    """Of each look, all computed together; their plans share one `JudgePlan`."""
    rows = [row for look in looks for row in _rows(look)]
    tests = _tests(rows)
    waits = _seconds_until_safe(rows, tests)
    findings = (_finding(row, test, wait) for row, test, wait in zip(rows, tests.each(), waits, strict=True))
    sizes = (len(look.plan.guardrails) * len(look.moments.segments) for look in looks)
    return [tuple(islice(findings, size)) for size in sizes]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """One hypothesis: a guardrail on the segment `index`; `by_end`: conversions expected by the stage's end."""

    look: Look
    guardrail: GuardrailPlan
    index: int
    counts: Conversions
    theta: float
    se: float
    margin: float
    by_end: float


def _rows(look: Look) -> Iterator[_Row]:
    for guardrail, ratios in zip(look.plan.guardrails, look.ratios, strict=True):
        label = LABEL_OF[guardrail.metric]
        columns = zip(
            conversions_of(look, guardrail, ratios),
            ratios.theta_H.tolist(),
            ratios.se_H.tolist(),
            look.traffic_share(MATURED_OF[label]).tolist(),
            look.expected_by_end(conversion_of(guardrail.metric), MATURED_OF[label]).tolist(),
            strict=True,
        )
        for index, (counts, theta, se, share, by_end) in enumerate(columns):
            yield _Row(
                look=look,
                guardrail=guardrail,
                index=index,
                counts=counts,
                theta=theta,
                se=se,
                margin=look.margin(guardrail, share),
                by_end=by_end,
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Test:
    """What one hypothesis' estimate says, evidence gates aside."""

    theta: float
    se: float
    half_width: float
    margin: float
    log_e_harm: float
    log_e_safe: float
    is_required: bool


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Tests:
    """The same of all hypotheses at once; `benefit_H` is the log ratio, positive where the candidate is better."""

    theta_H: FloatArray
    se_H: FloatArray
    degrees_H: FloatArray
    benefit_H: FloatArray
    half_width_H: FloatArray
    margin_H: FloatArray
    log_e_harm_H: FloatArray
    log_e_safe_H: FloatArray
    is_required_H: BoolArray

    def each(self) -> Iterator[_Test]:
        columns = (
            self.theta_H,
            self.se_H,
            self.half_width_H,
            self.margin_H,
            self.log_e_harm_H,
            self.log_e_safe_H,
            self.is_required_H,
        )
        for theta, se, width, margin, harm, safe, required in zip(*(one.tolist() for one in columns), strict=True):
            yield _Test(
                theta=theta,
                se=se,
                half_width=width,
                margin=margin,
                log_e_harm=harm,
                log_e_safe=safe,
                is_required=required,
            )


def _tests(rows: Sequence[_Row]) -> _Tests:
    judge = rows[0].look.plan.judge
    theta_H = np.array([row.theta for row in rows])
    se_H = np.array([row.se for row in rows])
    degrees_H = np.array([row.counts.buckets for row in rows]) - 1.0
    direction_H = np.array([DIRECTION_OF[row.guardrail.metric] for row in rows], dtype=np.float64)
    benefit_H = direction_H * np.where(np.isfinite(theta_H), theta_H, 0.0)
    margin_H = np.array([row.margin for row in rows])
    harm_H = np.log1p([-row.guardrail.harm_margin for row in rows])
    scores_H = np.concatenate([harm_H - benefit_H, benefit_H - np.log1p(-margin_H)]) / np.tile(se_H, 2)
    log_e_H = log_e(z_of_t(scores_H, np.tile(degrees_H, 2)), np.tile(se_H, 2), judge.taus, judge.tau_weights)
    return _Tests(
        theta_H=theta_H,
        se_H=se_H,
        degrees_H=degrees_H,
        benefit_H=benefit_H,
        half_width_H=half_width(se_H, degrees_H, alpha=judge.alpha_rollback),
        margin_H=margin_H,
        log_e_harm_H=log_e_H[: len(rows)],
        log_e_safe_H=log_e_H[len(rows) :],
        is_required_H=_is_required(rows, se_H, margin_H),
    )


def _is_required(rows: Sequence[_Row], se_H: FloatArray, margin_H: FloatArray) -> BoolArray:
    """Segments that can be shown safe by the stage's longest duration; the surface must be, whatever it takes.

    A view type that cannot would keep the rollout waiting for an answer that never comes: it is told, goes on
    weighing in the rollback mean, and counts in the surface's own gates.
    """
    candidate_H = np.array([row.counts.conversions[Arm.CANDIDATE] for row in rows], dtype=np.float64)
    variance_H = np.maximum(np.square(se_H) * candidate_H, 1.0)  # of the log ratio, per conversion of the candidate
    resolving_H = variance_H * np.square(RESOLVING_Z / -np.log1p(-margin_H))
    is_surface_H = np.array([row.index == 0 for row in rows], dtype=np.bool_)
    by_end_H = np.array([row.by_end for row in rows])
    wanted_H = np.maximum(rows[0].look.plan.judge.min_conversions, resolving_H)
    return np.asarray(is_surface_H | (by_end_H >= wanted_H))


def _finding(row: _Row, test: _Test, wait: float | None) -> Finding:
    look, guardrail, counts = row.look, row.guardrail, row.counts
    judge = look.plan.judge
    gates = guardrail.role.gates and test.is_required
    answers = gates or (guardrail.role is Role.GUARD and row.index == 0)  # a guard may miss evidence, too
    gap = counts.gap(judge)
    is_known = math.isfinite(test.theta) and counts.judges_harm(judge)
    log_e_harm = test.log_e_harm if is_known and guardrail.role.rolls_back else 0.0
    log_e_safe = test.log_e_safe if is_known and not gap else 0.0
    is_harm = log_e_harm >= -math.log(judge.alpha_rollback)
    answer = Answer.HARM if is_harm else _answer(look, row, test, answers, gap, log_e_safe)
    weight = look.weights.surface if row.index == 0 else look.weights.rest
    return Finding(
        metric=guardrail.metric.value,
        segment=look.moments.segments[row.index],
        answer=answer,
        gates=gates,
        effect=relative(test.theta) if is_known else None,
        lower=relative(test.theta - test.half_width) if is_known else None,
        upper=relative(test.theta + test.half_width) if is_known else None,
        standard_error=test.se if is_known else None,
        harm_margin=guardrail.harm_margin,
        safe_margin=test.margin,
        log_e_harm=log_e_harm,
        log_e_safe=log_e_safe,
        weight=weight if guardrail.role.rolls_back else 0.0,
        impressions_stable=counts.matured[Arm.STABLE],
        impressions_candidate=counts.matured[Arm.CANDIDATE],
        conversions_stable=counts.value[Arm.STABLE],
        conversions_candidate=counts.value[Arm.CANDIDATE],
        missing=_missing(look, row, test, gates, answer, gap),
        seconds_to_resolve=_seconds(look, counts, answer, wait) if gates else None,
        policy=policy_of(guardrail, answer) if answers else "",
        role=guardrail.role.value,
    )


def _answer(look: Look, row: _Row, test: _Test, answers: bool, gap: str, log_e_safe: float) -> Answer:
    if not answers:
        return Answer.MONITORED
    if look.is_feed_stale and row.guardrail.on_stale is not OnMissing.IGNORE:
        return Answer.STALE
    if not row.counts.has_data:
        return Answer.NO_DATA
    if gap:
        return Answer.INSUFFICIENT
    if not math.isfinite(test.theta):
        return Answer.ERROR
    return Answer.SAFE if log_e_safe >= -math.log(look.plan.judge.alpha_advance) else Answer.UNDECIDED


def _missing(look: Look, row: _Row, test: _Test, gates: bool, answer: Answer, gap: str) -> str:
    if not gates:
        return "" if test.is_required or not row.guardrail.role.gates else "too few conversions to ever be shown safe"
    if answer is Answer.STALE:
        return "no event has arrived lately"
    return gap if answer is not Answer.SAFE else ""


def _seconds(look: Look, counts: Conversions, answer: Answer, wait: float | None) -> float | None:
    """About how long until this gate is shown safe, if the estimate stays where it is."""
    if answer is Answer.INSUFFICIENT:
        return counts.seconds_until_enough(look)
    return wait if answer is Answer.UNDECIDED else None


def _seconds_until_safe(rows: Sequence[_Row], tests: _Tests) -> list[float | None]:
    """Of the gates that are still open, if their estimates stay where they are."""
    judge = rows[0].look.plan.judge
    is_gate_H = np.array([row.guardrail.role.gates for row in rows], dtype=np.bool_)
    is_open_H = is_gate_H & tests.is_required_H & ~(tests.log_e_safe_H >= -math.log(judge.alpha_advance))
    open_O = np.flatnonzero(is_open_H)
    distance_O1 = (tests.benefit_H - np.log1p(-tests.margin_H))[open_O, None]
    degrees_O1 = tests.degrees_H[open_O, None]

    def excess(se_OW: FloatArray) -> FloatArray:
        z_OW = about_z_of_t(distance_O1 / se_OW, degrees_O1)
        return log_e(z_OW, se_OW, judge.taus, judge.tau_weights) + math.log(judge.alpha_advance)

    open_rows = [rows[index] for index in open_O.tolist()]
    paces = [row.look.pace(row.counts.stage_part, LABEL_OF[row.guardrail.metric]) for row in open_rows]
    found = seconds_until(excess, tests.se_H[open_O], np.array(paces, dtype=np.float64))
    waits: list[float | None] = [None] * len(rows)
    for index, wait in zip(open_O.tolist(), found, strict=True):
        waits[index] = wait
    return waits
