"""Bad rows are refused one by one and counted; bad bodies are refused whole; the rest is kept."""

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.domain.errors import InvalidField
from control_plane.domain.events import FUTURE_TOLERANCE_MS, EventKind, Label
from control_plane.evidence import bodies
from control_plane.evidence.arrow_size import unpacked_bytes
from control_plane.evidence.bodies import MAX_LINES, read_arrow_stream, read_ndjson
from control_plane.evidence.collect import MAX_DAYS, Receipt, collect
from control_plane.evidence.event_log import DAY_MS, EventLog
from control_plane.evidence.rows import SHOWN_REFUSALS
from tests.evidence.events import (
    START_MS,
    SURFACES,
    VERSIONS,
    a_shadow_score,
    an_engagement,
    an_exposure,
    arrow_body,
    ndjson_body,
    table_of,
)

NOW_MS = START_MS + 3_600_000


def send(log: EventLog, body: bytes, kind: EventKind | None) -> Receipt:
    return collect(log, body, kind, now_ms=NOW_MS, surfaces=SURFACES, known_versions=VERSIONS)


def exposures_with(field: str, value: object) -> pa.Table:
    """Three exposures, of which the middle one has `value` in `field`."""
    table = table_of(EventKind.EXPOSURE, [an_exposure(impression_id=number) for number in range(3)])
    return _with(table, field, value)


def engagements_with(field: str, value: object, **others: Any) -> pa.Table:
    events = [an_engagement(event_id=number, **others) for number in range(3)]
    return _with(table_of(EventKind.ENGAGEMENT, events), field, value)


def _with(table: pa.Table, field: str, value: object) -> pa.Table:
    values = table[field].to_pylist()
    values[1] = value
    place = table.schema.get_field_index(field)
    return table.set_column(place, field, pa.array(values, table.schema.field(field).type))


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("impression_id", None, "must not be null"),
        ("score", None, "must not be null"),
        ("view_type", None, "must not be null"),
        ("served_at_ms", -1, "must be 0 or more"),
        ("served_at_ms", -(2**63), "must be 0 or more"),
        ("served_at_ms", NOW_MS + FUTURE_TOLERANCE_MS + 1, "lies in the future"),
        ("served_at_ms", 2**63 - 1, "lies in the future"),
        ("surface", "shopping", "unknown"),
        ("surface", "", "unknown"),
        ("view_type", "carousel", "not of this surface"),
        ("arm", "shadow", "must be 'stable', 'candidate' or 'home'"),
        ("version_id", "f" * 16, "unknown"),
        ("generation", 0, "must be 1 or more"),
        ("generation", -5, "must be 1 or more"),
        ("score", float("nan"), "must be 0 to 1"),
        ("score", float("inf"), "must be 0 to 1"),
        ("score", -1e-9, "must be 0 to 1"),
        ("score", 1.0000001, "must be 0 to 1"),
    ],
)
def test_an_exposure_that_cannot_be_true_is_refused_and_its_neighbours_kept(
    tmp_path: Path, field: str, value: object, rule: str
) -> None:
    log = EventLog(tmp_path)

    receipt = send(log, arrow_body(exposures_with(field, value)), EventKind.EXPOSURE)

    assert (receipt.accepted, receipt.refused) == (2, 1)
    assert receipt.reasons == {f"{field}: {rule}": 1}
    assert [asdict(one) for one in receipt.first_refused] == [{"row": 1, "field": field, "rule": rule}]
    assert log.read(EventKind.EXPOSURE)["impression_id"].to_pylist() == [0, 2]


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("label", "purchase", "unknown"),
        ("occurred_at_ms", START_MS - 1, "lies before served_at_ms"),
        ("occurred_at_ms", NOW_MS + FUTURE_TOLERANCE_MS + 1, "lies in the future"),
        ("value", float("nan"), "must be 0 to 1e+09"),
        ("value", -1.0, "must be 0 to 1e+09"),
        ("value", 1e10, "must be 0 to 1e+09"),
        ("value", 2.0, "must be 1 for all but revenue"),
        ("event_id", None, "must not be null"),
    ],
)
def test_an_engagement_that_cannot_be_true_is_refused_and_its_neighbours_kept(
    tmp_path: Path, field: str, value: object, rule: str
) -> None:
    receipt = send(EventLog(tmp_path), arrow_body(engagements_with(field, value)), EventKind.ENGAGEMENT)

    assert (receipt.accepted, receipt.refused) == (2, 1)
    assert receipt.reasons == {f"{field}: {rule}": 1}


