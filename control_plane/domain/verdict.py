"""What the judge says, for people and for replay. Every way of not knowing has a name here."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum

FIGURES = 8


class Outcome(StrEnum):
    """What the evidence allows; time and people are weighed afterwards, by `decision.decide`."""

    ADVANCE = "advance"
    HOLD = "hold"
    ROLL_BACK = "roll_back"


class Rule(StrEnum):
    """Which rule decided, in the order in which they are tried."""

    HARD_STOP = "hard_stop"
    SAMPLE_RATIO = "sample_ratio"
    HARM = "harm"
    MISSING_EVIDENCE = "missing_evidence"  # a policy that rolls back on no or too little data
    ERROR = "error"
    STALE = "stale"
    INSUFFICIENT = "insufficient"
    DRIFT = "drift"
    LIMIT = "limit"  # a metric compared with a fixed limit is beyond it
    NOT_SHOWN_SAFE = "not_shown_safe"
    NOVELTY = "novelty"
    SHOWN_SAFE = "shown_safe"


class Answer(StrEnum):
    """What one guardrail says."""

    SAFE = "safe"
    HARM = "harm"
    UNDECIDED = "undecided"
    INSUFFICIENT = "insufficient"
    NO_DATA = "no_data"
    STALE = "stale"
    ERROR = "error"
    EMPTY = "empty"  # an external system holds no value
    NAN = "nan"  # it holds one that is no number
    FAILED = "failed"  # it did not answer
    MONITORED = "monitored"  # told, but decides nothing


class Blame(StrEnum):
    """Which part of the candidate the evidence speaks against."""

    NONE = "none"
    CALIBRATOR = "calibrator"
    MODEL = "model"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One guardrail on one segment.

    Effects are relative to stable (−0.03 is 3 % less), but for metric `calibration`, where they are
    predicted/observed − 1 of the candidate, and `ne`, where they are the difference of normalised entropy.
    E-values are natural logs.
    """

    metric: str
    segment: str
    answer: Answer
    gates: bool
    effect: float | None = None
    lower: float | None = None  # always-valid interval at α_R
    upper: float | None = None
    standard_error: float | None = None  # of the log ratio, from user buckets
    harm_margin: float | None = None
    safe_margin: float | None = None  # of this stage
    log_e_harm: float = 0.0
    log_e_safe: float = 0.0
    weight: float = 0.0
    impressions_stable: int = 0  # matured
    impressions_candidate: int = 0
    conversions_stable: float = 0.0
    conversions_candidate: float = 0.0
    missing: str = ""  # what it lacks, in words
    seconds_to_resolve: float | None = None  # at the present rate; None where unknown or nothing is missing
    role: str = ""  # `Role` in the plan, empty where the plan gives none
    policy: str = ""  # `OnMissing` of the plan where the answer is none
    value: float | None = None  # of a metric that is compared with a fixed limit
    limit: float | None = None
    detail: str = ""  # the whole story in a sentence, where the numbers above do not tell it


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The judge's answer at one look."""

    outcome: Outcome
    rule: Rule
    reason: str
    findings: tuple[Finding, ...]
    culprits: tuple[str, ...]  # "metric/segment", the strongest first
    blame: Blame
    log_e_rollback: float  # of the weighted mean
    log_e_threshold: float  # log(1/α_R)
    log_e_sample_ratio: float
    cross_exposure: float
    psi: float | None
    users_stable: int
    users_candidate: int
    window_start_ms: int | None
    as_of_ms: int
    phase: str
    step: int
    share_bp: int
    generation: int
    seconds_to_resolve: float | None = None
    needs_person: bool = False  # waiting alone will not do
    safe_share_bp: int | None = None  # of an adaptive plan's ramp: at it the loss surely stays inside the budget

    @property
    def allows_advance(self) -> bool:
        return self.outcome is Outcome.ADVANCE

    @property
    def completes_check(self) -> bool:
        """Whether somebody has really looked: a verdict that says `ERROR` has not."""
        return self.rule is not Rule.ERROR

    def to_json(self) -> str:
        """Canonical JSON: equal verdicts are equal bytes. NaN and infinities are refused.

        Figures have `FIGURES` significant digits: the last bits of a double differ between processors, whose
        logarithms round differently, and nobody knows an effect to more. What only some plans ask for is left out
        where it was not asked for, so that verdicts of before replay to the same bytes.
        """
        told = asdict(self)
        if self.safe_share_bp is None:
            del told["safe_share_bp"]
        return json.dumps(_told(told), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Verdict":
        value = json.loads(text)
        if not isinstance(value, Mapping):
            raise ValueError("a verdict is a JSON object")
        fields = dict(value)
        fields["outcome"] = Outcome(fields["outcome"])
        fields["rule"] = Rule(fields["rule"])
        fields["blame"] = Blame(fields["blame"])
        fields["culprits"] = tuple(fields["culprits"])
        fields["findings"] = tuple(
            Finding(**{**finding, "answer": Answer(finding["answer"])}) for finding in fields["findings"]
        )
        return cls(**fields)


def _told(value: object) -> object:
    match value:
        case float() if math.isfinite(value):
            return float(f"{value:.{FIGURES}g}")
        case dict():
            return {key: _told(entry) for key, entry in value.items()}
        case list() | tuple():
            return [_told(entry) for entry in value]
        case _:
            return value


def percent(fraction: float, *, signed: bool = True) -> str:
    """A fraction as people read it: '-3.1 %'."""
    return f"{fraction * 100:{'+' if signed else ''}.1f} %"
