import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.domain.readings import ReadingOutcome
from control_plane.providers.contract import Sample, in_words, reading_of
from control_plane.providers.redaction import forms_of, without_secrets
from tests.builders import NOON
from tests.providers.builders import NOON_SECONDS, a_metric

ANY_NUMBER = st.none() | st.floats() | st.integers(-(10**12), 10**12).map(float)


@pytest.mark.parametrize(
    ("sample", "outcome"),
    [
        (Sample(value=2.0), ReadingOutcome.VALUE),
        (Sample(value=2.0, at=NOON_SECONDS), ReadingOutcome.VALUE),
        (Sample(value=2.0, at=NOON_SECONDS - 600), ReadingOutcome.VALUE),
        (Sample(value=2.0, at=NOON_SECONDS + 300), ReadingOutcome.VALUE),
        (Sample(value=2.0, at=NOON_SECONDS - 601), ReadingOutcome.STALE),
        (Sample(value=2.0, at=0.0), ReadingOutcome.STALE),
        (Sample(value=2.0, at=NOON_SECONDS + 301), ReadingOutcome.FAILED),
        (Sample(value=2.0, at=NOON_SECONDS * 1_000), ReadingOutcome.FAILED),
        (Sample(value=2.0, at=-1.0), ReadingOutcome.FAILED),
        (Sample(value=2.0, at=math.nan), ReadingOutcome.FAILED),
        (Sample(value=None), ReadingOutcome.EMPTY),
        (Sample(value=None, at=0.0), ReadingOutcome.EMPTY),
        (Sample(value=math.nan, at=0.0), ReadingOutcome.NAN),
        (Sample(value=-math.inf), ReadingOutcome.NAN),
    ],
)
def test_each_outcome_has_its_one_cause(sample: Sample, outcome: ReadingOutcome) -> None:
    assert reading_of(a_metric(), sample, query="up", now=NOON).outcome is outcome


@given(value=ANY_NUMBER, at=ANY_NUMBER)
def test_a_number_to_judge_is_finite_and_fresh_or_there_is_none(value: float | None, at: float | None) -> None:
    reading = reading_of(a_metric(), Sample(value=value, at=at), query="up", now=NOON)

    has_value = reading.outcome in (ReadingOutcome.VALUE, ReadingOutcome.STALE)
    assert (reading.value is not None) == has_value
    assert reading.value is None or math.isfinite(reading.value)
    assert reading.outcome is ReadingOutcome.VALUE or reading.detail
    if reading.outcome is ReadingOutcome.VALUE and at is not None:
        assert NOON_SECONDS - 600 <= at <= NOON_SECONDS + 300


@given(st.text())
def test_words_are_one_short_line_that_can_be_written_anywhere(said: str) -> None:
    words = in_words(said)

    assert words.isprintable()
    assert len(words) <= 300
    assert words.encode().decode() == words


@given(password=st.text(min_size=1, max_size=12), before=st.text(max_size=5), after=st.text(max_size=5))
def test_a_password_is_hidden_wherever_it_stands(password: str, before: str, after: str) -> None:
    text = before + password + after

    assert password not in without_secrets(text, forms_of(password)).replace("***", "")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no secret at all: 12:30", "no secret at all: 12:30"),
        ("http://ann:pw@host/x and https://host/y", "http://***@host/x and https://host/y"),
        ("postgresql://a@b:c@host", "postgresql://***@host"),
        ("user=ann PASSWORD = 'a b' host=db", "user=ann PASSWORD = *** host=db"),
        ('auth_token: "xyz"; next', "auth_token: ***; next"),
        ("Pwd=x;Server=y", "Pwd=***;Server=y"),
    ],
)
def test_what_looks_like_a_secret_is_hidden_even_if_it_is_not_ours(text: str, shown: str) -> None:
    assert without_secrets(text, ()) == shown