def test_revenue_may_have_any_value_and_clocks_may_run_a_little_ahead(tmp_path: Path) -> None:
    ahead_ms = NOW_MS + FUTURE_TOLERANCE_MS
    table = engagements_with("value", 12.5, label=Label.REVENUE, served_at_ms=ahead_ms, occurred_at_ms=ahead_ms)

    assert send(EventLog(tmp_path), arrow_body(table), EventKind.ENGAGEMENT).accepted == 3


def test_a_shadow_score_of_an_unknown_version_is_refused(tmp_path: Path) -> None:
    table = table_of(EventKind.SHADOW_SCORE, [a_shadow_score(), a_shadow_score(version_id="f" * 16)])

    receipt = send(EventLog(tmp_path), arrow_body(table), EventKind.SHADOW_SCORE)

    assert (receipt.accepted, receipt.reasons) == (1, {"version_id: unknown": 1})


def test_a_row_that_breaks_several_rules_is_counted_once(tmp_path: Path) -> None:
    bad = an_exposure(surface="shopping", score=7.0, generation=0, served_at_ms=-1)

    receipt = send(EventLog(tmp_path), arrow_body(table_of(EventKind.EXPOSURE, [bad])), EventKind.EXPOSURE)

    assert receipt.reasons == {"served_at_ms: must be 0 or more": 1}


def test_all_refusals_are_counted_but_only_the_first_are_shown(tmp_path: Path) -> None:
    bad = [an_exposure(score=2.0)] * (SHOWN_REFUSALS + 5)

    receipt = send(EventLog(tmp_path), arrow_body(table_of(EventKind.EXPOSURE, bad)), EventKind.EXPOSURE)

    assert (receipt.accepted, receipt.refused) == (0, SHOWN_REFUSALS + 5)
    assert [one.row for one in receipt.first_refused] == list(range(SHOWN_REFUSALS))


