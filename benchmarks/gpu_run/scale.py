"""How much is measured: the whole, less of it, or so little that only the code is tried."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """`table_rows` of each of the features' vocabularies, `look_up_rows` of a batch; `matrix` is the side of a square
    matrix, `dense_rows` of the dense part; `calls` of each whole request, `large_rows` of the largest one.
    """

    rounds: int
    copy_bytes: int
    table_rows: int
    look_up_rows: int
    matrix: int
    dense_rows: int
    calls: int
    large_rows: int


FULL = Scale(
    rounds=50,
    copy_bytes=1 << 30,
    table_rows=400_000,
    look_up_rows=65_536,
    matrix=8_192,
    dense_rows=32_768,
    calls=400,
    large_rows=65_536,
)
QUICK = Scale(
    rounds=15,
    copy_bytes=1 << 28,
    table_rows=100_000,
    look_up_rows=32_768,
    matrix=4_096,
    dense_rows=16_384,
    calls=60,
    large_rows=16_384,
)
TINY = Scale(
    rounds=2,
    copy_bytes=1 << 16,
    table_rows=100,
    look_up_rows=64,
    matrix=64,
    dense_rows=64,
    calls=3,
    large_rows=256,
)
