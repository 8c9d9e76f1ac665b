"""The rules of a verdict, each alone: from findings to a ruling, or None where the rule has nothing to say."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from control_plane.domain.moments import Draw, Health
from control_plane.domain.plan import Metric, OnMissing, OperationalMetric, Role
from control_plane.domain.rollout import Phase
from control_plane.domain.verdict import Answer, Blame, Finding, Outcome, Rule, percent
from control_plane.guardrails import wording
from control_plane.guardrails.evalue import log_mean, rejected
from control_plane.guardrails.health import HardStop, is_shadow_stale, stage_clicks, stage_impressions
from control_plane.guardrails.look import Look
from control_plane.guardrails.novelty import novelty_objections
from control_plane.guardrails.sample_ratio import log_e_sample_ratio
from control_plane.guardrails.sanity import is_possible
from control_plane.guardrails.served_calibration import CALIBRATION
from control_plane.guardrails.shadow_entropy import NORMALISED_ENTROPY, entropy_gap, is_information_lost

NOT_THE_MODEL = frozenset({"idle", *OperationalMetric})  # of these the serving may be guilty, or the requests


@dataclass(frozen=True, kw_only=True, slots=True)
class Ruling:
    """What was decided, before it is written out whole."""

    outcome: Outcome
    rule: Rule
    reason: str
    culprits: tuple[str, ...] = ()
    blame: Blame = Blame.NONE
    seconds: float | None = None
    needs_person: bool = False

    @classmethod
    def hold(cls, rule: Rule, reason: str, *, seconds: float | None = None, needs_person: bool = False) -> "Ruling":
        return cls(outcome=Outcome.HOLD, rule=rule, reason=reason, seconds=seconds, needs_person=needs_person)

    @classmethod
    def advance(cls, reason: str) -> "Ruling":
        return cls(outcome=Outcome.ADVANCE, rule=Rule.SHOWN_SAFE, reason=reason)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One look and all its findings."""

    look: Look
    findings: tuple[Finding, ...]

    @cached_property
    def log_e_rollback(self) -> float:
        """Of the weighted mean; hypotheses without data count as E = 1."""
        family = [finding for finding in self.findings if finding.weight > 0]
        return log_mean([finding.log_e_harm for finding in family], [finding.weight for finding in family])

    @cached_property
    def is_harm(self) -> bool:
        return self.log_e_rollback >= -math.log(self.look.plan.judge.alpha_rollback)

    @cached_property
    def log_e_sample_ratio(self) -> float:
        return log_e_sample_ratio(self.look.moments.draws)

    @cached_property
    def by_share(self) -> tuple[Finding, ...]:
        """The family of the rollback mean, its heaviest part first."""
        family = [finding for finding in self.findings if finding.weight > 0]
        return tuple(sorted(family, key=lambda finding: -(finding.log_e_harm + math.log(finding.weight))))

    @cached_property
    def culprits(self) -> tuple[str, ...]:
        """The largest part of the rollback mean if it crossed, and what e-BH rejects, the strongest first."""
        weights = self.look.weights
        family_size = round(0.5 / weights.surface + 0.5 / weights.rest)
        is_rejected = rejected([finding.log_e_harm for finding in self.by_share], num_hypotheses=family_size)
        return tuple(
            key_of(finding)
            for index, finding in enumerate(self.by_share)
            if is_rejected[index] or (self.is_harm and index == 0)
        )


def key_of(finding: Finding) -> str:
    return f"{finding.metric}/{finding.segment}"


def hard_stop(evidence: Evidence, stops: Iterable[HardStop]) -> Ruling | None:
    found = list(stops)
    if not found:
        return None
    culprits = tuple(dict.fromkeys([*(stop.culprit for stop in found), *evidence.culprits]))
    reason = "; ".join(stop.reason for stop in found)
    return _roll_back(evidence, Rule.HARD_STOP, reason, culprits)


def sample_ratio(evidence: Evidence) -> Ruling | None:
    look, moments = evidence.look, evidence.look.moments
    if evidence.log_e_sample_ratio >= math.log(look.plan.judge.sample_ratio_threshold):
        reason = f"{_uneven_split(moments.draws)}: the arms cannot be compared"
        return Ruling.hold(Rule.SAMPLE_RATIO, reason, needs_person=True)
    allowed = look.plan.judge.max_cross_exposure * max(min(moments.users_A), look.plan.judge.min_users)
    if moments.cross_exposed_users > allowed:
        crossed = f"{moments.cross_exposed_users} users met both arms within one generation"
        limit = f"more than {percent(look.plan.judge.max_cross_exposure, signed=False)} of the smaller arm"
        reason = f"{crossed}, {limit}: the arms cannot be compared"
        return Ruling.hold(Rule.SAMPLE_RATIO, reason, needs_person=True)
    return None


