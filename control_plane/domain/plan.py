"""The frozen rules of one rollout, read from a mapping (YAML or JSON) with errors that name the key."""

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from itertools import pairwise

from control_plane.domain.events import Label
from control_plane.domain.plan_reader import Reader
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
    """GATE rolls back and must be shown safe before each advance; GUARD only rolls back; MONITOR only tells."""

    GATE = "gate"
    GUARD = "guard"
    MONITOR = "monitor"


class OnMissing(StrEnum):
    """What a guardrail without an answer does; none of these is ever a pass of a gate but IGNORE."""

    HOLD = "hold"
    IGNORE = "ignore"
    ROLL_BACK = "roll_back"


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A weight, and what must have happened before it is left. The last step is full traffic: the watch."""

    share_bp: int
    bake_seconds: float = HOUR
    approvals: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ShadowPlan:
    """The candidate scores stable's requests and answers nobody."""

    sample_bp: int = FULL_TRAFFIC_BP
    bake_seconds: float = HOUR
    min_pairs: int = 1_000
    min_conversions: int = 200  # matured clicks among the pairs
    ne_harm_margin: float = 0.005  # normalised entropy, candidate − stable on the same impressions
    ne_safe_margin: float = 0.01
    max_psi: float = 0.25  # hold on score drift beyond it


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardrailPlan:
    """One engagement metric; margins are relative changes in the harmful direction, h < m."""

    metric: Metric
    role: Role = Role.GATE
    harm_margin: float
    safe_margin: float
    window_seconds: float = HOUR  # attribution window: a label later than this never counts, in either arm
    on_insufficient: OnMissing = OnMissing.HOLD
    on_no_data: OnMissing = OnMissing.HOLD


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


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutPlan:
    """Everything that decides how one rollout goes, stored with it so that its verdicts can be replayed."""

    name: str
    steps: tuple[Step, ...]
    shadow: ShadowPlan = field(default_factory=ShadowPlan)
    guardrails: tuple[GuardrailPlan, ...]
    calibration: CalibrationPlan = field(default_factory=CalibrationPlan)
    hard_stops: HardStops = field(default_factory=HardStops)
    judge: JudgePlan = field(default_factory=JudgePlan)
    check_seconds: float = 5 * MINUTE
    lateness_seconds: float = 5 * MINUTE  # how long events may be on their way: the judge sees the log as of then
    unwatched_seconds: float = 15 * MINUTE
    max_stage_seconds: float = 14 * DAY
    max_total_seconds: float = 30 * DAY
    min_days_before_full: int = 7
    quarantine_on_rollback: bool = True
    revenue_cap: float = 1_000.0  # currency units per impression; frozen so that both arms are cut alike

    @classmethod
    def from_mapping(cls, mapping: object) -> "RolloutPlan":
        """Read a plan; `InvalidPlan` names the key and the rule it breaks. Unknown keys are refused."""
        return _read_plan(Reader(mapping))

    def to_mapping(self) -> dict[str, object]:
        """What `from_mapping` reads back to an equal plan, of JSON types only."""
        return _write_plan(self)

    def guardrail(self, metric: Metric) -> GuardrailPlan | None:
        return next((guardrail for guardrail in self.guardrails if guardrail.metric is metric), None)

    def windows_ms(self) -> dict[Label, int]:
        """Attribution window per label, for every label: unguarded ones mature with clicks."""
        click = self.guardrail(Metric.CTR)
        default = click.window_seconds if click is not None else HOUR
        windows = dict.fromkeys(Label, round(default * 1_000))
        for guardrail in self.guardrails:
            windows[LABEL_OF[guardrail.metric]] = round(guardrail.window_seconds * 1_000)
        return windows


def _read_plan(reader: Reader) -> RolloutPlan:
    plan = RolloutPlan(
        name=reader.name("name"),
        steps=tuple(_read_step(step) for step in reader.list_of("steps")),
        shadow=_read_shadow(reader.section("shadow")),
        guardrails=tuple(_read_guardrail(guardrail) for guardrail in reader.list_of("guardrails")),
        calibration=_read_calibration(reader.section("calibration")),
        hard_stops=_read_hard_stops(reader.section("hard_stops")),
        judge=_read_judge(reader.section("judge")),
        check_seconds=reader.duration("check_every", 5 * MINUTE),
        lateness_seconds=reader.duration("lateness", 5 * MINUTE),
        unwatched_seconds=reader.duration("unwatched", 15 * MINUTE),
        max_stage_seconds=reader.duration("max_stage", 14 * DAY),
        max_total_seconds=reader.duration("max_total", 30 * DAY),
        min_days_before_full=reader.count("min_days_before_full", 7, least=0),
        quarantine_on_rollback=reader.flag("quarantine_on_rollback", True),
        revenue_cap=reader.number("revenue_cap", 1_000.0, above=0),
    )
    reader.refuse_unknown()
    _check_steps(reader, plan.steps)
    _check_guardrails(reader, plan.guardrails)
    if plan.unwatched_seconds < 2 * plan.check_seconds:
        reader.fail("unwatched", "must be at least twice check_every, or one late check sends the candidate home")
    return plan


