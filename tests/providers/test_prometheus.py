"""Questions to a real Prometheus."""

from collections.abc import Iterator

import pytest

from control_plane.domain.readings import ReadingOutcome
from control_plane.providers.sources import Source, make_sources
from tests.builders import CANDIDATE, STABLE
from tests.providers.builders import NOON_SECONDS, SOURCE, an_example, read
from tests.providers.servers import prometheus

OLD, RECENT = NOON_SECONDS - 250, NOON_SECONDS - 60
SAMPLES = f"""\
# TYPE error_ratio gauge
error_ratio{{surface="home_feed",version="{CANDIDATE}"}} 0.5 {OLD:.0f}
error_ratio{{surface="home_feed",version="{STABLE}"}} 0.125 {OLD:.0f}
error_ratio{{surface="home_feed",version="{CANDIDATE}"}} 0.25 {RECENT:.0f}
error_ratio{{surface="home_feed",version="{STABLE}"}} 0.125 {RECENT:.0f}
# TYPE slow gauge
slow 3 {OLD:.0f}
# TYPE long_ago gauge
long_ago 4 {NOON_SECONDS - 3_600:.0f}
# EOF
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    with prometheus(tmp_path_factory.mktemp("prometheus"), SAMPLES) as url:
        yield make_sources({SOURCE: f"prometheus+{url}"})[SOURCE]


def test_a_vector_of_one_sample_is_a_value_as_of_the_tick(source: Source) -> None:
    reading = read(source, 'error_ratio{surface="$surface", version="$candidate"}')

    assert (reading.outcome, reading.value, reading.sampled_at_ms) == (ReadingOutcome.VALUE, 0.25, None)
    assert reading.query == f'error_ratio{{surface="home_feed", version="{CANDIDATE}"}}'


def test_a_scalar_is_a_value(source: Source) -> None:
    assert read(source, "scalar(slow) + $generation").value == 10


def test_a_version_against_the_other_is_one_query(source: Source) -> None:
    query = 'sum(error_ratio{version="$candidate"}) / sum(error_ratio{version="$stable"})'

    assert read(source, query).value == 2


@pytest.mark.parametrize("query", ["no_such_metric", "error_ratio > 1", "long_ago"])
def test_nothing_is_empty_and_so_is_what_prometheus_finds_too_old(source: Source, query: str) -> None:
    reading = read(source, query)

    assert (reading.outcome, reading.value) == (ReadingOutcome.EMPTY, None)


@pytest.mark.parametrize(("query", "word"), [("0 / 0", "nan"), ("vector(1) / 0", "inf"), ("-1 / vector(0)", "-inf")])
def test_not_a_number_and_infinities_are_nan(source: Source, query: str, word: str) -> None:
    reading = read(source, query)

    assert (reading.outcome, reading.value) == (ReadingOutcome.NAN, None)
    assert word in reading.detail


def test_the_time_of_a_sample_tells_fresh_from_stale(source: Source) -> None:
    fresh = read(source, "slow", at_query="timestamp(slow)", max_age_seconds=300.0)
    stale = read(source, "slow", at_query="timestamp(slow)", max_age_seconds=200.0)

    assert (fresh.outcome, fresh.value, fresh.sampled_at_ms) == (ReadingOutcome.VALUE, 3, round(OLD * 1_000))
    assert (stale.outcome, stale.value, stale.sampled_at_ms) == (ReadingOutcome.STALE, 3, round(OLD * 1_000))
    assert stale.detail == "250 s old, older than 200 s"
    assert stale.query == "slow\nits time: timestamp(slow)"


def test_a_time_that_is_not_there_leaves_the_age_unknown(source: Source) -> None:
    reading = read(source, "slow", at_query="timestamp(no_such_metric)")

    assert reading.outcome is ReadingOutcome.FAILED
    assert "nobody knows how old" in reading.detail


def test_several_series_are_counted_and_what_to_do_is_said(source: Source) -> None:
    reading = read(source, "error_ratio")

    assert reading.outcome is ReadingOutcome.FAILED
    assert reading.detail == "2 series instead of one; aggregate them with sum() or avg()"


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("sum(error_ratio", "parse error: unclosed left parenthesis"),
        ("error_ratio[5m]", "range vector"),
        ('"text"', "string"),
        ("error_ratio * on(surface) error_ratio", "found duplicate series for the match group"),
        ("SELECT 1", "takes PromQL, the query is SQL"),
    ],
)
def test_what_is_no_answer_fails_in_the_servers_words(source: Source, query: str, words: str) -> None:
    reading = read(source, query)

    assert (reading.outcome, reading.value) == (ReadingOutcome.FAILED, None)
    assert words in reading.detail


def test_the_example_plan_asks_what_prometheus_understands(source: Source) -> None:
    (query,) = [external.query for external in an_example("external-metrics").external if external.source == "prod"]

    assert read(source, query).outcome is ReadingOutcome.EMPTY
