import importlib
import os
import subprocess
import sys
import zlib
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.domain.errors import InvalidMoments
from control_plane.domain.moments import Moments
from control_plane.domain.rollout import Phase
from control_plane.guardrails.judge import judge
from control_plane.guardrails.replay import MAGIC, pack, replay, unpack
from tests.guardrails.builders import a_health, a_judged_plan, a_stage, empty_moments, shadow_moments, simulated_moments


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), effect=st.floats(-0.3, 0.3), phase=st.sampled_from(list(Phase)))
def test_a_stored_verdict_replays_to_the_last_bit(seed: int, effect: float, phase: Phase) -> None:
    moments = simulated_moments(np.random.default_rng(seed), effect=effect, shares_bp=(100, 2_500))
    inputs = a_judged_plan(), a_stage(phase), moments, a_health(errors=3)

    assert replay(pack(*inputs)).to_json() == judge(*inputs).to_json()


def test_equal_inputs_are_equal_bytes() -> None:
    first, again = (
        pack(a_judged_plan(), a_stage(), simulated_moments(np.random.default_rng(1)), a_health()) for _ in range(2)
    )

    assert first == again


@pytest.mark.parametrize("moments", [shadow_moments(np.random.default_rng(1)), empty_moments()])
def test_what_is_unpacked_is_what_was_packed(moments: Moments) -> None:
    packed = pack(a_judged_plan(), a_stage(Phase.SHADOW), moments, a_health())

    inputs = unpack(packed)

    assert (inputs.plan, inputs.stage, inputs.health) == (a_judged_plan(), a_stage(Phase.SHADOW), a_health())
    for field in fields(Moments):
        np.testing.assert_array_equal(getattr(inputs.moments, field.name), getattr(moments, field.name))
    assert pack(inputs.plan, inputs.stage, inputs.moments, inputs.health) == packed


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\x80\x04K\x01.",
        MAGIC,
        MAGIC + b"not zlib",
        MAGIC + zlib.compress(b"\x00" * 40),
        MAGIC + zlib.compress((2).to_bytes(8, "big") + b"{}"),
        MAGIC + zlib.compress((2).to_bytes(8, "big") + b"[]"),
    ],
)
def test_damaged_inputs_are_refused(damaged: bytes) -> None:
    with pytest.raises(InvalidMoments):
        unpack(damaged)


def test_inputs_cut_short_are_refused() -> None:
    packed = pack(a_judged_plan(), a_stage(), simulated_moments(np.random.default_rng(1)), a_health())
    content = zlib.decompress(packed[len(MAGIC) :])

    with pytest.raises(InvalidMoments, match="damaged"):
        unpack(MAGIC + zlib.compress(content[:-8]))


def test_a_days_inputs_are_small_beside_the_sums_they_hold() -> None:
    moments = simulated_moments(np.random.default_rng(1), shares_bp=(100, 500, 2_500, 5_000))

    packed = pack(a_judged_plan(), a_stage(), moments, a_health())

    assert len(packed) < (moments.counts_MGSAK.nbytes + moments.values_MGSAK.nbytes) / 5


REPLAYER = """
import sys
from control_plane.guardrails.replay import replay
sys.stdout.write(replay(sys.stdin.buffer.read()).to_json())
"""


def vector_features() -> list[str]:
    """What numpy found on this processor beyond its baseline, and rounds logarithms by."""
    multiarray: Any = importlib.import_module("numpy._core._multiarray_umath")
    return [name for name in multiarray.__cpu_dispatch__ if multiarray.__cpu_features__[name]]


@pytest.mark.skipif(not vector_features(), reason="this processor has nothing that could be switched off")
def test_a_verdict_replays_the_same_on_a_processor_of_fewer_features() -> None:
    for seed in range(3):
        moments = simulated_moments(np.random.default_rng(seed), impressions=400_000, effect=-0.02 * seed)
        packed = pack(a_judged_plan(), a_stage(), moments, a_health())

        elsewhere = subprocess.run(
            [sys.executable, "-c", REPLAYER],
            input=packed,
            capture_output=True,
            check=True,
            env={**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(vector_features())},
        ).stdout.decode()

        assert elsewhere == judge(a_judged_plan(), a_stage(), moments, a_health()).to_json()
