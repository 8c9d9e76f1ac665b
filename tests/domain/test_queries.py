import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.domain.errors import InvalidField
from control_plane.domain.queries import MAX_CHARS, Language, broken_rule, fill, language_of, sql_names

VALUES = {"surface": "home_feed", "candidate": "b" * 16, "stable": "a" * 16, "generation": "7"}


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1",
        "select(1)",
        "  -- how many\n( SELECT 1 )",
        "WITH late AS (SELECT 1) SELECT 2",
        "with recursive n(i) as (select 1) select i from n",
    ],
)
def test_a_query_that_begins_with_select_or_with_is_sql(query: str) -> None:
    assert language_of(query) is Language.SQL
    assert broken_rule(query) == ""


@pytest.mark.parametrize(
    "query",
    [
        "up",
        "1",
        ":node_memory:sum",
        "selected_ads_total",
        "rate(x[5m:1m])",
        "WITH (x = up) x",
        'label_replace(up, "a", "$1", "b", "(.*)")',
        'sum(rate(errors_total{version="$candidate", surface=~"$surface|${surface}_2"}[5m]))',
        'up{path=~"/ads$$"} # {version="$stable"} of $generation',
    ],
)
def test_everything_else_is_promql(query: str) -> None:
    assert language_of(query) is Language.PROMQL
    assert broken_rule(query) == ""


@pytest.mark.parametrize(
    ("query", "rule"),
    [
        ("", "empty"),
        ("   \n", "empty"),
        ("x" * (MAX_CHARS + 1), "4000 characters"),
        ("up\x00", "character"),
        ("up\x1b[2J", "character"),
        ("up{version='$version'}", "no $version to name; known: $surface, $candidate, $stable, $generation"),
        ("${candidates}", "no $candidates"),
        ("SELECT :version", "no :version to name; known: :surface, :candidate, :stable, :generation, :since, :now"),
        ("SELECT ':late'", "no :late"),
        ("SELECT 1; DROP TABLE clicks", "one statement"),
        ("SELECT 1; COMMIT; DROP TABLE clicks;", "one statement"),
        ("SELECT ';'", "one statement"),
    ],
)
def test_a_broken_rule_is_named(query: str, rule: str) -> None:
    assert rule in broken_rule(query)


def test_the_rollouts_names_are_filled_in() -> None:
    query = 'up{surface="$surface", version=~"$candidate|${stable}_b", path=~"ads$$", g="$generation"}[$1]'

    filled = fill(query, VALUES)

    assert filled == f'up{{surface="home_feed", version=~"{"b" * 16}|{"a" * 16}_b", path=~"ads$", g="7"}}[$1]'


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("surface", 'home"} or vector(0)'),
        ("surface", "home'feed"),
        ("surface", "home\n"),
        ("surface", "Home"),
        ("surface", ""),
        ("candidate", "b" * 15),
        ("candidate", "B" * 16),
        ("stable", "a" * 16 + "\n"),
        ("generation", "-1"),
        ("generation", "٣"),
    ],
)
def test_a_value_that_could_change_the_query_is_refused(name: str, value: str) -> None:
    with pytest.raises(InvalidField, match=re.escape(name)):
        fill("up", {**VALUES, name: value})


def test_an_unknown_name_is_refused_when_filled_in_too() -> None:
    with pytest.raises(InvalidField, match="no \\$version"):
        fill("up{v='$version'}", VALUES)


def test_the_names_that_sql_binds() -> None:
    query = "SELECT a::int, '12:30:00', '\\:x' FROM t WHERE v = :candidate AND at > :since AND w <> :candidate"

    assert sql_names(query) == ("candidate", "since")


@given(st.text(max_size=200))
def test_any_text_is_judged_and_what_breaks_no_rule_can_be_filled(query: str) -> None:
    if broken_rule(query) == "" and language_of(query) is Language.PROMQL:
        assert isinstance(fill(query, VALUES), str)
