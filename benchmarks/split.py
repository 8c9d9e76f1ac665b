"""How long it takes to assign users to arms, one by one and in arrays."""

import argparse
import time

import numpy as np

from benchmarks.report import median, report, spread
from control_plane.domain.model_version import Surface, VersionId
from control_plane.domain.split import Arm, Split, UserKey, slot_of

SPLIT = Split(
    surface=Surface("home_feed"),
    generation=7,
    salt="home_feed/rollout/1",
    stable=VersionId("a" * 16),
    candidate=VersionId("b" * 16),
    candidate_bp=2_500,
)
SCALARS = 20_000  # assignments a round
SEED = 20_260_303


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds = 5 if parser.parse_args().quick else 25
    keys_N = np.random.default_rng(SEED).integers(0, 2**64, 1_000_000, dtype=np.uint64)
    keys = [UserKey(key) for key in keys_N[:SCALARS].tolist()]
    scalar_us, million_per_s = [], []
    for _ in range(rounds):  # both sides in turn, so that a busy machine is busy for both
        started = time.perf_counter()
        arms = [SPLIT.arm_of(key) for key in keys]
        scalar_us.append((time.perf_counter() - started) / SCALARS * 1e6)
        started = time.perf_counter()
        is_candidate_N = slot_of(keys_N, SPLIT.salt) < SPLIT.candidate_bp
        million_per_s.append(len(keys_N) / (time.perf_counter() - started) / 1e6)
        assert [arm is Arm.CANDIDATE for arm in arms] == is_candidate_N[:SCALARS].tolist()
    figures = {"scalar_us": median(scalar_us), "vectorised_million_per_s": median(million_per_s)}
    ratio = figures["scalar_us"] * figures["vectorised_million_per_s"]
    report(
        "split",
        columns=("single-threaded", "median", f"spread of {rounds}"),
        rows=(
            ("one user, µs", f"{figures['scalar_us']:.3g}", spread(scalar_us)),
            ("array of 1 million, million/s", f"{figures['vectorised_million_per_s']:.3g}", spread(million_per_s)),
            ("array over one by one", f"{ratio:.3g}×", ""),
        ),
        figures=figures,
    )


if __name__ == "__main__":
    main()
