"""Plans as mappings (YAML or JSON): read with errors that name the key, written so that they read back equal."""

from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from itertools import pairwise

from control_plane.domain.plan import (
    DAY,
    DEFAULT_MARGINS,
    HOUR,
    MINUTE,
    CalibrationPlan,
    ExternalPlan,
    GuardrailPlan,
    HardStops,
    JudgePlan,
    Metric,
    OnMissing,
    OperationalMetric,
    OperationalPlan,
    Role,
    RolloutPlan,
    ShadowPlan,
    Step,
)
from control_plane.domain.plan_reader import Reader
from control_plane.domain.queries import broken_rule
from control_plane.domain.split import FULL_TRAFFIC_BP

MAX_PRE_PERIOD_DAYS = 90  # users of longer ago are others
RATES = frozenset(OperationalMetric) - {
    OperationalMetric.LATENCY_P50,
    OperationalMetric.LATENCY_P99,
    OperationalMetric.DEDUP_RATIO,
}


def plan_from_mapping(mapping: object) -> RolloutPlan:
    """Read a plan; `InvalidPlan` names the key and the rule it breaks. Unknown keys are refused."""
    reader = Reader(mapping)
    plan = RolloutPlan(
        name=reader.name("name"),
        steps=tuple(_read_step(step) for step in reader.list_of("steps")),
        shadow=_read_shadow(reader.section("shadow")),
        guardrails=tuple(_read_guardrail(guardrail) for guardrail in reader.list_of("guardrails")),
        calibration=_read_calibration(reader.section("calibration")),
        operational=tuple(_read_operational(entry) for entry in reader.list_of("operational", default=())),
        external=tuple(_read_external(entry) for entry in reader.list_of("external", default=())),
        hard_stops=_read_hard_stops(reader.section("hard_stops")),
        judge=_read_judge(reader.section("judge")),
        check_seconds=reader.duration("check_every", 5 * MINUTE),
        lateness_seconds=reader.duration("lateness", 5 * MINUTE),
        unwatched_seconds=reader.duration("unwatched", 15 * MINUTE),
        max_stage_seconds=reader.duration("max_stage", 14 * DAY),
        max_total_seconds=reader.duration("max_total", 30 * DAY),
        min_days_before_full=reader.count("min_days_before_full", 7, least=0),
        quarantine_on_rollback=reader.flag("quarantine_on_rollback", True),
        cool_down_seconds=reader.duration("cool_down", DAY, least=0),
        is_adaptive=reader.flag("adaptive", False),
        revenue_cap=reader.number("revenue_cap", 1_000.0, above=0),
    )
    reader.refuse_unknown()
    _check_steps(reader, plan.steps)
    _check_guardrails(reader, plan.guardrails)
    _refuse_repeated(reader, "operational", "metric", [entry.metric for entry in plan.operational])
    _refuse_repeated(reader, "external", "name", [entry.name for entry in plan.external])
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
    _refuse_repeated(reader, "guardrails", "metric", [guardrail.metric for guardrail in guardrails])
    if not any(guardrail.role is Role.GATE for guardrail in guardrails):
        reader.fail("guardrails", "at least one must have the role 'gate', or nothing is ever shown safe")


def _refuse_repeated(reader: Reader, section: str, key: str, names: Sequence[str]) -> None:
    for index, name in enumerate(names):
        if name in names[:index]:
            reader.fail(f"{section}[{index}].{key}", f"{name} is guarded twice")


def _read_step(reader: Reader) -> Step:
    step = Step(
        share_bp=reader.share("share", least=1),
        bake_seconds=reader.duration("bake", HOUR),
        max_seconds=reader.optional_duration("max", None),
        min_impressions=reader.count("min_impressions", 0, least=0),
        approvals=reader.count("approvals", 0, least=0),
        approval_group=reader.text("approval_group", ""),
        is_monitored=reader.flag("monitored", True),
    )
    if step.approval_group and not step.approvals:
        reader.fail("approval_group", "needs approvals: how many of the group")
    if not step.is_monitored and not step.approvals:
        reader.fail("monitored", "an unmonitored step is left by people only: ask for approvals")
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
        max_psi=reader.optional_number("max_psi", 0.25, above=0),
        max_js=reader.optional_number("max_js", None, above=0),
        max_wasserstein=reader.optional_number("max_wasserstein", None, above=0),
        max_ks=reader.optional_number("max_ks", None, above=0),
        max_mean_log_ratio=reader.optional_number("max_mean_log_ratio", None, above=0),
        min_rank_agreement=reader.optional_number("min_rank_agreement", None, above=-1),
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
        on_insufficient=reader.choice("on_insufficient", OnMissing, OnMissing.EXTEND),
        on_no_data=reader.choice("on_no_data", OnMissing, OnMissing.EXTEND),
        on_stale=reader.choice("on_stale", OnMissing, OnMissing.EXTEND),
        on_error=reader.choice("on_error", OnMissing, OnMissing.EXTEND),
    )
    if guardrail.harm_margin >= guardrail.safe_margin:
        reader.fail("harm_margin", "must be smaller than safe_margin, or some effects never resolve")
    reader.refuse_unknown()
    return guardrail


