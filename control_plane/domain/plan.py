"""The frozen rules of one rollout; `domain.plan_mapping` reads and writes them."""

from dataclasses import dataclass, field
from enum import StrEnum

from control_plane.domain.events import Label
from control_plane.domain.split import FULL_TRAFFIC_BP

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0  # seconds


class Metric(StrEnum):
    """Engagement per impression, judged across arms by its label."""

    CTR = "ctr"
    GOOD_CLICK_RATE = "good_click_rate"
    HIDE_RATE = "hide_rate"
    REVENUE_PER_IMPRESSION = "revenue_per_impression"


LABEL_OF = {
    Metric.CTR: Label.CLICK,
    Metric.GOOD_CLICK_RATE: Label.GOOD_CLICK,
    Metric.HIDE_RATE: Label.HIDE,
    Metric.REVENUE_PER_IMPRESSION: Label.REVENUE,
}
DIRECTION_OF = {
    Metric.CTR: +1,
    Metric.GOOD_CLICK_RATE: +1,
    Metric.HIDE_RATE: -1,
    Metric.REVENUE_PER_IMPRESSION: +1,
}
DEFAULT_MARGINS = {  # relative (harm h, safe m)
    Metric.CTR: (0.01, 0.03),
    Metric.GOOD_CLICK_RATE: (0.015, 0.04),
    Metric.HIDE_RATE: (0.03, 0.08),
    Metric.REVENUE_PER_IMPRESSION: (0.01, 0.03),
}


class Role(StrEnum):
    """What a guardrail may do.

    GATE rolls back and must be shown safe before each advance; GUARD only rolls back; HOLD must be shown safe, but
    never rolls back; MONITOR only tells.
    """

    GATE = "gate"
    GUARD = "guard"
    HOLD = "hold"
    MONITOR = "monitor"

    @property
    def rolls_back(self) -> bool:
        return self in (Role.GATE, Role.GUARD)

    @property
    def gates(self) -> bool:
        return self in (Role.GATE, Role.HOLD)


class OnMissing(StrEnum):
    """What a guardrail without an answer does; none of these is ever a pass of a gate but IGNORE."""

    EXTEND = "extend"  # wait and look again
    HOLD = "hold"  # stop for a person
    IGNORE = "ignore"
    ROLL_BACK = "roll_back"


class OperationalMetric(StrEnum):
    """What runtimes count of the candidate while it serves or scores in the shadow."""

    LATENCY_P50 = "latency_p50_ms"
    LATENCY_P99 = "latency_p99_ms"
    ERROR_RATE = "error_rate"
    TIMEOUT_RATE = "timeout_rate"
    BAD_SCORE_RATE = "bad_score_rate"
    FEATURE_COVERAGE = "feature_coverage"
    FEATURE_NULL_RATE = "feature_null_rate"  # beyond the training data's
    USER_CAP_SPLIT_RATE = "user_cap_split_rate"
    GATE_ENTROPY = "gate_entropy"
    DEDUP_RATIO = "dedup_ratio"


LOWER_LIMITED = frozenset(
    {OperationalMetric.FEATURE_COVERAGE, OperationalMetric.GATE_ENTROPY, OperationalMetric.DEDUP_RATIO}
)  # of these, less is worse


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A weight, and what must have happened before it is left. The last step is full traffic: the watch."""

    share_bp: int
    bake_seconds: float = HOUR
    max_seconds: float | None = None  # None: the plan's max_stage
    min_impressions: int = 0  # matured ones that the candidate served at this weight
    approvals: int = 0
    approval_group: str = ""  # whose members may approve; empty: whoever may act
    is_monitored: bool = True  # if not, no verdict lets it go on: people do, with approvals


@dataclass(frozen=True, kw_only=True, slots=True)
class ShadowPlan:
    """The candidate scores stable's requests and answers nobody."""

    sample_bp: int = FULL_TRAFFIC_BP
    bake_seconds: float = HOUR
    min_pairs: int = 1_000
    min_conversions: int = 200  # matured clicks among the pairs
    ne_harm_margin: float = 0.005  # normalised entropy, candidate − stable on the same impressions
    ne_safe_margin: float = 0.01
    max_psi: float | None = 0.25  # hold on score drift surely beyond these; None only tells
    max_js: float | None = None  # Jensen–Shannon divergence, nats
    max_wasserstein: float | None = None  # mean shift of the scores' logits
    max_ks: float | None = None
    max_mean_log_ratio: float | None = None  # |mean of log(candidate's score / stable's)|
    min_rank_agreement: float | None = None  # Kendall's τ-b of the two scores of an impression


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardrailPlan:
    """One engagement metric; margins are relative changes in the harmful direction, h < m."""

    metric: Metric
    role: Role = Role.GATE
    harm_margin: float
    safe_margin: float
    window_seconds: float = HOUR  # attribution window: a label later than this never counts, in either arm
    on_insufficient: OnMissing = OnMissing.EXTEND
    on_no_data: OnMissing = OnMissing.EXTEND
    on_stale: OnMissing = OnMissing.EXTEND
    on_error: OnMissing = OnMissing.EXTEND


