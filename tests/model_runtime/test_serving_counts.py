"""What a real runtime counts while it serves real requests with real exports."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from control_plane.domain.latency import slower_than
from control_plane.domain.model_version import VersionId
from control_plane.domain.moments import FIXED_POINT, ServingCounts
from model_runtime.checkpoints import LoadedVersion
from model_runtime.networks.features import RowBatch
from tests.model_runtime.artifacts import POISONED_ITEM, Artifacts, sound_batch
from tests.model_runtime.conftest import eventually, running_control_plane, running_runtime, set_up_home_feed
from tests.model_runtime.test_server import INFER, Running, as_json, command, start_ramp, tensors_of

MAX_USERS = 16  # of one forward


@pytest.fixture
def running(artifacts: Artifacts, tmp_path: Path) -> Iterator[Running]:
    with running_control_plane(tmp_path / "control") as control_plane:
        set_up_home_feed(control_plane, artifacts)
        with (
            running_runtime(control_plane, tmp_path / "runtime", max_users_per_forward=MAX_USERS) as (engine, url),
            httpx.Client(base_url=url) as http,
            httpx.Client(base_url=control_plane) as control,
        ):
            eventually(lambda: http.get("/v2/health/ready").status_code == 200)
            yield Running(http=http, engine=engine, control_plane=control)


def send(running: Running, batch: RowBatch, *, times: int = 1, **parameters: int) -> None:
    for _ in range(times):
        running.http.post(INFER, json=as_json(tensors_of(batch), parameters=parameters)).raise_for_status()


def counted(running: Running, version_id: VersionId) -> ServingCounts:
    return running.engine.tally.counts()[version_id]


def few_users() -> RowBatch:
    return sound_batch(num_users=8, num_rows=40)


def test_requests_move_every_counter_of_sound_serving(running: Running, artifacts: Artifacts) -> None:
    send(running, few_users(), times=3)

    counts = counted(running, artifacts.stable.version_id)
    assert (counts.requests, counts.scores, counts.calls, counts.batches) == (24, 120, 3, 3)
    assert (counts.error_shares, counts.timeout_shares, counts.bad_score_shares, counts.split_batches) == (0, 0, 0, 0)
    assert (counts.rows, counts.users_encoded) == (120, 24)
    assert (sum(counts.latency_bins), counts.latency_us > 0) == (3, True)
    assert counts.gate_samples == counts.feature_samples == 3
    assert 0.5 < counts.gate_entropy / FIXED_POINT / 3 < 1  # untrained gates hardly choose
    assert (counts.features, counts.features_lost) == (8, 0)


def test_a_slow_model_moves_the_histogram(running: Running, artifacts: Artifacts) -> None:
    stable = running.engine.residency.get(artifacts.stable.version_id)
    assert isinstance(stable, LoadedVersion)
    send(running, few_users(), times=4)
    hook = stable.trunk.embedding.register_forward_pre_hook(lambda *_: time.sleep(0.08))
    send(running, few_users())
    hook.remove()

    counts = counted(running, artifacts.stable.version_id)
    assert slower_than(counts.latency_bins, 80.0).surely == 1
    assert counts.latency_us > 80_000


def test_a_batch_over_the_cap_on_users_is_counted_as_split(running: Running, artifacts: Artifacts) -> None:
    send(running, sound_batch(num_users=MAX_USERS, num_rows=40))
    send(running, sound_batch(num_users=MAX_USERS + 1, num_rows=40))

    counts = counted(running, artifacts.stable.version_id)
    assert (counts.batches, counts.split_batches) == (2, 1)
    assert counts.users_encoded == 2 * MAX_USERS + 1


def test_a_feature_that_training_had_and_callers_no_longer_send_is_lost(running: Running, artifacts: Artifacts) -> None:
    batch = few_users()
    batch.candidate_dense_ND[:, 0] = 0.0

    send(running, batch, times=30)

    counts = counted(running, artifacts.stable.version_id)
    assert (counts.features, counts.features_lost) == (8, 1)
    excess = (counts.feature_nulls - counts.feature_nulls_expected) / FIXED_POINT / counts.feature_samples
    assert excess == pytest.approx(1 / 8, abs=0.05)


def test_a_vocabulary_that_callers_outgrew_shows_as_nulls(running: Running, artifacts: Artifacts) -> None:
    batch = few_users()
    batch.user_categorical_UC[:] = 1_000

    send(running, batch)

    counts = counted(running, artifacts.stable.version_id)
    assert counts.feature_nulls / FIXED_POINT > 2 / 8


def test_bad_scores_of_a_candidate_are_counted_by_call(running: Running, artifacts: Artifacts) -> None:
    rollout_id = start_ramp(running, artifacts.poisoned.version_id)
    for name in ("start", "advance", "skip"):
        command(running, rollout_id, name)
    batch = sound_batch(num_users=MAX_USERS, num_rows=64)
    batch.candidate_categorical_NC[:, 0] = POISONED_ITEM

    send(running, batch, times=2)

    counts = counted(running, artifacts.poisoned.version_id)
    assert counts.calls == counts.batches == 2
    assert counts.error_shares == counts.bad_score_shares == 2 * FIXED_POINT
    assert counted(running, artifacts.stable.version_id).error_shares == 0


def test_a_shadow_counts_calls_but_no_batches_of_its_own(running: Running, artifacts: Artifacts) -> None:
    rollout_id = start_ramp(running, artifacts.candidate.version_id)
    for name in ("start", "advance"):
        command(running, rollout_id, name)

    send(running, few_users(), show=1)
    running.http.post("/v1/flush").raise_for_status()

    counts = counted(running, artifacts.candidate.version_id)
    assert (counts.calls, counts.scores, counts.gate_samples, counts.feature_samples) == (1, 8, 1, 1)
    assert (counts.batches, sum(counts.latency_bins), counts.rows) == (0, 0, 0)


def test_a_forward_that_takes_too_long_is_a_timeout_of_its_users(artifacts: Artifacts, tmp_path: Path) -> None:
    with running_control_plane(tmp_path / "control") as control_plane:
        set_up_home_feed(control_plane, artifacts)
        with (
            running_runtime(control_plane, tmp_path / "runtime", slow_forward_seconds=0.0) as (engine, url),
            httpx.Client(base_url=url, timeout=30) as http,
        ):
            eventually(lambda: http.get("/v2/health/ready").status_code == 200)
            http.post(INFER, json=as_json(tensors_of(few_users()))).raise_for_status()
            counts = engine.tally.counts()[artifacts.stable.version_id]

    assert (counts.timeouts, counts.timeout_shares) == (8, FIXED_POINT)


def test_counts_reach_prometheus_in_its_own_units(running: Running, artifacts: Artifacts) -> None:
    send(running, few_users(), times=2)

    samples = {
        (sample.name, sample.labels.get("le", "")): sample.value
        for family in text_string_to_metric_families(running.http.get("/metrics").text)
        for sample in family.samples
        if sample.labels.get("version") == artifacts.stable.version_id
    }
    counts = counted(running, artifacts.stable.version_id)
    name = "surefoot_runtime_scoring_seconds"
    assert samples[(f"{name}_bucket", "+Inf")] == samples[(f"{name}_count", "")] == 2
    assert samples[(f"{name}_sum", "")] == pytest.approx(counts.latency_us / 1e6)
    of_80_ms = [value for (each, le), value in samples.items() if each == f"{name}_bucket" and le == "0.08"]
    assert of_80_ms == [2 - slower_than(counts.latency_bins, 80.0).surely]
    assert samples[("surefoot_runtime_gate_entropy_sum", "")] == pytest.approx(counts.gate_entropy / FIXED_POINT)
    assert samples[("surefoot_runtime_gate_entropy_count", "")] == 2
    assert samples[("surefoot_runtime_users_encoded_total", "")] == 16
    assert samples[("surefoot_runtime_features_lost", "")] == 0


def test_the_control_plane_takes_a_heartbeat_with_all_of_it(running: Running) -> None:
    send(running, few_users())

    running.engine.heartbeat.beat()


def test_looking_at_a_call_changes_none_of_its_scores(running: Running, artifacts: Artifacts) -> None:
    stable = running.engine.residency.get(artifacts.stable.version_id)
    assert stable is not None
    batch = few_users()

    seen = stable.score(batch, observe=lambda *_: None)

    for task, score_N in stable.score(batch).items():
        np.testing.assert_array_equal(seen[task], score_N)
