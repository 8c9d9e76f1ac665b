"""Every bar of the guardrails' statistics as a figure: error rates, delays, bias and cost, beside what others do.

The crowd is that of `guardrail_bars.crowd`: CTR 2 %, 20 impressions a user, design effect 2, 256 buckets. The rules
are the judge's own functions. gbstats and mSPRT see the same traffic; their formulas are vectorised in
`guardrail_bars.rules`, and a test holds gbstats' to the package. Alarms are counted on the harmful side only.

False alarms (bars 1, 2, 4): the candidate is exactly as bad as the margin allows. Their Monte-Carlo error is the
one-sided 95 % Clopper–Pearson bound.
Delays (bars 3, 4, 5): users per arm at the alarm over those of the ordinary fixed-horizon test of the same null
hypothesis: two-sided 5 %, power 80 %, variance by user. Users come once, 20 impressions each, so that users are the
clock; looks are 1 % apart. Their Monte-Carlo error is a 95 % interval from order statistics.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.guardrail_bars import calibration, cost, delays, false_alarms, family, ramp_bias, rollouts, split_alarms
from benchmarks.guardrail_bars.outcome import Measured, Row, together
from benchmarks.report import report

LOOKS = 1_000
FAMILY_LOOKS = 200
COLUMNS = ("bar", "measured", "Monte-Carlo error", "must be", "holds")


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """Runs of each simulation."""

    false_alarm: int
    scenario: int
    family: int
    delay: int
    calibration: int
    calibration_delay: int
    ramp: int
    split: int
    split_search: int
    rounds: int
    many_users: int


FULL = Effort(
    false_alarm=1_500,
    scenario=1_000,
    family=600,
    delay=500,
    calibration=600,
    calibration_delay=1_000,
    ramp=800,
    split=20_000,
    split_search=4_000,
    rounds=50,
    many_users=10_000_000,
)
QUICK = Effort(
    false_alarm=80,
    scenario=20,
    family=20,
    delay=20,
    calibration=100,
    calibration_delay=50,
    ramp=40,
    split=2_000,
    split_search=500,
    rounds=10,
    many_users=50_000,
)
BARS: dict[str, Callable[[Effort], Measured]] = {
    "1": lambda effort: false_alarms.measure(runs=effort.false_alarm, scenario_runs=effort.scenario, looks=LOOKS),
    "2": lambda effort: family.measure(runs=effort.family, looks=FAMILY_LOOKS),
    "3": lambda effort: delays.measure(runs=effort.delay),
    "5": lambda effort: calibration.measure(runs=effort.calibration, delay_runs=effort.calibration_delay),
    "6": lambda effort: ramp_bias.measure(runs=effort.ramp),
    "7": lambda effort: together(
        cost.measure(rounds=effort.rounds), rollouts.measure(rounds=effort.rounds, many_users=effort.many_users)
    ),
    "8": lambda effort: split_alarms.measure(runs=effort.split, search_runs=effort.split_search, looks=LOOKS),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer runs: the figures of a minute, not of a claim")
    parser.add_argument(
        "--bars", nargs="+", choices=BARS, default=list(BARS), help="only these; 4 is measured with 1 and 3"
    )
    arguments = parser.parse_args()
    effort = QUICK if arguments.quick else FULL
    found = together(*(BARS[bar](effort) for bar in arguments.bars))
    if arguments.quick:
        print("Quick: few runs, so wide Monte-Carlo errors and bounds that cannot hold.\n")
    report(
        "guardrails",
        columns=COLUMNS,
        rows=[_cells(row) for row in sorted(found.rows, key=lambda row: row.bar)],
        figures={**found.figures, "is_quick": float(arguments.quick)},
    )


def _cells(row: Row) -> tuple[str, ...]:
    holds = "" if row.holds is None else "yes" if row.holds else "NO"
    return f"{row.bar}  {row.what}", row.measured, row.error, row.limit, holds


if __name__ == "__main__":
    main()
