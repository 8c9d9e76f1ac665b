"""A plan tried on simulated traffic before it is armed, through the very judge and decisions that will run it."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
from scipy.special import betaincinv

from control_plane.domain.decision import Readiness, decide
from control_plane.domain.model_version import Surface
from control_plane.domain.moments import Health, Measure, ServingCounts
from control_plane.domain.plan import RolloutPlan
from control_plane.domain.rollout import FINISHED, Command, Phase, Rollout, RolloutId, apply, stage_of
from control_plane.domain.split import Arm
from control_plane.guardrails.judge import judge
from control_plane.rehearsal.traffic import CANDIDATE, STABLE, Audience, Effects, Traffic

FIRST_MONDAY = datetime(2026, 1, 5, tzinfo=UTC)  # rehearsals start on a Monday, so that equal seeds are equal weeks
INTERVAL_LEVEL = 0.95  # of the Monte-Carlo intervals
REHEARSER = "rehearsal"
SOUND = Health(stable=ServingCounts(), candidate=ServingCounts(), live_runtimes=1, acknowledged_runtimes=1)
READY = Readiness(live_runtimes=1, loaded_runtimes=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One rehearsed rollout: where it ended, and after how long. Days count from the start of the shadow."""

    phase: Phase
    step: int
    reason: str
    days: float
    days_of_traffic: float  # since the candidate first had weight
    candidate_impressions: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Proportion:
    """A share of runs with its exact (Clopper–Pearson) interval."""

    value: float
    lower: float
    upper: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Over the runs it happened in; `mean_error` is the Monte-Carlo standard error of the mean, None of one run."""

    runs: int
    mean: float
    mean_error: float | None
    median: float
    ninetieth: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Rehearsal:
    """What a plan does under one stated truth. With an equal candidate `rolled_back` is the false-rollback rate."""

    runs: tuple[Run, ...]
    rolled_back: Proportion
    promoted: Proportion
    detection_days: Spread | None  # from the candidate's first weight to the rollback
    full_traffic_days: Spread | None  # from the start to done
    candidate_impressions_at_rollback: Spread | None

    def ends(self) -> dict[str, int]:
        """Runs by the phase they ended in."""
        return dict(Counter(run.phase.value for run in self.runs))


def rehearse(
    plan: RolloutPlan, *, audience: Audience, effects: Effects, runs: int, seed: int, looks_per_day: int = 4
) -> Rehearsal:
    """Try the plan `runs` times; equal arguments give equal answers.

    Checks come `looks_per_day` times instead of every `plan.check_seconds`, approvals are given at once, the
    serving machinery never fails and labels come without delay: what is rehearsed are plan, judge and decisions.
    """
    if runs < 1 or looks_per_day < 1:
        raise ValueError(f"runs and looks_per_day must be 1 or more, not {runs} and {looks_per_day}")
    seeds = np.random.SeedSequence(seed).generate_state(runs).tolist()
    done = tuple(_run(plan, audience, effects, run_seed, looks_per_day) for run_seed in seeds)
    back = [run for run in done if run.phase is Phase.ROLLED_BACK]
    full = [run for run in done if run.phase is Phase.DONE]
    return Rehearsal(
        runs=done,
        rolled_back=proportion(len(back), runs),
        promoted=proportion(len(full), runs),
        detection_days=_spread([run.days_of_traffic for run in back]),
        full_traffic_days=_spread([run.days for run in full]),
        candidate_impressions_at_rollback=_spread([float(run.candidate_impressions) for run in back]),
    )


def proportion(count: int, total: int, *, level: float = INTERVAL_LEVEL) -> Proportion:
    tail = (1 - level) / 2
    lower = float(betaincinv(count, total - count + 1, tail)) if count else 0.0
    upper = float(betaincinv(count + 1, total - count, 1 - tail)) if count < total else 1.0
    return Proportion(value=count / total, lower=lower, upper=upper)


def _run(plan: RolloutPlan, audience: Audience, effects: Effects, seed: int, looks_per_day: int) -> Run:
    now, gap = FIRST_MONDAY, timedelta(days=1) / looks_per_day
    traffic = Traffic(audience, effects, seed=seed, started_at_ms=_ms(now))
    rollout, generation = _in_shadow(plan, now), 1
    weighted_at: datetime | None = None
    reason = "the longest duration passed"
    while rollout.phase not in FINISHED | {Phase.HELD, Phase.EXPIRED}:
        now += gap
        traffic.serve(
            until_ms=_ms(now),
            generation=generation,
            candidate_bp=rollout.candidate_bp,
            shadow_bp=rollout.shadow_sample_bp,
        )
        verdict = judge(plan, stage_of(rollout, generation=generation), traffic.moments(), SOUND)
        rollout = _approved(rollout, now)
        decision = decide(rollout, verdict, readiness=READY, now=now)
        if decision.command is not None:
            generation += 1
            reason = decision.reason
            rollout = _moved(rollout, decision.command, generation, now)
            weighted_at = now if weighted_at is None and rollout.candidate_bp else weighted_at
    return Run(
        phase=rollout.phase,
        step=rollout.step,
        reason=reason,
        days=(now - FIRST_MONDAY) / timedelta(days=1),
        days_of_traffic=0.0 if weighted_at is None else (now - weighted_at) / timedelta(days=1),
        candidate_impressions=_candidate_impressions(traffic),
    )


def _in_shadow(plan: RolloutPlan, now: datetime) -> Rollout:
    rollout = Rollout(
        rollout_id=RolloutId(0),
        surface=Surface("rehearsal"),
        stable=STABLE,
        candidate=CANDIDATE,
        plan=plan,
        phase=Phase.PENDING,
        created_at=now,
        entered_at=now,
        first_generation=1,
        stage_generation=1,
    )
    warming = apply(rollout, Command.START, now=now, by=REHEARSER)
    return apply(warming, Command.ADVANCE, now=now, by=REHEARSER)


def _approved(rollout: Rollout, now: datetime) -> Rollout:
    for number in range(rollout.approvals_needed if rollout.phase is Phase.RAMPING else 0):
        rollout = apply(rollout, Command.APPROVE, now=now, by=f"{REHEARSER} {number}")
    return rollout


def _moved(rollout: Rollout, command: Command, generation: int, now: datetime) -> Rollout:
    after = apply(rollout, command, now=now, by=REHEARSER)
    return replace(after, stage_generation=generation) if command is Command.ADVANCE else after


def _candidate_impressions(traffic: Traffic) -> int:
    return int(traffic.moments().sums_of(Measure.IMPRESSIONS)[0, :, Arm.CANDIDATE].sum())


def _spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    value_N = np.asarray(values, dtype=np.float64)
    error = float(value_N.std(ddof=1)) / math.sqrt(value_N.size) if value_N.size > 1 else None
    return Spread(
        runs=value_N.size,
        mean=float(value_N.mean()),
        mean_error=error,
        median=float(np.median(value_N)),
        ninetieth=float(np.quantile(value_N, 0.9)),
    )


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1_000)