def _check_steps(reader: Reader, steps: tuple[Step, ...]) -> None:
    for index, (step, following) in enumerate(pairwise(steps)):
        if following.share_bp <= step.share_bp:
            reader.fail(f"steps[{index + 1}].share", "must be larger than the step before")
    if steps[-1].share_bp != FULL_TRAFFIC_BP:
        reader.fail(f"steps[{len(steps) - 1}].share", "the last step must be 100%")


def _check_guardrails(reader: Reader, guardrails: tuple[GuardrailPlan, ...]) -> None:
    seen: set[Metric] = set()
    for index, guardrail in enumerate(guardrails):
        if guardrail.metric in seen:
            reader.fail(f"guardrails[{index}].metric", f"{guardrail.metric} is guarded twice")
        seen.add(guardrail.metric)
    if not any(guardrail.role is Role.GATE for guardrail in guardrails):
        reader.fail("guardrails", "at least one must have the role 'gate', or nothing is ever shown safe")


def _read_step(reader: Reader) -> Step:
    step = Step(
        share_bp=reader.share("share", least=1),
        bake_seconds=reader.duration("bake", HOUR),
        approvals=reader.count("approvals", 0, least=0),
    )
    reader.refuse_unknown()
    return step


def _read_shadow(reader: Reader) -> ShadowPlan:
    shadow = ShadowPlan(
        sample_bp=reader.share("sample", FULL_TRAFFIC_BP, least=1),
        bake_seconds=reader.duration("bake", HOUR),
        min_pairs=reader.count("min_pairs", 1_000, least=1),
        min_conversions=reader.count("min_conversions", 200, least=1),
        ne_harm_margin=reader.fraction("ne_harm_margin", 0.005),
        ne_safe_margin=reader.fraction("ne_safe_margin", 0.01),
        max_psi=reader.number("max_psi", 0.25, above=0),
    )
    if shadow.ne_harm_margin >= shadow.ne_safe_margin:
        reader.fail("ne_harm_margin", "must be smaller than ne_safe_margin, or some effects never resolve")
    reader.refuse_unknown()
    return shadow


def _read_guardrail(reader: Reader) -> GuardrailPlan:
    metric = reader.choice("metric", Metric)
    harm, safe = DEFAULT_MARGINS[metric]
    guardrail = GuardrailPlan(
        metric=metric,
        role=reader.choice("role", Role, Role.GATE),
        harm_margin=reader.fraction("harm_margin", harm),
        safe_margin=reader.fraction("safe_margin", safe),
        window_seconds=reader.duration("window", HOUR),
        on_insufficient=reader.choice("on_insufficient", OnMissing, OnMissing.HOLD),
        on_no_data=reader.choice("on_no_data", OnMissing, OnMissing.HOLD),
    )
    if guardrail.harm_margin >= guardrail.safe_margin:
        reader.fail("harm_margin", "must be smaller than safe_margin, or some effects never resolve")
    reader.refuse_unknown()
    return guardrail


def _read_calibration(reader: Reader) -> CalibrationPlan:
    calibration = CalibrationPlan(
        role=reader.choice("role", Role, Role.GATE),
        epsilon=reader.fraction("epsilon", 0.02),
        view_type_epsilon=reader.fraction("view_type_epsilon", 0.05),
        band=reader.fraction("band", 0.05),
        view_type_band=reader.fraction("view_type_band", 0.10),
    )
    if calibration.epsilon >= calibration.band:
        reader.fail("epsilon", "must be smaller than band, or some errors never resolve")
    if calibration.view_type_epsilon >= calibration.view_type_band:
        reader.fail("view_type_epsilon", "must be smaller than view_type_band, or some errors never resolve")
    reader.refuse_unknown()
    return calibration


