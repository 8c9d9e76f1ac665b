import json
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.domain.errors import InvalidPlan
from control_plane.domain.events import Label
from control_plane.domain.plan import Metric, OnMissing, Role
from control_plane.domain.plan_mapping import plan_from_mapping, plan_to_mapping
from tests.builders import a_plan, a_plan_mapping


def test_a_short_plan_gets_the_documented_defaults() -> None:
    plan = a_plan()

    assert [step.share_bp for step in plan.steps] == [100, 2_500, 10_000]
    assert plan.guardrails[0].role is Role.GATE
    assert (plan.guardrails[0].harm_margin, plan.guardrails[0].safe_margin) == (0.01, 0.03)
    assert plan.judge.alpha_rollback == 0.05
    assert sum(plan.judge.tau_weights) == pytest.approx(1)
    assert plan.min_days_before_full == 7
    assert plan.lateness_seconds == 300


def test_units_are_read() -> None:
    plan = a_plan(
        steps=[{"share": "250bp", "bake": "90m"}, {"share": "12.5%", "bake": "2d"}, {"share": "100%"}],
        guardrails=[{"metric": "ctr", "harm_margin": 0.02, "safe_margin": "5%"}],
        check_every="30s",
        unwatched="2m",
    )

    assert [step.share_bp for step in plan.steps] == [250, 1_250, 10_000]
    assert plan.steps[0].bake_seconds == 5_400
    assert (plan.guardrails[0].harm_margin, plan.guardrails[0].safe_margin) == (0.02, 0.05)
    assert (plan.check_seconds, plan.unwatched_seconds) == (30, 120)


def test_a_plan_survives_json() -> None:
    plan = a_plan(check_every="1.5m", judge={"loss_budget": "2.5%"}, revenue_cap=12.25)

    assert plan_from_mapping(json.loads(json.dumps(plan_to_mapping(plan)))) == plan


