import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from control_plane.domain.events import EventKind
from control_plane.domain.model_version import ViewType
from model_runtime.event_sink import MERGE_AT, EventSink
from model_runtime.impressions import ImpressionIds, Impressions
from tests.builders import STABLE
from tests.model_runtime.artifacts import Artifact, Artifacts, a_split, some_keys
from tests.model_runtime.conftest import (
    NOWHERE,
    eventually,
    free_port,
    now_ms,
    running_control_plane,
    set_up_home_feed,
)
from tests.networks.builders import HOME_FEED

VIEW_TYPES = (ViewType("grid"), ViewType("closeup"))


@contextmanager
def sink_to(url: str, *, max_rows: int = 1_000) -> Iterator[EventSink]:
    sink = EventSink(url, max_rows=max_rows)
    sink.start()
    try:
        yield sink
    finally:
        sink.stop(0.0)


def some_impressions(count: int) -> Impressions:
    return Impressions(
        surface=HOME_FEED,
        generation=1,
        served_at_ms=now_ms(),
        view_types=VIEW_TYPES,
        impression_id_S=ImpressionIds().take(count),
        user_key_S=some_keys(count),
        view_type_S=np.arange(count) % 2,
    )


def some_exposures(count: int, artifacts: Artifacts | None = None, *, score: float = 0.5) -> pa.RecordBatch:
    stable = Artifact(folder=Path(), version_id=STABLE) if artifacts is None else artifacts.stable
    split = a_split(stable)
    return some_impressions(count).exposures(split, np.zeros(count, np.int64), np.full(count, score, np.float32))


def test_events_arrive_and_are_counted(control_plane: str, artifacts: Artifacts) -> None:
    set_up_home_feed(control_plane, artifacts)
    with sink_to(control_plane) as sink:
        sink.put(EventKind.EXPOSURE, some_exposures(30, artifacts))
        sink.put(EventKind.EXPOSURE, some_exposures(20, artifacts))
        shadow_scores = some_impressions(10).shadow_scores(artifacts.candidate.version_id, np.full(10, 0.5, np.float32))
        sink.put(EventKind.SHADOW_SCORE, shadow_scores)

        assert sink.flush(20.0)

        assert sink.counts().accepted == 60


def test_rows_that_the_control_plane_refuses_are_counted_and_the_rest_kept(
    control_plane: str, artifacts: Artifacts, caplog: pytest.LogCaptureFixture
) -> None:
    set_up_home_feed(control_plane, artifacts)
    with caplog.at_level(logging.CRITICAL, "model_runtime.event_sink"), sink_to(control_plane) as sink:
        sink.put(EventKind.EXPOSURE, some_exposures(3, artifacts))
        sink.put(EventKind.EXPOSURE, some_exposures(2, artifacts, score=float("nan")))

        assert sink.flush(20.0)

        assert (sink.counts().accepted, sink.counts().refused) == (3, 2)


def test_a_body_that_the_control_plane_refuses_whole_blocks_nothing_behind_it(
    control_plane: str, artifacts: Artifacts, caplog: pytest.LogCaptureFixture
) -> None:
    set_up_home_feed(control_plane, artifacts)
    with caplog.at_level(logging.CRITICAL, "model_runtime.event_sink"), sink_to(control_plane) as sink:
        sink.put(EventKind.ENGAGEMENT, some_exposures(4, artifacts))
        sink.put(EventKind.EXPOSURE, some_exposures(3, artifacts))

        assert sink.flush(20.0)

        assert (sink.counts().accepted, sink.counts().refused) == (3, 4)


def test_events_wait_for_a_control_plane_that_is_away(tmp_path: Path, artifacts: Artifacts) -> None:
    port = free_port()
    with sink_to(f"http://127.0.0.1:{port}") as sink:
        sink.put(EventKind.EXPOSURE, some_exposures(5, artifacts))
        eventually(lambda: sink.counts().failed_posts > 0)
        assert sink.counts().buffered == 5

        with running_control_plane(tmp_path / "control", port=port) as url:
            set_up_home_feed(url, artifacts)

            assert sink.flush(20.0)

    assert sink.counts().buffered == 0