def beyond_limit(evidence: Evidence) -> Ruling | None:
    """Metrics without an e-value that the plan rolls back on as they stand."""
    beyond = [
        finding
        for finding in evidence.findings
        if finding.answer is Answer.HARM and finding.weight == 0 and finding.limit is not None and _rolls_back(finding)
    ]
    if not beyond:
        return None
    reason = "; ".join(wording.sentence(finding, evidence.look.moments.surface) for finding in beyond[:3])
    return _roll_back(evidence, Rule.LIMIT, reason, tuple(key_of(finding) for finding in beyond))


def harm(evidence: Evidence) -> Ruling | None:
    if not evidence.is_harm:
        return None
    named = [finding for finding in evidence.by_share if key_of(finding) in evidence.culprits]
    reason = "; ".join(wording.harm(finding, evidence.look.moments.surface) for finding in named[:3])
    return _roll_back(evidence, Rule.HARM, reason, evidence.culprits)


def missing_evidence(evidence: Evidence) -> Ruling | None:
    """A policy to roll back, or to stop for a person, waits for the stage's bake time and the label's window.

    At full traffic it is asked only of what is compared with a limit: no control is left to miss.
    """
    look = evidence.look
    is_watch = look.stage.phase is Phase.WATCHING
    asked = [finding for finding in evidence.findings if finding.limit is not None or not is_watch]
    for policy in (OnMissing.ROLL_BACK, OnMissing.HOLD):
        for finding in asked:
            if finding.policy != policy or look.seconds_in_stage < _patience(look, finding):
                continue
            said = wording.unproven(finding, look.moments.surface)
            if policy is OnMissing.ROLL_BACK:
                reason = f"{said}; the plan rolls back without evidence"
                return _roll_back(evidence, Rule.MISSING_EVIDENCE, reason, (key_of(finding),))
            reason = f"{said}; the plan stops for a person here"
            return Ruling.hold(Rule.MISSING_EVIDENCE, reason, needs_person=True)
    return None


def broken_counts(health: Health) -> Ruling | None:
    if is_possible(health.candidate) and is_possible(health.stable):
        return None
    return Ruling.hold(Rule.ERROR, "a runtime reported counts that cannot be: negative or not whole")


def stale(evidence: Evidence) -> Ruling | None:
    look = evidence.look
    limit = wording.about(look.plan.judge.stale_intervals * look.plan.check_seconds)
    is_waiting = any(finding.answer is Answer.STALE and finding.gates for finding in evidence.findings)
    if look.is_feed_stale and (is_waiting or look.stage.phase is not Phase.RAMPING):
        return Ruling.hold(Rule.STALE, f"no event of {look.moments.surface} has arrived for more than {limit}")
    if look.stage.phase is Phase.SHADOW and is_shadow_stale(look):
        return Ruling.hold(Rule.STALE, f"the shadow has scored nothing for more than {limit}")
    return None


def shadow_gap(evidence: Evidence) -> Ruling | None:
    gap = entropy_gap(evidence.look)
    return Ruling.hold(Rule.INSUFFICIENT, gap, seconds=evidence.findings[0].seconds_to_resolve) if gap else None


def drift(alarm: str | None) -> Ruling | None:
    return Ruling.hold(Rule.DRIFT, alarm) if alarm else None


def insufficient(evidence: Evidence) -> Ruling | None:
    look = evidence.look
    if (ruling := _no_stage_traffic(look) or _too_few_impressions(look)) is not None:
        return ruling
    broken = [finding for finding in _open_gates(evidence) if finding.answer is Answer.ERROR]
    if broken:
        return Ruling.hold(Rule.ERROR, wording.unproven(broken[0], look.moments.surface))
    lacking = [finding for finding in _open_gates(evidence) if finding.policy]
    if lacking:
        return _waiting(look, lacking, Rule.INSUFFICIENT)
    users, wanted = look.moments.users_A[1], look.plan.judge.min_users
    if users < wanted:
        seconds = look.seconds_until_count(users, users, wanted)
        return Ruling.hold(Rule.INSUFFICIENT, f"{users} of {wanted} users of the candidate", seconds=seconds)
    return None


def nothing_watched(evidence: Evidence) -> Ruling | None:
    """A watch that saw next to nothing has not watched."""
    look = evidence.look
    clicks, wanted = stage_clicks(look), look.plan.judge.min_conversions
    if clicks >= wanted:
        return _too_few_impressions(look)
    seconds = look.seconds_until_count(clicks, clicks, wanted)
    reason = f"{clicks} of {wanted} matured clicks of the candidate at full traffic"
    return Ruling.hold(Rule.INSUFFICIENT, reason, seconds=seconds)


def not_shown_safe(evidence: Evidence) -> Ruling | None:
    gates = _open_gates(evidence)
    beyond = [finding for finding in gates if finding.answer is Answer.HARM and finding.limit is not None]
    if beyond:
        return Ruling.hold(Rule.LIMIT, wording.sentence(beyond[0], evidence.look.moments.surface))
    return _waiting(evidence.look, gates, Rule.NOT_SHOWN_SAFE) if gates else None


