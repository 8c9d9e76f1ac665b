"""What each of the runtime's ways to score saves, beside the plain way to the same scores; one thread, on a CPU.

The two sides of a figure have one model and one input, are checked to give the same, and are timed in turn. Ratios
are of CPU time, so that what else the machine does is no part of them; the flips' milliseconds are wall time.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.report import median, report, spread
from benchmarks.scoring_run.bars import BARS
from benchmarks.scoring_run.flips import flips_ms
from benchmarks.scoring_run.model import World, world
from benchmarks.scoring_run.pairs import Comparison, Pair, in_turn
from benchmarks.scoring_run.parts import (
    ROWS,
    SHORT,
    fused_embedding,
    grouped_attention,
    routed_towers,
    user_encoder,
)
from benchmarks.scoring_run.requests import cross_request, whole_model
from benchmarks.scoring_run.shadow import ROWS as SHADOW_ROWS
from benchmarks.scoring_run.shadow import Shadowed, ShadowRounds

COLUMNS = ("figure", "what", "plain, CPU ms", "ours, CPU ms", "median", "spread", "by wall time", "target", "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    rounds: int
    seconds: float  # of each side in each round, or one call where that takes longer
    turns: int  # of each side with and without a shadow, in each round
    flips: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A figure, and what is told beside it."""

    figure: str
    value: float
    what: str
    cells: tuple[str, ...]


FULL = Size(rounds=7, seconds=0.15, turns=8, flips=1_000)
QUICK = Size(rounds=3, seconds=0.05, turns=6, flips=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    is_quick = parser.parse_args().quick
    size = QUICK if is_quick else FULL
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="surefoot-scoring-") as folder, world(Path(folder)) as made:
        lines = measure(made, size)
    print(f"{size.rounds} rounds of {size.seconds} s a side, {size.flips} flips; load {load:.1f} before it began\n")
    report(
        "scoring",
        columns=COLUMNS,
        rows=[(line.figure, line.what, *line.cells, *judged(line)) for line in lines],
        figures={**{line.figure: line.value for line in lines}, "is_quick": float(is_quick)},
    )


def measure(made: World, size: Size) -> list[Line]:
    lines = [compared(each, in_turn(each, rounds=size.rounds, seconds=size.seconds)) for each in comparisons(made)]
    lines += shadowed(ShadowRounds(made).run(rounds=size.rounds, turns=size.turns))
    return [*lines, flipped(flips_ms(made, flips=size.flips))]


def comparisons(made: World) -> list[Comparison]:
    """Those with a bar, and beside them where a way is at its weakest."""
    return [
        fused_embedding(),
        user_encoder(made, users=16, figure="user_dedup_ratio"),
        user_encoder(made, users=ROWS, figure="no_reuse_ratio"),
        whole_model(made, figure="whole_model_ratio"),
        whole_model(made, history=0.5, figure="whole_model_half_history_ratio"),
        cross_request(made),
        routed_towers(made),
        grouped_attention(made, users=16, figure="grouped_attention_ratio"),
        grouped_attention(
            made, users=16, shortest=SHORT / 2, longest=SHORT, figure="grouped_attention_short_history_ratio"
        ),
        grouped_attention(made, users=ROWS, figure="grouped_attention_no_reuse_ratio"),
    ]


def compared(comparison: Comparison, pairs: Sequence[Pair]) -> Line:
    ratios = [pair.ratio for pair in pairs]
    sides = ([pair.plain.cpu * 1e3 for pair in pairs], [pair.ours.cpu * 1e3 for pair in pairs])
    return Line(
        figure=comparison.figure,
        value=median(ratios),
        what=comparison.what,
        cells=(
            *(f"{median(each):.3g}" for each in sides),
            f"{median(ratios):.3g}×",
            spread(ratios),
            f"{median([pair.wall_ratio for pair in pairs]):.3g}×",
        ),
    )


def shadowed(rounds: Sequence[Shadowed]) -> list[Line]:
    """The shadow's share of a full score; and, beside it, that of the candidate's head on every row."""
    scored = median([each.scored * 1e3 for each in rounds])
    return [
        share_line(
            "head_only_shadow_share",
            f"shadow of a request of {SHADOW_ROWS} rows, over a full score",
            scored,
            [each.shadow * 1e3 for each in rounds],
            [each.share for each in rounds],
        ),
        share_line(
            "head_on_all_rows_share",
            f"another head on all {SHADOW_ROWS} rows, over a full score",
            scored,
            [each.head_on_all * 1e3 for each in rounds],
            [each.share_of_all_rows for each in rounds],
        ),
    ]


def share_line(figure: str, what: str, scored: float, ours: Sequence[float], shares: Sequence[float]) -> Line:
    cells = (f"{scored:.3g}", f"{median(ours):.3g}", f"{median(shares):.3g}", spread(shares), "")
    return Line(figure=figure, value=median(shares), what=what, cells=cells)


def flipped(took_ms: Sequence[float]) -> Line:
    p99 = median([float(np.quantile(took_ms, 0.99))])
    cells = ("", "", f"{p99:.3g} ms", spread(took_ms), "")
    return Line(figure="pointer_flip_p99_ms", value=p99, what=f"p99 of {len(took_ms)} flips beside a load", cells=cells)


def judged(line: Line) -> tuple[str, str]:
    """The target, and whether it is reached; nothing where there is none."""
    bar = BARS.get(line.figure)
    if bar is None:
        return "", ""
    verdict = "reached" if bar.reaches(line.value) else "missed" if bar.holds(line.value) else "BELOW THE FLOOR"
    return f"{'≤' if bar.is_most else '≥'} {bar.target:g}", verdict


if __name__ == "__main__":
    main()