def test_what_does_not_fit_is_dropped_and_counted() -> None:
    with sink_to(NOWHERE, max_rows=10) as sink:
        for _ in range(3):
            sink.put(EventKind.EXPOSURE, some_exposures(4))

        assert (sink.counts().buffered, sink.counts().dropped) == (8, 4)


def test_a_flush_waits_for_every_kind_though_they_come_in_turns(control_plane: str, artifacts: Artifacts) -> None:
    set_up_home_feed(control_plane, artifacts)
    with sink_to(control_plane) as sink:
        for _ in range(5):
            impressions = some_impressions(2)
            shadow_scores = impressions.shadow_scores(artifacts.candidate.version_id, np.full(2, 0.5, np.float32))
            sink.put(EventKind.EXPOSURE, some_exposures(2, artifacts))
            sink.put(EventKind.SHADOW_SCORE, shadow_scores)

        assert sink.flush(20.0)

        assert (sink.counts().accepted, sink.counts().buffered) == (20, 0)


def test_a_batch_without_rows_holds_nothing_up(control_plane: str, artifacts: Artifacts) -> None:
    set_up_home_feed(control_plane, artifacts)
    with sink_to(control_plane) as sink:
        sink.put(EventKind.EXPOSURE, some_exposures(0, artifacts))
        sink.put(EventKind.EXPOSURE, some_exposures(3, artifacts))

        assert sink.flush(20.0)

        assert sink.counts().accepted == 3


def test_a_flush_that_cannot_be_done_in_time_says_so() -> None:
    with sink_to(NOWHERE) as sink:
        sink.put(EventKind.EXPOSURE, some_exposures(4))

        assert not sink.flush(0.05)


def test_what_a_stopped_sink_could_not_send_counts_as_dropped() -> None:
    with sink_to(NOWHERE) as sink:
        sink.put(EventKind.EXPOSURE, some_exposures(4))

    assert (sink.counts().buffered, sink.counts().dropped) == (0, 4)


def test_impression_ids_do_not_repeat_and_do_not_count_up() -> None:
    ids = ImpressionIds()

    first, second = ids.take(1_000), ids.take(1_000)

    assert len({*first.tolist(), *second.tolist()}) == 2_000
    assert not (np.diff(first.astype(np.float64)) > 0).all()


def test_events_of_single_impressions_take_little_memory_while_the_control_plane_is_away() -> None:
    before = pa.total_allocated_bytes()
    with sink_to(NOWHERE, max_rows=100_000) as sink:
        for _ in range(2_000):
            sink.put(EventKind.EXPOSURE, some_exposures(1))

        assert sink.counts().buffered == 2_000
        assert sum(len(waiting) for waiting in sink._buffers.values()) < 2 * MERGE_AT
    assert pa.total_allocated_bytes() - before < 2_000 * 1_024


def test_merged_batches_arrive_whole_and_a_flush_waits_for_them(
    control_plane: str, artifacts: Artifacts, tmp_path: Path
) -> None:
    set_up_home_feed(control_plane, artifacts)
    sink = EventSink(control_plane, max_rows=10_000)
    for _ in range(3 * MERGE_AT + 7):
        sink.put(EventKind.EXPOSURE, some_exposures(2, artifacts))
    sink.start()

    assert sink.flush(20.0)

    assert (sink.counts().accepted, sink.counts().buffered) == (2 * (3 * MERGE_AT + 7), 0)
    sink.stop(0.0)


def test_a_batch_that_cannot_be_sent_does_not_end_the_sending(
    control_plane: str, artifacts: Artifacts, caplog: pytest.LogCaptureFixture
) -> None:
    set_up_home_feed(control_plane, artifacts)
    with caplog.at_level(logging.CRITICAL, "model_runtime.event_sink"), sink_to(control_plane) as sink:
        sink.put(EventKind.EXPOSURE, some_exposures(3, artifacts))
        sink.put(EventKind.EXPOSURE, pa.RecordBatch.from_pydict({"other": pa.array([1, 2])}))
        assert sink.flush(20.0)

        sink.put(EventKind.EXPOSURE, some_exposures(4, artifacts))
        assert sink.flush(20.0)

        assert (sink.counts().accepted, sink.counts().buffered) == (4, 0)