def _read_hard_stops(reader: Reader) -> HardStops:
    stops = HardStops(
        max_error_rate=reader.fraction("max_error_rate", 0.01),
        min_requests=reader.count("min_requests", 1_000, least=1),
        max_bad_score_rate=reader.fraction("max_bad_score_rate", 0.001),
        calibration_low=reader.number("calibration_low", 0.5, above=0),
        calibration_high=reader.number("calibration_high", 2.0, above=1),
        min_expected_clicks=reader.number("min_expected_clicks", 200.0, above=0),
        idle_intervals=reader.count("idle_intervals", 2, least=1),
    )
    if stops.calibration_low >= 1:
        reader.fail("calibration_low", "must be below 1")
    reader.refuse_unknown()
    return stops


def _read_judge(reader: Reader) -> JudgePlan:
    judge = JudgePlan(
        alpha_rollback=reader.fraction("alpha_rollback", 0.05),
        alpha_advance=reader.fraction("alpha_advance", 0.05),
        loss_budget=reader.fraction("loss_budget", 0.005),
        max_stage_margin=reader.fraction("max_stage_margin", 0.20),
        taus=reader.numbers("taus", (0.03, 0.1, 0.4), above=0),
        tau_weights=reader.numbers("tau_weights", (0.4, 0.4, 0.2), above=0),
        min_buckets=reader.count("min_buckets", 30, least=30),
        min_users=reader.count("min_users", 1_000, least=1),
        min_conversions=reader.count("min_conversions", 100, least=1),
        min_expected_conversions=reader.number("min_expected_conversions", 20.0, above=0),
        sample_ratio_threshold=reader.number("sample_ratio_threshold", 1_000.0, above=1),
        max_cross_exposure=reader.fraction("max_cross_exposure", 0.005),
        stale_intervals=reader.count("stale_intervals", 2, least=1),
        novelty_days=reader.count("novelty_days", 3, least=0),
    )
    if len(judge.taus) != len(judge.tau_weights):
        reader.fail("tau_weights", f"must have one weight for each of the {len(judge.taus)} taus")
    if abs(sum(judge.tau_weights) - 1) > 1e-9:
        reader.fail("tau_weights", f"must sum to 1, not {sum(judge.tau_weights):g}")
    reader.refuse_unknown()
    return judge


def _write_plan(plan: RolloutPlan) -> dict[str, object]:
    return {
        "name": plan.name,
        "steps": [_write_step(step) for step in plan.steps],
        "shadow": _write_shadow(plan.shadow),
        "guardrails": [_write_guardrail(guardrail) for guardrail in plan.guardrails],
        "calibration": _write_calibration(plan.calibration),
        "hard_stops": asdict(plan.hard_stops),
        "judge": _write_judge(plan.judge),
        "check_every": _seconds(plan.check_seconds),
        "lateness": _seconds(plan.lateness_seconds),
        "unwatched": _seconds(plan.unwatched_seconds),
        "max_stage": _seconds(plan.max_stage_seconds),
        "max_total": _seconds(plan.max_total_seconds),
        "min_days_before_full": plan.min_days_before_full,
        "quarantine_on_rollback": plan.quarantine_on_rollback,
        "revenue_cap": plan.revenue_cap,
    }


def _write_step(step: Step) -> dict[str, object]:
    return {"share": f"{step.share_bp}bp", "bake": _seconds(step.bake_seconds), "approvals": step.approvals}


def _write_shadow(shadow: ShadowPlan) -> dict[str, object]:
    return {
        "sample": f"{shadow.sample_bp}bp",
        "bake": _seconds(shadow.bake_seconds),
        "min_pairs": shadow.min_pairs,
        "min_conversions": shadow.min_conversions,
        "ne_harm_margin": shadow.ne_harm_margin,
        "ne_safe_margin": shadow.ne_safe_margin,
        "max_psi": shadow.max_psi,
    }


def _write_guardrail(guardrail: GuardrailPlan) -> dict[str, object]:
    return {
        "metric": guardrail.metric.value,
        "role": guardrail.role.value,
        "harm_margin": guardrail.harm_margin,
        "safe_margin": guardrail.safe_margin,
        "window": _seconds(guardrail.window_seconds),
        "on_insufficient": guardrail.on_insufficient.value,
        "on_no_data": guardrail.on_no_data.value,
    }


def _write_calibration(calibration: CalibrationPlan) -> dict[str, object]:
    return {**asdict(calibration), "role": calibration.role.value}


def _write_judge(judge: JudgePlan) -> dict[str, object]:
    return {**asdict(judge), "taus": list(judge.taus), "tau_weights": list(judge.tau_weights)}


def _seconds(seconds: float) -> str:
    return f"{seconds!r}s"
