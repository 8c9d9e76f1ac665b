"""A rehearsal as a whole: what was tried, what would have happened; as JSON for machines."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from control_plane.domain.plan_mapping import plan_to_mapping
from control_plane.rehearsal.rehearse import Trial
from control_plane.rehearsal.results import Result

FORMAT = "surefoot-rehearsal-report/1"
ASSUMPTIONS = (
    "Candidates are as bad as stated, and in nothing else: what a real one does is not known beforehand.",
    "Arms share no auctions and budgets here; in a real test they do, and that interference biases any split of users.",
    "Checks come {looks} times a day instead of every {check}: what the judge would see at once is seen up to "
    "{gap} later here, and costs are larger for it. More checks cause no more false alarms than the plan allows.",
    "Approvals are given at once, and a rollout that is held or expired ends there: what a person decides is left out.",
    "Runtimes, latency and external metrics are well, unless a fault says otherwise: a plan's limits on them hold.",
    "Events arrive at once; labels arrive late and count only within the plan's windows.",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    trial: Trial
    results: tuple[Result, ...]
    command: str  # that gives the same figures again

    @property
    def assumptions(self) -> tuple[str, ...]:
        plan, looks = self.trial.plan, self.trial.looks_per_day
        words = {"looks": looks, "check": _span(plan.check_seconds), "gap": _span(86_400 / looks)}
        return (*self.trial.source.notes, *(sentence.format(**words) for sentence in ASSUMPTIONS))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; every figure of the other forms is in it."""
        return {
            "format": FORMAT,
            "plan": plan_to_mapping(self.trial.plan),
            "traffic": self.trial.source.describe(),
            "seed": self.trial.seed,
            "looks_per_day": self.trial.looks_per_day,
            "code": self.trial.identity()["code"],
            "command": self.command,
            "assumptions": list(self.assumptions),
            "scenarios": [_result(result) for result in self.results],
        }


def _result(result: Result) -> dict[str, Any]:
    return {
        "name": result.scenario.name,
        "sentence": result.scenario.sentence,
        "effects": asdict(result.scenario.effects),
        "faults": asdict(result.scenario.faults),
        "expected": {"wish": result.expectation.wish.value, "sentence": result.expectation.sentence},
        "grade": result.grade.value,
        "as_expected": _optional(result.as_wished),
        "num_runs": len(result.runs),
        "endings": {end.value: asdict(found) for end, found in result.endings.items()},
        "rolled_back_in_shadow": asdict(result.in_shadow),
        "detection_days": _optional(result.detection_days),
        "full_traffic_days": _optional(result.full_traffic_days),
        "end_days": asdict(result.end_days),
        "candidate_impressions": asdict(result.candidate_impressions),
        "harmed_impressions": asdict(result.harmed_impressions),
        "lost": {name: asdict(found) for name, found in result.lost.items()},
        "lost_per_day_at_full_traffic": dict(result.lost_per_day),
        "lost_share": dict(result.lost_share),
        "runs": [_plain(run.to_json()) for run in result.runs],
    }


def _optional(found: Any) -> dict[str, Any] | None:
    return None if found is None else asdict(found)


def _plain(run: Mapping[str, Any]) -> dict[str, Any]:
    return {**run, "path": [list(point) for point in run["path"]]}


def _span(seconds: float) -> str:
    if seconds < 3_600:
        return f"{seconds / 60:g} minutes"
    return f"{seconds / 3_600:g} hours" if seconds != 3_600 else "an hour"