def test_a_body_sent_twice_is_accepted_twice(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    body = arrow_body(table_of(EventKind.EXPOSURE, [an_exposure()]))

    assert send(log, body, EventKind.EXPOSURE) == send(log, body, EventKind.EXPOSURE)


def test_a_stream_without_rows_is_fine(tmp_path: Path) -> None:
    body = arrow_body(table_of(EventKind.EXPOSURE, []))

    assert send(EventLog(tmp_path), body, EventKind.EXPOSURE).accepted == 0


WHOLE = arrow_body(table_of(EventKind.EXPOSURE, [an_exposure(impression_id=number) for number in range(100)]))


@pytest.mark.parametrize("length", [0, 1, 7, 8, 100, len(WHOLE) // 2, len(WHOLE) - 8, len(WHOLE) - 1])
def test_a_truncated_stream_is_refused_whole(tmp_path: Path, length: int) -> None:
    log = EventLog(tmp_path)

    with pytest.raises(InvalidField, match="body"):
        send(log, WHOLE[:length], EventKind.EXPOSURE)

    assert log.snapshot() == {}


@given(garbage=st.binary(max_size=300), ends_well=st.booleans())
@settings(max_examples=100, deadline=None)
def test_garbage_is_refused_whole(garbage: bytes, ends_well: bool) -> None:
    body = garbage + (b"\xff\xff\xff\xff\x00\x00\x00\x00" if ends_well else b"\x00")

    with pytest.raises(InvalidField):
        read_arrow_stream(body, EventKind.EXPOSURE)


@given(place=st.integers(0, len(WHOLE) - 9), value=st.integers(0, 255))
@settings(max_examples=150, deadline=None)
def test_a_damaged_stream_is_read_or_refused_but_never_crashes(place: int, value: int) -> None:
    body = WHOLE[:place] + bytes([value]) + WHOLE[place + 1 :]

    try:
        table = read_arrow_stream(body, EventKind.EXPOSURE).parts[EventKind.EXPOSURE].table
    except InvalidField:
        return
    table.validate(full=True)


def test_a_missing_column_is_refused_by_name() -> None:
    body = arrow_body(table_of(EventKind.EXPOSURE, [an_exposure()]).drop_columns(["score"]))

    with pytest.raises(InvalidField, match=r"^score: column is missing"):
        read_arrow_stream(body, EventKind.EXPOSURE)


@pytest.mark.parametrize(
    ("field", "column"),
    [
        ("impression_id", pa.array([1], pa.int64())),
        ("score", pa.array([0.5], pa.float32())),
        ("served_at_ms", pa.array([1.0])),
        ("surface", pa.array([7], pa.int64())),
        ("arm", pa.array([b"stable"], pa.binary())),
    ],
)
def test_a_column_of_another_type_is_refused_by_name(field: str, column: pa.Array) -> None:
    table = table_of(EventKind.EXPOSURE, [an_exposure()])
    table = table.set_column(table.schema.get_field_index(field), field, column)

    with pytest.raises(InvalidField, match=f"^{field}: must be a column of"):
        read_arrow_stream(arrow_body(table), EventKind.EXPOSURE)


def test_strings_may_be_dictionaries_and_unknown_columns_are_dropped(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    table = table_of(EventKind.EXPOSURE, [an_exposure()])
    for field in ("surface", "view_type", "arm", "version_id"):
        place = table.schema.get_field_index(field)
        table = table.set_column(place, field, table[field].dictionary_encode())
    table = table.append_column("experiment", pa.array(["x"]))

    assert send(log, arrow_body(table), EventKind.EXPOSURE).accepted == 1
    assert log.read(EventKind.EXPOSURE).to_pylist() == [asdict(an_exposure())]


def test_ndjson_rows_of_all_kinds_come_in_together(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    rows: list[dict[str, object]] = [
        {"kind": "exposure", **asdict(an_exposure(user_key=2**64 - 1))},
        {"kind": "engagement", **asdict(an_engagement())},
        {"kind": "shadow_score", **asdict(a_shadow_score())},
    ]

    receipt = send(log, ndjson_body(rows) + b"\n\n", None)

    assert (receipt.accepted, receipt.refused) == (3, 0)
    assert log.read(EventKind.EXPOSURE)["user_key"].to_pylist() == [2**64 - 1]


@pytest.mark.parametrize(
    ("line", "field", "rule"),
    [
        (b"{broken", "line", "is not JSON"),
        (b"[" * 100_000, "line", "is not JSON"),
        (b"\xff\xfe", "line", "is not JSON"),
        (b"[1]", "line", "must be a JSON object"),
        (b"{}", "kind", "must be one of exposure, shadow_score, engagement"),
        (b'{"kind": ["exposure"]}', "kind", "must be one of exposure, shadow_score, engagement"),
        (b'{"kind": "exposure"}', "impression_id", "is missing"),
    ],
)
def test_a_line_that_is_no_event_is_refused_and_its_neighbours_kept(
    tmp_path: Path, line: bytes, field: str, rule: str
) -> None:
    good = ndjson_body([{"kind": "exposure", **asdict(an_exposure())}])

    receipt = send(EventLog(tmp_path), good + b"\n" + line + b"\n" + good, None)

    assert (receipt.accepted, receipt.refused) == (2, 1)
    assert [asdict(one) for one in receipt.first_refused] == [{"row": 1, "field": field, "rule": rule}]


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("impression_id", 2**64, f"must be an integer from 0 to {2**64 - 1}"),
        ("impression_id", -1, f"must be an integer from 0 to {2**64 - 1}"),
        ("impression_id", 1.0, f"must be an integer from 0 to {2**64 - 1}"),
        ("impression_id", True, "must be a number"),
        ("impression_id", "1", "must be a number"),
        ("user_key", None, "must not be null"),
        ("score", 10**400, "must be a finite number"),
        ("score", float("nan"), "must be 0 to 1"),
        ("score", -(10**300), "must be 0 to 1"),
        ("surface", 5, "must be a string of printable characters"),
        ("surface", "\ud800", "must be a string of printable characters"),
        ("version_id", "nobody", "unknown"),
    ],
)
def test_ndjson_values_are_checked_like_any(tmp_path: Path, field: str, value: object, rule: str) -> None:
    good = {"kind": "exposure", **asdict(an_exposure())}
    rows = [good, {**good, field: value}, good]

    receipt = send(EventLog(tmp_path), ndjson_body(rows), None)

    assert (receipt.accepted, receipt.refused) == (2, 1)
    assert [asdict(one) for one in receipt.first_refused] == [{"row": 1, "field": field, "rule": rule}]


def test_an_integer_of_more_digits_than_python_reads_is_refused_by_itself(tmp_path: Path) -> None:
    good = json.dumps({"kind": "exposure", **asdict(an_exposure())}).encode()
    huge = good.replace(b'"impression_id": 1', b'"impression_id": ' + b"9" * 5_000)

    assert huge != good
    assert send(EventLog(tmp_path), huge + b"\n" + good, None).accepted == 1


@pytest.mark.parametrize("body", [b"", b"\n \n"])
def test_an_empty_ndjson_body_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidField, match="is empty"):
        read_ndjson(body)


def test_the_same_rows_fall_whatever_the_size_of_the_batch(tmp_path: Path) -> None:
    score_N = np.random.default_rng(1).uniform(-0.2, 1.2, 2_000)
    table = table_of(EventKind.EXPOSURE, [an_exposure(impression_id=n, score=s) for n, s in enumerate(score_N)])

    receipt = send(EventLog(tmp_path), arrow_body(table), EventKind.EXPOSURE)

    assert receipt.refused == int(((score_N < 0) | (score_N > 1)).sum())


def test_a_body_of_more_lines_than_any_batch_has_is_refused_before_they_are_read() -> None:
    with pytest.raises(InvalidField, match="lines; send it in smaller batches"):
        read_ndjson(b"\n" * (MAX_LINES + 1))


def test_a_body_that_would_scatter_files_over_the_years_is_refused_whole(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    events = [an_exposure(impression_id=day, served_at_ms=day * DAY_MS) for day in range(MAX_DAYS + 1)]

    with pytest.raises(InvalidField, match=r"^served_at_ms: spans 101 days"):
        send(log, arrow_body(table_of(EventKind.EXPOSURE, events)), EventKind.EXPOSURE)
    receipt = send(log, arrow_body(table_of(EventKind.EXPOSURE, events[1:])), EventKind.EXPOSURE)

    assert receipt.accepted == MAX_DAYS


def test_a_dictionary_whose_text_would_be_repeated_for_every_row_is_refused() -> None:
    table = table_of(EventKind.EXPOSURE, [an_exposure()] * 1_000)
    long = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1_000, np.int8)), pa.array(["x" * 1_000_000]))
    table = table.set_column(table.schema.get_field_index("surface"), "surface", long)

    with pytest.raises(InvalidField, match=r"^surface: holds a text of 1000000 bytes"):
        read_arrow_stream(arrow_body(table), EventKind.EXPOSURE)


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_a_compressed_stream_is_read(tmp_path: Path, compression: str) -> None:
    table = table_of(EventKind.EXPOSURE, [an_exposure(impression_id=number) for number in range(1_000)])
    packed = packed_body(table, compression)

    assert unpacked_bytes(packed) > len(packed)
    assert send(EventLog(tmp_path), packed, EventKind.EXPOSURE).accepted == 1_000