def still_open(evidence: Evidence) -> Ruling | None:
    """Of a watch: only what is compared with a limit can still be waited for, since no control is left."""
    gates = [finding for finding in _open_gates(evidence) if finding.limit is not None]
    return _waiting(evidence.look, gates, Rule.NOT_SHOWN_SAFE) if gates else None


def novelty(evidence: Evidence) -> Ruling | None:
    objection = next(novelty_objections(evidence.look), None)
    return None if objection is None else Ruling.hold(Rule.NOVELTY, objection)


def shown_safe(evidence: Evidence) -> Ruling:
    surface = evidence.look.moments.surface
    gates = [
        finding
        for finding in evidence.findings
        if finding.gates and finding.answer is Answer.SAFE and finding.limit is None
    ]
    if not gates:
        return Ruling.advance("no gate has data, and the plan ignores that")
    tightest = min(gates, key=lambda finding: finding.log_e_safe if finding.metric != CALIBRATION else math.inf)
    margin = wording.margin_text(tightest, tightest.safe_margin or 0.0)
    all_of_them = f"all {len(gates)} gates shown safe, the closest call: " if len(gates) > 1 else ""
    return Ruling.advance(f"{all_of_them}{wording.estimate(tightest, surface)}, shown safe at the {margin} margin")


def _uneven_split(draws: Sequence[Draw]) -> str:
    met = sum(draw.candidate for draw in draws)
    promised = sum(draw.promised for draw in draws)
    drawn = sum(draw.stable + draw.candidate for draw in draws)
    return f"{met} of {drawn} users new to a weight met the candidate, the split promised about {promised:.0f}"


def _roll_back(evidence: Evidence, rule: Rule, reason: str, culprits: tuple[str, ...]) -> Ruling:
    has_blame = rule in (Rule.HARM, Rule.HARD_STOP)
    blame = _blame(evidence.look, culprits) if has_blame else Blame.NONE
    return Ruling(outcome=Outcome.ROLL_BACK, rule=rule, reason=reason, culprits=culprits, blame=blame)


def _blame(look: Look, culprits: Sequence[str]) -> Blame:
    """The calibrator where only calibration speaks, or entropy that a better calibrator would win back."""
    metrics = {culprit.split("/")[0] for culprit in culprits} - NOT_THE_MODEL
    if not metrics:
        return Blame.NONE
    if metrics <= {CALIBRATION, NORMALISED_ENTROPY} and not is_information_lost(look):
        return Blame.CALIBRATOR
    return Blame.MODEL


def _rolls_back(finding: Finding) -> bool:
    return finding.role in (Role.GATE, Role.GUARD)


def _patience(look: Look, finding: Finding) -> float:
    """Seconds in a stage before missing evidence counts: the time it was given to come."""
    bake = look.plan.shadow.bake_seconds if look.stage.step < 0 else look.plan.steps[look.stage.step].bake_seconds
    guardrail = look.plan.guardrail(Metric(finding.metric)) if finding.metric in set(Metric) else None
    return bake + (guardrail.window_seconds if guardrail is not None else 0.0)


def _no_stage_traffic(look: Look) -> Ruling | None:
    if stage_impressions(look):
        return None
    weight = percent(look.stage.share_bp / 10_000, signed=False)
    return Ruling.hold(Rule.INSUFFICIENT, f"no matured impression of the candidate yet under its weight of {weight}")


def _too_few_impressions(look: Look) -> Ruling | None:
    """The plan may ask for more of a step than its gates need."""
    have, wanted = stage_impressions(look), look.plan.steps[look.stage.step].min_impressions
    if have >= wanted:
        return None
    seconds = look.seconds_until_count(have, have, wanted)
    reason = f"{have} of the {wanted} matured impressions that this step asks for"
    return Ruling.hold(Rule.INSUFFICIENT, reason, seconds=seconds)


def _open_gates(evidence: Evidence) -> list[Finding]:
    return [
        finding
        for finding in evidence.findings
        if finding.gates and finding.answer is not Answer.SAFE and finding.policy != OnMissing.IGNORE
    ]


def _waiting(look: Look, gates: Sequence[Finding], rule: Rule) -> Ruling:
    """Waits for all of them, so for the slowest; the one that takes longest is named first."""
    slowest_first = sorted(gates, key=lambda finding: -_wait_of(finding))
    reason = wording.unproven(slowest_first[0], look.moments.surface)
    if len(gates) > 1:
        reason += f"; and {len(gates) - 1} more"
    longest = _wait_of(slowest_first[0])
    return Ruling.hold(rule, reason, seconds=longest if math.isfinite(longest) else None)


def _wait_of(finding: Finding) -> float:
    return math.inf if finding.seconds_to_resolve is None else finding.seconds_to_resolve
