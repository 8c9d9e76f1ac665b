"""Questions for tests: each whole, and about one rollout at noon."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from control_plane.domain.plan import ExternalPlan, RolloutPlan
from control_plane.domain.readings import Reading
from control_plane.plan_file import read_plan
from control_plane.providers.asking import read_all
from control_plane.providers.contract import Subject
from control_plane.providers.errand import Question
from control_plane.providers.sources import Source
from tests.builders import CANDIDATE, HOME_FEED, NOON, STABLE

EXAMPLES = Path(__file__).parents[2] / "examples/plans"
SOURCE = "numbers"
NOON_SECONDS = NOON.timestamp()


def a_metric(query: str = "vector(1)", **overrides: Any) -> ExternalPlan:
    fields: dict[str, Any] = {"name": "errors", "source": SOURCE, "query": query, "at_most": 1.0}
    return ExternalPlan(**{**fields, **overrides})


def a_subject(**overrides: Any) -> Subject:
    fields: dict[str, Any] = {
        "surface": HOME_FEED,
        "candidate": CANDIDATE,
        "stable": STABLE,
        "generation": 7,
        "since": NOON - timedelta(days=1),
        "now": NOON,
    }
    return Subject(**{**fields, **overrides})


def read(source: Source, query: str, *, seconds: float = 5.0, **overrides: Any) -> Reading:
    """One metric of one rollout, read from this source."""
    question = Question(metric=a_metric(query, source=source.name, **overrides), subject=a_subject())
    (reading,) = read_all({source.name: source}, [question], seconds=seconds)
    return reading


def an_example(name: str) -> RolloutPlan:
    return read_plan((EXAMPLES / f"{name}.yaml").read_text())