@pytest.mark.parametrize("as_dictionary", [False, True])
def test_a_few_bytes_that_would_unpack_to_more_than_fits_are_refused_without_unpacking(
    as_dictionary: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "MAX_UNPACKED_BYTES", 7_999_999)
    zeros: pa.Array = pa.array(np.zeros(1_000_000, np.uint64))
    if as_dictionary:
        zeros = pa.DictionaryArray.from_arrays(pa.array([0], pa.int8()), zeros)
    body = packed_body(pa.table({"impression_id": zeros}), "zstd")

    with pytest.raises(InvalidField, match=r"^body: unpacks to 80000\d\d bytes"):
        read_arrow_stream(body, EventKind.EXPOSURE)

    assert len(body) < 10_000


def packed_body(table: pa.Table, compression: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table)
    body: bytes = sink.getvalue().to_pybytes()
    return body


PACKED = packed_body(table_of(EventKind.EXPOSURE, [an_exposure(impression_id=number) for number in range(100)]), "zstd")


@given(place=st.integers(0, len(PACKED) - 9), value=st.integers(0, 255))
@settings(max_examples=150, deadline=None)
def test_a_damaged_compressed_stream_is_read_or_refused_but_never_crashes(place: int, value: int) -> None:
    body = PACKED[:place] + bytes([value]) + PACKED[place + 1 :]

    with suppress(InvalidField):
        read_arrow_stream(body, EventKind.EXPOSURE)
