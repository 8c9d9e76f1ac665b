"""Bar 7: what it costs to judge whole rollouts, and to keep what the judge needs.

Times and peaks are those of a process of its own, so that nothing else is in them.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from benchmarks.guardrail_bars.outcome import SEED, Measured, Row
from benchmarks.memory import peak_mb
from benchmarks.report import median, spread
from control_plane.domain.moments import Health, Moments, ServingCounts
from control_plane.domain.plan import Metric, RolloutPlan
from control_plane.domain.plan_mapping import plan_from_mapping
from control_plane.domain.rollout import Phase, Stage
from control_plane.domain.split import FULL_TRAFFIC_BP
from control_plane.guardrails.judge import Case, judge, judge_all
from control_plane.rehearsal.audience import DAY_MS, Audience, Effects
from control_plane.rehearsal.traffic import Traffic

DAYS = 14
RAMP_BP = (100,) * 3 + (500,) * 2 + (1_000,) * 4 + (2_500,) * 3 + (5_000,) * 2  # by day
FIRST_DAY = 20_003  # a Monday
VIEW_TYPES = 8  # with the whole surface and four engagement metrics 36 hypotheses, and 9 more of calibration
FEW_VIEW_TYPES = 2  # with the whole surface, three engagement metrics and calibration 12 metric-segments
FEW_METRICS = (Metric.CTR, Metric.HIDE_RATE, Metric.REVENUE_PER_IMPRESSION)
USERS, FEW_USERS, MANY_USERS = 100_000, 10_000, 10_000_000
ROLLOUTS, SURFACES = 1_000, 3
DISTINCT = 4  # moments that all those rollouts share, copied for each
SWEEP_LIMIT_MS, STATE_LIMIT_MB, ROLLOUTS_LIMIT_S, ROLLOUTS_LIMIT_MB = 40.0, 5.0, 5.0, 300.0


def measure(*, rounds: int, many_users: int = MANY_USERS) -> Measured:
    found = _in_own_process("--many-users", str(many_users), "--rounds", str(rounds))
    sweep_ms, small_mb, large_mb = found["sweep_ms"], found["state_mb"][0], found["state_mb"][1]
    passed_s, passed_mb = found["rollouts_s"], found["rollouts_mb"][0]
    cells = f"36 hypotheses × {DAYS} strata"
    rows = [
        _row(f"one rollout of {cells}, judged, ms", median(sweep_ms), spread(sweep_ms), SWEEP_LIMIT_MS),
        _row(f"state of {cells}, {_thousands(FEW_USERS)} users, MB", small_mb, "", STATE_LIMIT_MB),
        _row(f"the same with {_thousands(many_users)} users, MB", large_mb, "", small_mb),
        _row(
            f"{ROLLOUTS} rollouts × {SURFACES} surfaces × 12 metric-segments × {DAYS} strata, s",
            median(passed_s),
            spread(passed_s),
            ROLLOUTS_LIMIT_S,
        ),
        _row("the same, peak of the process, MB", passed_mb, "", ROLLOUTS_LIMIT_MB),
    ]
    figures = {
        "sweep_36x14_ms": median(sweep_ms),
        "state_mb": max(small_mb, large_mb),
        "rollouts_1000_s": median(passed_s),
        "rollouts_1000_mb": passed_mb,
    }
    return Measured(rows=rows, figures=figures)


def _row(what: str, value: float, error: str, limit: float) -> Row:
    return Row(bar="7", what=what, measured=f"{value:.3g}", error=error, limit=f"≤ {limit:.3g}", holds=value <= limit)


def _thousands(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def _in_own_process(*arguments: str) -> dict[str, list[float]]:
    command = [sys.executable, "-m", "benchmarks.guardrail_bars.rollouts", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--many-users", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    arguments = parser.parse_args()
    few = [a_case(FEW_VIEW_TYPES, USERS, seed=seed, metrics=FEW_METRICS) for seed in range(DISTINCT)]
    rollouts_s = [_seconds_of_a_pass(few) for _ in range(max(1, arguments.rounds // 16))]
    rollouts_mb = peak_mb()  # before anything larger was in memory
    sweep_ms = _sweep_ms(arguments.rounds)
    states = [state_mb(a_case(VIEW_TYPES, users, seed=1)[2]) for users in (FEW_USERS, arguments.many_users)]
    print(
        json.dumps({"rollouts_s": rollouts_s, "rollouts_mb": [rollouts_mb], "sweep_ms": sweep_ms, "state_mb": states})
    )


Given = tuple[RolloutPlan, Stage, Moments, Health]


def a_case(view_types: int, users: int, *, seed: int, metrics: Sequence[Metric] = tuple(Metric)) -> Given:
    """A sound candidate after two weeks of ramp."""
    plan = _plan(metrics)
    audience = Audience(users=users, view_types={f"view_{index}": 1.0 for index in range(view_types)})
    traffic = Traffic(plan, audience, Effects(), seed=SEED + seed, started_at_ms=FIRST_DAY * DAY_MS)
    shares = sorted(set(RAMP_BP))
    for day, share_bp in enumerate(RAMP_BP):
        traffic.serve(
            until_ms=(FIRST_DAY + day + 1) * DAY_MS, generation=1 + shares.index(share_bp), candidate_bp=share_bp
        )
    return plan, _stage(generation=len(shares)), traffic.moments(), _health()


def state_mb(moments: Moments) -> float:
    """All arrays together."""
    arrays = (getattr(moments, column.name) for column in fields(moments))
    return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray)) / 1e6


def _sweep_ms(rounds: int) -> list[float]:
    case = a_case(VIEW_TYPES, USERS, seed=0)
    judge(*case)
    spent = []
    for _ in range(rounds):
        started = time.perf_counter()
        judge(*case)
        spent.append((time.perf_counter() - started) * 1e3)
    return spent


def _seconds_of_a_pass(distinct: list[Given]) -> float:
    loading_s: list[float] = []
    started = time.perf_counter()
    verdicts = sum(1 for _ in judge_all(_all_cases(distinct, loading_s)))
    spent = time.perf_counter() - started
    assert verdicts == ROLLOUTS * SURFACES
    return spent - sum(loading_s)


def _all_cases(distinct: list[Given], loading_s: list[float]) -> Iterator[Case]:
    """As a tick loads them: each with moments of its own, so that nothing is remembered or lies in a cache.

    Writes down the time that copying them took, which is none of the judge's.
    """
    for index in range(ROLLOUTS * SURFACES):
        plan, stage, moments, health = distinct[index % len(distinct)]
        started = time.perf_counter()
        own = replace(moments, counts_MGSAK=moments.counts_MGSAK.copy(), values_MGSAK=moments.values_MGSAK.copy())
        loading_s.append(time.perf_counter() - started)
        yield Case(plan=plan, stage=stage, moments=own, health=health)


def _plan(metrics: Sequence[Metric]) -> RolloutPlan:
    steps = [{"share": f"{share / 100:g}%", "bake": "1d"} for share in (*sorted(set(RAMP_BP)), FULL_TRAFFIC_BP)]
    guardrails = [{"metric": metric.value} for metric in metrics]
    return plan_from_mapping({"name": "benchmark", "steps": steps, "guardrails": guardrails})


def _stage(*, generation: int) -> Stage:
    days_in_stage = RAMP_BP.count(RAMP_BP[-1])
    return Stage(
        phase=Phase.RAMPING,
        step=len(set(RAMP_BP)) - 1,
        share_bp=RAMP_BP[-1],
        next_share_bp=FULL_TRAFFIC_BP,
        advances_left=1,
        generation=generation,
        stage_generation=generation,
        started_at_ms=FIRST_DAY * DAY_MS,
        entered_at_ms=(FIRST_DAY + DAYS - days_in_stage) * DAY_MS,
    )


def _health() -> Health:
    counts = ServingCounts(requests=1_000_000, scores=1_000_000, distinct_scores=1_000)
    return Health(stable=counts, candidate=counts, live_runtimes=2, acknowledged_runtimes=2)


if __name__ == "__main__":
    main()
