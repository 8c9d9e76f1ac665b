"""From what was loaded to verdicts: the log summed and the sums judged for many rollouts at once. Writes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from control_plane.domain.moments import Moments
from control_plane.domain.readings import Reading
from control_plane.domain.rollout import Phase, RolloutId
from control_plane.domain.verdict import Verdict
from control_plane.evidence.aggregate import MomentsReader
from control_plane.guardrails.judge import Case, judge_all
from control_plane.guardrails.replay import pack
from control_plane.scheduler.loaded import Loaded

JUDGED = frozenset({Phase.SHADOW, Phase.RAMPING, Phase.WATCHING})


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    verdict: Verdict
    inputs: bytes


def judge_evidence(loaded: Loaded, reader: MomentsReader, readings: Sequence[Reading] = ()) -> Judged | None:
    """None before the candidate has scored anything, for there is nothing to judge yet."""
    rollout_id = loaded.rollout.rollout_id
    found = judge_all_evidence(reader, {rollout_id: (loaded, readings)})[rollout_id]
    if isinstance(found, Exception):
        raise found
    return found


def judge_all_evidence(
    reader: MomentsReader, told: Mapping[RolloutId, tuple[Loaded, Sequence[Reading]]]
) -> dict[RolloutId, Judged | Exception | None]:
    """The same for many: each verdict to the same bit, and one that cannot be given does not stop the others."""
    found: dict[RolloutId, Judged | Exception | None] = dict.fromkeys(told)
    asked = {one: loaded.query for one, (loaded, _) in told.items() if loaded.rollout.serving_phase in JUDGED}
    cases: dict[RolloutId, Case] = {}
    for one, moments in zip(asked, reader.moments_of(list(asked.values())), strict=True):
        if isinstance(moments, Exception):
            found[one] = moments
        else:
            cases[one] = _case(*told[one], moments)
    for one, verdict in _verdicts(cases).items():
        found[one] = verdict if isinstance(verdict, Exception) else _judged(cases[one], verdict)
    return found


def _case(loaded: Loaded, readings: Sequence[Reading], moments: Moments) -> Case:
    return Case(plan=loaded.rollout.plan, stage=loaded.stage, moments=moments, health=loaded.health, readings=readings)


def _verdicts(cases: Mapping[RolloutId, Case]) -> dict[RolloutId, Verdict | Exception]:
    try:
        return dict(zip(cases, judge_all(cases.values()), strict=True))
    except Exception as error:  # of one of them, and nobody says of which
        if len(cases) == 1:
            return dict.fromkeys(cases, error)
        alone = (_verdicts({one: case}) for one, case in cases.items())
        return {one: verdict for found in alone for one, verdict in found.items()}


def _judged(case: Case, verdict: Verdict) -> Judged | Exception:
    try:
        inputs = pack(case.plan, case.stage, case.moments, case.health, case.readings)
    except Exception as error:
        return error
    return Judged(verdict=verdict, inputs=inputs)