def changed(value: Any) -> Any:
    """The same plan with every number and choice another one, so that nothing stands at its default."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value * 0.9
        case OnMissing():
            return OnMissing.IGNORE
        case Role():
            return Role.GUARD
        case tuple():
            return tuple(changed(entry) for entry in value)
        case _ if is_dataclass(value) and not isinstance(value, type):
            kept = {
                "share_bp",
                "sample_bp",
                "metric",
                "tau_weights",
                "min_buckets",
                "name",
                "source",
                "query",
                "at_query",
            }
            names = [one.name for one in fields(value) if one.name not in kept]
            return replace(value, **{name: changed(getattr(value, name)) for name in names})
        case _:
            return value


OPERATIONAL = {"metric": "latency_p99_ms", "limit": 40}
EXTERNAL = {"name": "auction depth", "source": "prometheus", "query": "avg(depth)", "at_least": 3.5, "at_most": 9}


def test_every_field_of_a_plan_survives_json() -> None:
    limits = dict.fromkeys(("max_js", "max_wasserstein", "max_ks", "max_mean_log_ratio", "min_rank_agreement"), 0.5)
    plan = a_plan(
        guardrails=[{"metric": "ctr"}, {"metric": "hide_rate"}],
        shadow=limits,
        operational=[OPERATIONAL],
        external=[EXTERNAL],
    )
    other = replace(changed(plan), guardrails=(plan.guardrails[0], changed(plan.guardrails[1])))

    again = plan_from_mapping(json.loads(json.dumps(plan_to_mapping(other))))

    assert again == other != plan


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": ""}, "name"),
        ({"steps": []}, "steps"),
        ({"steps": [{"share": "5%"}]}, "steps[0].share"),
        ({"steps": [{"share": "5%"}, {"share": "5%"}, {"share": "100%"}]}, "steps[1].share"),
        ({"steps": [{"share": 5}, {"share": "100%"}]}, "steps[0].share"),
        ({"steps": [{"share": "101%"}]}, "steps[0].share"),
        ({"steps": [{"share": "0.001%"}, {"share": "100%"}]}, "steps[0].share"),
        ({"steps": [{"share": "5%", "bake": "1 week"}, {"share": "100%"}]}, "steps[0].bake"),
        ({"steps": [{"share": "5%", "bakes": "1h"}, {"share": "100%"}]}, "steps[0].bakes"),
        ({"steps": [{"share": "100%", "approvals": -1}]}, "steps[0].approvals"),
        ({"steps": "100%"}, "steps"),
        ({"guardrails": [{"metric": "clicks"}]}, "guardrails[0].metric"),
        ({"guardrails": [{"metric": "ctr"}, {"metric": "ctr"}]}, "guardrails[1].metric"),
        ({"guardrails": [{"metric": "ctr", "role": "monitor"}]}, "guardrails"),
        ({"guardrails": [{"metric": "ctr", "harm_margin": "3%", "safe_margin": "3%"}]}, "guardrails[0].harm_margin"),
        ({"guardrails": [{"metric": "ctr", "harm_margin": float("nan")}]}, "guardrails[0].harm_margin"),
        ({"calibration": {"epsilon": "6%"}}, "calibration.epsilon"),
        ({"calibration": 5}, "calibration"),
        ({"shadow": {"ne_harm_margin": "1%"}}, "shadow.ne_harm_margin"),
        ({"shadow": {"sample": "0%"}}, "shadow.sample"),
        ({"hard_stops": {"calibration_low": 1.5}}, "hard_stops.calibration_low"),
        ({"judge": {"taus": [0.1], "tau_weights": [0.5]}}, "judge.tau_weights"),
        ({"judge": {"taus": [0.1, 0.2]}}, "judge.tau_weights"),
        ({"judge": {"min_buckets": 10}}, "judge.min_buckets"),
        ({"judge": {"alpha_rollback": 0}}, "judge.alpha_rollback"),
        ({"judge": {"taus": [1e200, 0.1], "tau_weights": [0.5, 0.5]}}, "judge.taus[0]"),
        ({"judge": {"alpha_rollback": 1e-320}}, "judge.alpha_rollback"),
        ({"judge": {"min_users": 10**5_000}}, "judge.min_users"),
        ({"revenue_cap": 10**400}, "revenue_cap"),
        ({"judge": {"pre_period_days": 400}}, "judge.pre_period_days"),
        ({"shadow": {"max_ks": -1}}, "shadow.max_ks"),
        ({"operational": [{**OPERATIONAL, "metric": "speed"}]}, "operational[0].metric"),
        ({"operational": [{"metric": "latency_p99_ms"}]}, "operational[0].limit"),
        ({"operational": [{"metric": "error_rate", "limit": 5}]}, "operational[0].limit"),
        ({"operational": [OPERATIONAL, OPERATIONAL]}, "operational[1].metric"),
        ({"external": [{**EXTERNAL, "at_least": 10}]}, "external[0].at_least"),
        ({"external": [{"name": "depth", "source": "prometheus", "query": "depth"}]}, "external[0].at_most"),
        ({"external": [{**EXTERNAL, "query": " "}]}, "external[0].query"),
        ({"external": [{**EXTERNAL, "query": "avg(depth{surface='$nowhere'})"}]}, "external[0].query"),
        ({"external": [EXTERNAL, EXTERNAL]}, "external[1].name"),
        ({"external": [{**EXTERNAL, "on_empty": "pass"}]}, "external[0].on_empty"),
        ({"check_every": "10m", "unwatched": "10m"}, "unwatched"),
        ({"quarantine_on_rollback": "yes"}, "quarantine_on_rollback"),
        ({"max_total": "99999d"}, "max_total"),
        ({"typo": 1}, "typo"),
    ],
)
def test_a_malformed_plan_is_refused_by_key(change: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidPlan) as refused:
        a_plan(**change)

    assert refused.value.field == field


@pytest.mark.parametrize("missing", ["name", "steps", "guardrails"])
def test_a_missing_key_is_named(missing: str) -> None:
    mapping = a_plan_mapping()
    del mapping[missing]

    with pytest.raises(InvalidPlan, match=f"{missing}: is missing"):
        plan_from_mapping(mapping)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(["name", "steps", "shadow", "guardrails", "calibration", "judge", "check_every"]), JSON_VALUES)
def test_no_value_breaks_the_reader(key: str, value: object) -> None:
    refused_field = key
    try:
        a_plan(**{key: value})
    except InvalidPlan as refused:
        refused_field = refused.field

    assert refused_field.startswith(key) or refused_field == "unwatched"


def test_every_label_has_a_window_and_guarded_ones_their_own() -> None:
    plan = a_plan(guardrails=[{"metric": "ctr", "window": "2h"}, {"metric": "hide_rate", "window": "1d"}])

    assert plan.windows_ms() == {
        Label.CLICK: 7_200_000,
        Label.GOOD_CLICK: 7_200_000,
        Label.HIDE: 86_400_000,
        Label.REVENUE: 7_200_000,
    }


def test_a_guardrail_is_found_by_metric() -> None:
    plan = a_plan()

    assert plan.guardrail(Metric.CTR) is plan.guardrails[0]
    assert plan.guardrail(Metric.HIDE_RATE) is None
