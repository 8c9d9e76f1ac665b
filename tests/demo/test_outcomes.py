import numpy as np
import pyarrow as pa

from control_plane.demo.outcomes import MAX_DELAY_MS, Outcomes, arrow_stream
from control_plane.demo.scoring_client import Shown
from control_plane.demo.traffic import Requests, simulated_requests
from tests.demo.contexts import some_contexts

SERVED_AT_MS = 1_000_000


def shown_to(requests: Requests) -> Shown:
    size = requests.size
    return Shown(
        click_N=np.full(size, 0.5, np.float32),
        arm_U=np.zeros(size, np.int64),
        shown_row_U=np.arange(size),
        impression_id_U=np.arange(size, dtype=np.uint64) + np.uint64(77),
    )


def some_outcomes(size: int = 1_000) -> tuple[Outcomes, Requests]:
    requests = simulated_requests(
        some_contexts(), size, served_at_ms=SERVED_AT_MS, rng=np.random.default_rng(1), candidates=1
    )
    outcomes = Outcomes(rng=np.random.default_rng(2))
    outcomes.add(requests, shown_to(requests), np.ones(size, bool))
    return outcomes, requests


def test_each_click_is_reported_once_and_not_before_it_happened() -> None:
    outcomes, _ = some_outcomes()
    half_time = SERVED_AT_MS + 4 * 60_000

    early, late = outcomes.happened_by(half_time), outcomes.happened_by(SERVED_AT_MS + MAX_DELAY_MS)

    assert early is not None
    assert late is not None
    assert max(early["occurred_at_ms"].to_pylist()) <= half_time < min(late["occurred_at_ms"].to_pylist())
    assert sorted(early["event_id"].to_pylist() + late["event_id"].to_pylist()) == list(range(77, 1_077))
    assert outcomes.happened_by(SERVED_AT_MS + MAX_DELAY_MS) is None


def test_a_click_carries_its_impressions_user_and_time() -> None:
    outcomes, requests = some_outcomes()

    table = outcomes.happened_by(SERVED_AT_MS + MAX_DELAY_MS)

    assert table is not None
    assert table["user_key"].to_pylist() == requests.user_key_U.tolist()
    assert set(table["served_at_ms"].to_pylist()) == {SERVED_AT_MS}


def test_an_arrow_stream_reads_back_as_the_same_table() -> None:
    outcomes, _ = some_outcomes(10)
    table = outcomes.happened_by(SERVED_AT_MS + MAX_DELAY_MS)
    assert table is not None

    with pa.ipc.open_stream(arrow_stream(table)) as reader:
        assert reader.read_all().equals(table)