@dataclass(frozen=True, kw_only=True, slots=True)
class OperationalPlan:
    """One metric of the serving itself; `limit` is the least that is allowed of `LOWER_LIMITED`, else the most."""

    metric: OperationalMetric
    limit: float
    role: Role = Role.GUARD
    min_samples: int = 1_000  # calls before it is judged; of gates and features those that were looked at, 1 in 32
    on_insufficient: OnMissing = OnMissing.EXTEND
    on_no_data: OnMissing = OnMissing.EXTEND
    on_stale: OnMissing = OnMissing.EXTEND
    on_error: OnMissing = OnMissing.EXTEND

    @property
    def weighs(self) -> bool:
        """Whether it takes part in the rollback mean: a gauge has no e-value, and some roles never roll back."""
        return self.role.rolls_back and self.metric not in LOWER_LIMITED


@dataclass(frozen=True, kw_only=True, slots=True)
class ExternalPlan:
    """One number that another system holds; at least one of `at_most` and `at_least` is set.

    `query` and `at_query` (which gives the sample's unix time) go to the deployment's metric source `source`.
    """

    name: str
    source: str
    query: str
    at_query: str = ""
    at_most: float | None = None
    at_least: float | None = None
    role: Role = Role.HOLD
    max_age_seconds: float = 10 * MINUTE
    on_empty: OnMissing = OnMissing.EXTEND
    on_nan: OnMissing = OnMissing.EXTEND
    on_stale: OnMissing = OnMissing.EXTEND
    on_failed: OnMissing = OnMissing.EXTEND


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationPlan:
    """|log(predicted/observed)| of the candidate: harm beyond ε, advance only inside the band."""

    role: Role = Role.GATE
    epsilon: float = 0.02
    view_type_epsilon: float = 0.05
    band: float = 0.05
    view_type_band: float = 0.10


@dataclass(frozen=True, kw_only=True, slots=True)
class HardStops:
    """Rolled back without statistics."""

    max_error_rate: float = 0.01
    min_requests: int = 1_000  # before a rate is a rate
    max_bad_score_rate: float = 0.001
    calibration_low: float = 0.5  # predicted / observed
    calibration_high: float = 2.0
    min_expected_clicks: float = 200.0
    idle_intervals: int = 2  # checks without candidate traffic while it has weight


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgePlan:
    """Error budgets and evidence gates; the defaults are argued for in docs/statistics.md."""

    alpha_rollback: float = 0.05  # for the whole rollout: all looks, stages, metrics and segments together
    alpha_advance: float = 0.05
    loss_budget: float = 0.005  # B: share × margin of engagement put at risk by one stage
    max_stage_margin: float = 0.20
    taus: tuple[float, ...] = (0.03, 0.1, 0.4)  # effect sizes, log ratio, that the mixture is built for
    tau_weights: tuple[float, ...] = (0.4, 0.4, 0.2)
    min_buckets: int = 30
    min_users: int = 1_000  # distinct users of the candidate
    min_conversions: int = 100  # matured, in each arm, per gating metric
    min_expected_conversions: float = 20.0  # in control's stratified expectation, before harm is judged
    sample_ratio_threshold: float = 1_000.0  # e-value
    max_cross_exposure: float = 0.005
    stale_intervals: int = 2
    novelty_days: int = 3
    pre_period_days: int = 0  # days before the start whose sums explain variance away (CUPED); 0 is off


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutPlan:
    """Everything that decides how one rollout goes, stored with it so that its verdicts can be replayed."""

    name: str
    steps: tuple[Step, ...]
    shadow: ShadowPlan = field(default_factory=ShadowPlan)
    guardrails: tuple[GuardrailPlan, ...]
    calibration: CalibrationPlan = field(default_factory=CalibrationPlan)
    operational: tuple[OperationalPlan, ...] = ()
    external: tuple[ExternalPlan, ...] = ()
    hard_stops: HardStops = field(default_factory=HardStops)
    judge: JudgePlan = field(default_factory=JudgePlan)
    check_seconds: float = 5 * MINUTE
    lateness_seconds: float = 5 * MINUTE  # how long events may be on their way: the judge sees the log as of then
    unwatched_seconds: float = 15 * MINUTE
    max_stage_seconds: float = 14 * DAY
    max_total_seconds: float = 30 * DAY
    min_days_before_full: int = 7
    quarantine_on_rollback: bool = True
    cool_down_seconds: float = DAY  # after a rollback, before another version with its parts may start
    is_adaptive: bool = False  # weights between steps as large as the loss budget allows
    revenue_cap: float = 1_000.0  # currency units per impression; frozen so that both arms are cut alike

    def guardrail(self, metric: Metric) -> GuardrailPlan | None:
        return next((guardrail for guardrail in self.guardrails if guardrail.metric is metric), None)

    def longest_stage_seconds(self, step: int) -> float:
        """How long a stage may last; `step` is −1 in the shadow."""
        own = self.steps[step].max_seconds if step >= 0 else None
        return self.max_stage_seconds if own is None else own

    def windows_ms(self) -> dict[Label, int]:
        """Attribution window per label, for every label: unguarded ones mature with clicks."""
        click = self.guardrail(Metric.CTR)
        default = click.window_seconds if click is not None else HOUR
        windows = dict.fromkeys(Label, round(default * 1_000))
        for guardrail in self.guardrails:
            windows[LABEL_OF[guardrail.metric]] = round(guardrail.window_seconds * 1_000)
        return windows
