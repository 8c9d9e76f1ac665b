import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from control_plane.domain.errors import InvalidPlan
from control_plane.domain.plan_mapping import plan_to_mapping
from control_plane.plan_file import MAX_PLAN_CHARACTERS, read_plan
from tests.builders import a_plan, a_plan_mapping

PLAN = """\
name: standard
steps:
  - share: 1%
    bake: 1h
  - share: 25%
    bake: 2h
  - share: 100%
    bake: 1d
guardrails:
  - metric: ctr
"""


def refusal_of(text: str) -> InvalidPlan:
    with pytest.raises(InvalidPlan) as refused:
        read_plan(text)
    return refused.value


def test_a_plan_file_reads_as_the_same_plan_as_its_mapping() -> None:
    assert read_plan(PLAN) == a_plan()


def test_a_plan_written_out_reads_back_to_itself() -> None:
    plan = a_plan(check_every="1m", judge={"taus": [0.1], "tau_weights": [1.0]})

    assert read_plan(yaml.safe_dump(plan_to_mapping(plan))) == plan


@pytest.mark.parametrize(
    ("text", "field", "line"),
    [
        (PLAN.replace("25%", "1%"), "steps[1].share", 5),
        (PLAN.replace("bake: 2h", "bake: soon"), "steps[1].bake", 6),
        (PLAN.replace("bake: 2h", "bakes: 2h"), "steps[1].bakes", 6),
        (PLAN.replace("metric: ctr", "metric: likes"), "guardrails[0].metric", 10),
        (PLAN + "judge:\n  taus: [0.1, x]\n", "judge.taus[1]", 12),
        (PLAN + "what.is.this: 1\n", "what.is.this", 11),
        ("name: standard\nsteps: []\n", "steps", 2),
    ],
)
def test_a_broken_rule_is_told_with_its_key_and_line(text: str, field: str, line: int) -> None:
    refused = refusal_of(text)

    assert (refused.field, refused.line) == (field, line)


def test_a_missing_key_is_told_on_the_line_of_its_parent() -> None:
    refused = refusal_of(PLAN.replace("  - share: 25%\n    bake: 2h\n", "  - bake: 2h\n"))

    assert (refused.field, refused.rule, refused.line) == ("steps[1].share", "is missing", 5)


def test_a_key_given_twice_is_refused_and_both_lines_are_told() -> None:
    refused = refusal_of(PLAN + "name: other\n")

    assert (refused.field, refused.rule, refused.line) == ("name", "is given twice, first on line 1", 11)


def test_a_key_given_twice_deep_inside_is_refused() -> None:
    refused = refusal_of(PLAN.replace("    bake: 2h", "    bake: 2h\n    bake: 3h"))

    assert (refused.field, refused.line) == ("steps[1].bake", 7)


def test_text_that_is_not_yaml_is_refused_with_its_line() -> None:
    refused = refusal_of("name: standard\nsteps: [\n")

    assert refused.field == "plan"
    assert refused.line == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a comment\n",
        "just words",
        "[" * 5_000,
        "a: &a [*a]",
        "a: &a {b: *a}",
        "? [1, 2]\n: 3",
        "a: !!python/object/apply:os.system [ls]",
        "a: !!python/name:os.system",
        "a: !!binary aGk=",
        "a: !!int x",
        "a: !!int ''",
        "a: !!bool maybe",
        "a: " + "9" * 5_000,
        "<<: {a: 1}",
        "--- {}\n--- {}\n",
        "a: \x07",
        "name: " + "x" * MAX_PLAN_CHARACTERS,
    ],
)
def test_what_is_no_plan_is_refused_by_name(text: str) -> None:
    assert isinstance(refusal_of(text), InvalidPlan)


def test_aliases_that_grow_without_end_are_refused_before_they_fill_the_memory() -> None:
    levels = [f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 9)}]" for level in range(1, 12)]

    assert isinstance(refusal_of("\n".join(["l0: &l0 [x]", *levels])), InvalidPlan)


def test_a_name_that_looks_like_a_date_stays_a_name() -> None:
    assert read_plan(PLAN.replace("name: standard", "name: 2026-03-03")).name == "2026-03-03"


@given(st.text(max_size=200))
def test_any_text_gives_a_plan_or_a_refusal(text: str) -> None:
    with pytest.raises(InvalidPlan):
        read_plan(text)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5))
def test_any_value_in_a_plan_gives_a_refusal_with_a_line(value: object) -> None:
    refused = refusal_of(yaml.safe_dump(a_plan_mapping(steps=value)))

    assert refused.line is not None
