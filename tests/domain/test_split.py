import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.domain.errors import InvalidSplit
from control_plane.domain.split import (
    FULL_TRAFFIC_BP,
    NUM_BUCKETS,
    Arm,
    Split,
    UserKey,
    bucket_of,
    slot_of,
    user_key,
)
from tests.builders import CANDIDATE, HOME_FEED, STABLE

VECTORS = json.loads(Path(__file__).with_name("split_vectors.json").read_text())
KEYS = st.integers(0, 2**64 - 1).map(UserKey)


def a_split(**overrides: object) -> Split:
    fields = {"surface": HOME_FEED, "generation": 1, "salt": "s", "stable": STABLE, "candidate": CANDIDATE}
    return Split(**{**fields, **overrides})  # type: ignore[arg-type]  # keyword overrides of mixed types


def test_slots_and_buckets_match_the_shared_vectors() -> None:
    for vector in VECTORS["slots"]:
        key = int(vector["user_key"])
        assert slot_of(key, vector["salt"]) == vector["slot"]
        assert bucket_of(key) == vector["bucket"]


def test_slots_match_a_second_implementation_written_from_the_contract() -> None:
    def slot_by_contract(key: int, salt: str) -> int:
        state = key ^ int.from_bytes(hashlib.sha256(salt.encode()).digest()[:8], "big")
        for shift, multiplier in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
            state = ((state ^ (state >> shift)) * multiplier) % 2**64
        return (state >> 32) * 10_000 // 2**32

    for vector in VECTORS["slots"]:
        assert slot_by_contract(int(vector["user_key"]), vector["salt"]) == vector["slot"]


def test_user_keys_match_the_shared_vectors() -> None:
    for vector in VECTORS["user_keys"]:
        key = user_key(vector["user_id"], secret=bytes.fromhex(vector["secret_hex"]))
        assert key == int(vector["user_key"])


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="16 to 64 bytes"):
        user_key("42", secret=b"short")


@given(st.lists(KEYS, min_size=1, max_size=50), st.text(max_size=20))
def test_arrays_and_scalars_agree(keys: list[UserKey], salt: str) -> None:
    array = np.array(keys, dtype=np.uint64)

    slots, buckets = slot_of(array, salt), bucket_of(array)

    assert slots.dtype == np.uint64
    assert slots.tolist() == [slot_of(key, salt) for key in keys]
    assert buckets.tolist() == [bucket_of(key) for key in keys]


@given(KEYS, st.integers(0, FULL_TRAFFIC_BP), st.integers(0, FULL_TRAFFIC_BP))
def test_growth_never_moves_a_user_out_of_the_candidate(key: UserKey, one: int, other: int) -> None:
    small, large = sorted((one, other))

    before, after = a_split(candidate_bp=small).arm_of(key), a_split(candidate_bp=large).arm_of(key)

    assert before is Arm.STABLE or after is Arm.CANDIDATE


@given(KEYS)
def test_everyone_is_stable_at_zero_and_candidate_at_full_traffic(key: UserKey) -> None:
    assert a_split(candidate_bp=0).arm_of(key) is Arm.STABLE
    assert a_split(candidate_bp=FULL_TRAFFIC_BP).arm_of(key) is Arm.CANDIDATE


@pytest.mark.parametrize("candidate_bp", [100, 500, 2_500, 5_000])
def test_shares_come_out_as_promised(candidate_bp: int) -> None:
    keys = np.random.default_rng(1).integers(0, 2**64, 400_000, dtype=np.uint64)

    share = float((slot_of(keys, "salt") < candidate_bp).mean())

    expected = candidate_bp / FULL_TRAFFIC_BP
    assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / keys.size) ** 0.5)


def test_buckets_are_even_and_independent_of_the_arm() -> None:
    keys = np.random.default_rng(2).integers(0, 2**64, 1_000_000, dtype=np.uint64)
    is_candidate = slot_of(keys, "salt") < 5_000

    table = np.array([np.bincount(bucket_of(keys[is_candidate == arm]).astype(np.int64)) for arm in (False, True)])

    assert table.shape == (2, NUM_BUCKETS)
    expected = table.sum(0) * table.sum(1, keepdims=True) / table.sum()
    chi_square = float(((table - expected) ** 2 / expected).sum())
    assert chi_square < NUM_BUCKETS - 1 + 5 * (2 * (NUM_BUCKETS - 1)) ** 0.5


def test_keys_that_count_up_spread_as_well_as_random_ones() -> None:
    shares = slot_of(np.arange(200_000, dtype=np.uint64), "salt") < 1_000

    assert float(shares.mean()) == pytest.approx(0.1, abs=0.003)


def test_a_split_survives_json() -> None:
    split = a_split(candidate_bp=250, shadow=CANDIDATE, shadow_sample_bp=10_000, unwatched_seconds_left=12.5)

    assert Split.from_json(json.loads(json.dumps(split.to_json()))) == split


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"weights_bp": {STABLE: 9_000, CANDIDATE: 999}}, "weights_bp"),
        ({"weights_bp": {STABLE: 10_000, "f" * 16: 0}}, "weights_bp." + "f" * 16),
        ({"weights_bp": {STABLE: 10_001, CANDIDATE: -1}}, "weights_bp." + CANDIDATE),
        ({"weights_bp": [10_000]}, "weights_bp"),
        ({"generation": 0}, "generation"),
        ({"generation": True}, "generation"),
        ({"stable": ""}, "stable"),
        ({"salt": None}, "salt"),
        ({"shadow_sample_bp": 10_001}, "shadow_sample_bp"),
        ({"unwatched_seconds_left": float("nan")}, "unwatched_seconds_left"),
        ({"unwatched_seconds_left": -1}, "unwatched_seconds_left"),
        ({"unwatched_seconds_left": "soon"}, "unwatched_seconds_left"),
    ],
)
def test_a_split_that_no_runtime_may_serve_is_refused_by_field(change: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidSplit) as refused:
        Split.from_json({**a_split(candidate_bp=100).to_json(), **change})

    assert refused.value.field == field


def test_weight_without_a_candidate_is_refused() -> None:
    with pytest.raises(InvalidSplit, match="candidate: is missing"):
        a_split(candidate=None, candidate_bp=1)