def _read_operational(reader: Reader) -> OperationalPlan:
    metric = reader.choice("metric", OperationalMetric)
    operational = OperationalPlan(
        metric=metric,
        limit=reader.number("limit", None, above=0),
        role=reader.choice("role", Role, Role.GUARD),
        min_samples=reader.count("min_samples", 1_000, least=1),
        on_insufficient=reader.choice("on_insufficient", OnMissing, OnMissing.EXTEND),
        on_no_data=reader.choice("on_no_data", OnMissing, OnMissing.EXTEND),
        on_stale=reader.choice("on_stale", OnMissing, OnMissing.EXTEND),
        on_error=reader.choice("on_error", OnMissing, OnMissing.EXTEND),
    )
    if metric in RATES and operational.limit >= 1:
        reader.fail("limit", f"must be below 1, for {metric} is a share")
    reader.refuse_unknown()
    return operational


def _read_external(reader: Reader) -> ExternalPlan:
    external = ExternalPlan(
        name=reader.name("name"),
        source=reader.name("source"),
        query=reader.text("query"),
        at_query=reader.text("at_query", ""),
        at_most=reader.optional_number("at_most", None),
        at_least=reader.optional_number("at_least", None),
        role=reader.choice("role", Role, Role.HOLD),
        max_age_seconds=reader.duration("max_age", 10 * MINUTE),
        on_empty=reader.choice("on_empty", OnMissing, OnMissing.EXTEND),
        on_nan=reader.choice("on_nan", OnMissing, OnMissing.EXTEND),
        on_stale=reader.choice("on_stale", OnMissing, OnMissing.EXTEND),
        on_failed=reader.choice("on_failed", OnMissing, OnMissing.EXTEND),
    )
    if external.at_most is None and external.at_least is None:
        reader.fail("at_most", "is missing: a limit is needed, at_most or at_least or both")
    if external.at_most is not None and external.at_least is not None and external.at_least > external.at_most:
        reader.fail("at_least", "must not be above at_most")
    for key, query in (("query", external.query), ("at_query", external.at_query)):
        if query and (rule := broken_rule(query)):
            reader.fail(key, rule)
    reader.refuse_unknown()
    return external


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
        pre_period_days=reader.count("pre_period_days", 0, least=0),
    )
    if judge.pre_period_days > MAX_PRE_PERIOD_DAYS:
        reader.fail("pre_period_days", f"must be at most {MAX_PRE_PERIOD_DAYS}")
    if len(judge.taus) != len(judge.tau_weights):
        reader.fail("tau_weights", f"must have one weight for each of the {len(judge.taus)} taus")
    if abs(sum(judge.tau_weights) - 1) > 1e-9:
        reader.fail("tau_weights", f"must sum to 1, not {sum(judge.tau_weights):g}")
    reader.refuse_unknown()
    return judge


def plan_to_mapping(plan: RolloutPlan) -> dict[str, object]:
    """What `plan_from_mapping` reads back to an equal plan, of JSON types only."""
    return {
        "name": plan.name,
        "steps": [_write_step(step) for step in plan.steps],
        "shadow": _write_shadow(plan.shadow),
        "guardrails": [_write_guardrail(guardrail) for guardrail in plan.guardrails],
        "calibration": _written(plan.calibration),
        "operational": [_written(entry) for entry in plan.operational],
        "external": [_write_external(entry) for entry in plan.external],
        "hard_stops": asdict(plan.hard_stops),
        "judge": _write_judge(plan.judge),
        "check_every": _seconds(plan.check_seconds),
        "lateness": _seconds(plan.lateness_seconds),
        "unwatched": _seconds(plan.unwatched_seconds),
        "max_stage": _seconds(plan.max_stage_seconds),
        "max_total": _seconds(plan.max_total_seconds),
        "min_days_before_full": plan.min_days_before_full,
        "quarantine_on_rollback": plan.quarantine_on_rollback,
        "cool_down": _seconds(plan.cool_down_seconds),
        "adaptive": plan.is_adaptive,
        "revenue_cap": plan.revenue_cap,
    }


def _write_step(step: Step) -> dict[str, object]:
    return {
        "share": f"{step.share_bp}bp",
        "bake": _seconds(step.bake_seconds),
        "max": None if step.max_seconds is None else _seconds(step.max_seconds),
        "min_impressions": step.min_impressions,
        "approvals": step.approvals,
        "approval_group": step.approval_group,
        "monitored": step.is_monitored,
    }


def _write_shadow(shadow: ShadowPlan) -> dict[str, object]:
    return {
        "sample": f"{shadow.sample_bp}bp",
        "bake": _seconds(shadow.bake_seconds),
        "min_pairs": shadow.min_pairs,
        "min_conversions": shadow.min_conversions,
        "ne_harm_margin": shadow.ne_harm_margin,
        "ne_safe_margin": shadow.ne_safe_margin,
        "max_psi": shadow.max_psi,
        "max_js": shadow.max_js,
        "max_wasserstein": shadow.max_wasserstein,
        "max_ks": shadow.max_ks,
        "max_mean_log_ratio": shadow.max_mean_log_ratio,
        "min_rank_agreement": shadow.min_rank_agreement,
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
        "on_stale": guardrail.on_stale.value,
        "on_error": guardrail.on_error.value,
    }


def _write_external(external: ExternalPlan) -> dict[str, object]:
    written = _written(external)
    return {**written, "max_age": _seconds(external.max_age_seconds)}


def _written(entry: OperationalPlan | ExternalPlan | CalibrationPlan) -> dict[str, object]:
    """Its fields with choices as text; durations are for the caller."""
    fields = {name: value for name, value in asdict(entry).items() if not name.endswith("_seconds")}
    return {name: value.value if isinstance(value, StrEnum) else value for name, value in fields.items()}


def _write_judge(judge: JudgePlan) -> dict[str, object]:
    return {**asdict(judge), "taus": list(judge.taus), "tau_weights": list(judge.tau_weights)}


def _seconds(seconds: float) -> str:
    return f"{seconds!r}s"
