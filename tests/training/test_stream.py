"""Streamed rows: the parts of the same rows in memory, each row once an epoch, bits that hold over a resume."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from control_plane.domain.errors import InvalidField
from control_plane.domain.model_version import Surface
from model_runtime.networks.features import IntArray
from model_runtime.training.cli import main
from model_runtime.training.data import FEATURES_FILE, IMPRESSIONS_FILE, Examples, read_examples
from model_runtime.training.resume import RESUME_FILE, Resume, identity_of
from model_runtime.training.stream import Stream, Streamed, open_stream
from model_runtime.training.train import train
from model_runtime.training.windows import in_memory, training_rates
from tests.networks.builders import SEARCH, a_rich_spec
from tests.training.builders import a_rich_config, rich_impressions
from tests.training.test_resume import Killed, all_bytes

ROWS, BUFFER, BATCH = 3_000, 600, 100


def write(folder: Path, table: pa.Table, *, files: int = 3, row_group_rows: int = 150) -> Path:
    """A folder of several Parquet files with several row groups each."""
    (folder / IMPRESSIONS_FILE).mkdir(parents=True)
    for index in range(files):
        first, end = (round(table.num_rows * place / files) for place in (index, index + 1))
        part = table.slice(first, end - first)
        pq.write_table(part, folder / IMPRESSIONS_FILE / f"part-{index}.parquet", row_group_size=row_group_rows)
    (folder / FEATURES_FILE).write_text(json.dumps(a_rich_spec().to_json()))
    return folder


def shuffled_with_ties(num_rows: int = ROWS) -> pa.Table:
    """Not in the order of time, and many rows at the same time."""
    rng = np.random.default_rng(5)
    table = rich_impressions(num_rows)
    when_N = rng.integers(0, num_rows // 40, num_rows) * 1_000
    return table.set_column(table.column_names.index("served_at_ms"), "served_at_ms", pa.array(when_N))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "data", shuffled_with_ties())


def a_stream(folder: Path) -> Stream:
    return open_stream(folder, buffer_rows=BUFFER)


def names_of(examples: Examples, row_M: IntArray) -> list[tuple[float, ...]]:
    """Rows by what they hold, whose places differ."""
    dense_MD = examples.rows.candidate_dense_ND[row_M]
    return [tuple(row) for row in dense_MD.tolist()]


def held_parts(split: Streamed, surface: Surface) -> dict[str, Counter[tuple[float, ...]]]:
    found: dict[str, Counter[tuple[float, ...]]] = {
        name: Counter() for name in ("training", "calibration", "evaluation")
    }
    for window in split.windows(has_training=True, has_held_out=True):
        for name, counter in found.items():
            counter.update(names_of(window.examples, getattr(window.parts[surface], name)))
    return found


def test_the_parts_are_those_of_the_same_rows_in_memory(data: Path) -> None:
    whole = read_examples(data)
    memory, split = in_memory(whole, 0.2), a_stream(data).split(0.2)

    assert split.sizes == memory.sizes
    for surface, parts in memory.parts.items():
        streamed = held_parts(split, surface)
        for name, found in streamed.items():
            assert found == Counter(names_of(whole, getattr(parts, name))), (surface, name)


def test_rates_of_training_rows_are_those_in_memory(data: Path) -> None:
    memory = training_rates(in_memory(read_examples(data), 0.2))
    streamed = training_rates(a_stream(data).split(0.2))

    for surface, rates in memory.items():
        for one, other in zip(rates, streamed[surface], strict=True):
            np.testing.assert_allclose(one, other)


def test_every_training_row_comes_once_an_epoch_in_another_order_and_no_other_row(data: Path) -> None:
    split = a_stream(data).split(0.2)
    orders: list[list[tuple[float, ...]]] = [[], []]

    per_epoch = split.steps_an_epoch(BATCH)
    for index, step in enumerate(split.steps(BATCH, 2, seed=0, done=0)):
        row_M = np.concatenate(list(step.rows.values()))
        orders[index // per_epoch] += names_of(step.examples, row_M)
        assert all(len(rows) for rows in step.rows.values()), "every surface in every step"
        assert abs(len(row_M) - BATCH) < BATCH / 2

    expected = sum((held_parts(split, surface)["training"] for surface in split.spec.surfaces), Counter())
    assert Counter(orders[0]) == Counter(orders[1]) == expected
    assert orders[0] != orders[1]


@pytest.mark.parametrize("done", [1, 7, 23, 24, 40])
def test_steps_that_were_done_are_passed_over(data: Path, done: int) -> None:
    split = a_stream(data).split(0.2)

    whole = [names_of(each.examples, each.rows[SEARCH]) for each in split.steps(BATCH, 2, seed=1, done=0)]
    rest = [names_of(each.examples, each.rows[SEARCH]) for each in split.steps(BATCH, 2, seed=1, done=done)]

    assert len(whole) == 2 * split.steps_an_epoch(BATCH)
    assert rest == whole[done:]


@pytest.mark.parametrize("killed_after", [2, 25])
def test_a_streamed_run_that_was_stopped_ends_in_the_same_bits(data: Path, tmp_path: Path, killed_after: int) -> None:
    config = a_rich_config(batch_rows=BATCH, epochs=2, steps=30)
    resume = Resume(path=tmp_path / RESUME_FILE, identity=identity_of(a_stream(data), config), every_steps=1)

    def progress(step: int, steps: int, loss: float) -> None:
        if step == killed_after:
            raise Killed

    with pytest.raises(Killed):
        train(a_stream(data), config, progress=progress, resume=resume)
    resumed, whole = train(a_stream(data), config, resume=resume), train(a_stream(data), config)

    assert all_bytes(resumed) == all_bytes(whole)
    assert resumed.metrics == whole.metrics


def test_a_state_of_other_files_is_refused(data: Path, tmp_path: Path) -> None:
    before = identity_of(a_stream(data), "config")

    write(tmp_path / "other", rich_impressions(ROWS, seed=1))

    assert identity_of(a_stream(data), "config") == before
    assert identity_of(a_stream(tmp_path / "other"), "config") != before
    assert identity_of(open_stream(data, buffer_rows=2 * BUFFER), "config") != before


def test_held_out_rows_are_scored_as_in_memory(data: Path) -> None:
    config = a_rich_config(batch_rows=BATCH, steps=3)

    streamed, memory = train(a_stream(data), config), train(read_examples(data), config)

    for surface in streamed.spec.surfaces:
        assert streamed.golden[surface].num_rows == memory.golden[surface].num_rows
        for one, other in zip(_rows(streamed.metrics), _rows(memory.metrics), strict=True):
            assert one == other


def _rows(metrics: object) -> list[tuple[object, object]]:
    assert isinstance(metrics, dict)
    return [(group["rows"], group["clicks"]) for groups in metrics["held_out"].values() for group in groups.values()]


def test_filters_hold_for_streams_too(data: Path) -> None:
    split = open_stream(data, before_ms=30_000, surfaces=["search"], buffer_rows=BUFFER).split(0.2)

    expected = in_memory(read_examples(data, before_ms=30_000, surfaces=["search"]), 0.2)
    assert split.sizes == expected.sizes
    assert list(split.sizes) == ["search"]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("view_type", "banner", r"part-1.parquet, row group 2, row 7: view_type: must be one of .* not 'banner'"),
        (
            "candidate_dense",
            [1.0, float("inf")],
            r"part-1.parquet, row group 2, row 7: candidate_dense: must be finite",
        ),
        ("user_categorical", [1], r"part-1.parquet, row group 2, row 7: user_categorical: must hold 2 values, not 1"),
        ("click", None, r"part-1.parquet, row group 2, row 7: click: must not be null"),
    ],
)
@pytest.mark.parametrize("streamed", [True, False])
def test_what_is_wrong_is_named_by_file_row_group_row_and_column(
    column: str, value: object, message: str, streamed: bool, tmp_path: Path
) -> None:
    table = rich_impressions(900)
    values = table[column].to_pylist()
    values[300 + 2 * 50 + 7] = value
    kind = table.schema.field(column).type
    broken = table.set_column(table.column_names.index(column), column, pa.array(values, kind))
    write(tmp_path / "data", broken, files=3, row_group_rows=50)

    config = a_rich_config(steps=1)
    with pytest.raises(InvalidField, match=message):
        train(a_stream(tmp_path / "data") if streamed else read_examples(tmp_path / "data"), config)


def test_a_file_without_a_column_or_cut_short_is_named(tmp_path: Path) -> None:
    table = rich_impressions(900)
    folder = write(tmp_path / "data", table)
    pq.write_table(table.drop_columns(["click"]), folder / IMPRESSIONS_FILE / "part-1.parquet")
    with pytest.raises(InvalidField, match=r"part-1\.parquet: click: is missing; the columns are surface"):
        train(a_stream(folder), a_rich_config(steps=1))

    whole = (folder / IMPRESSIONS_FILE / "part-2.parquet").read_bytes()
    (folder / IMPRESSIONS_FILE / "part-1.parquet").write_bytes(whole[:-100])
    with pytest.raises(InvalidField, match=r"part-1\.parquet: is not Parquet"):
        a_stream(folder)
    for part in (folder / IMPRESSIONS_FILE).iterdir():
        part.unlink()
    with pytest.raises(InvalidField, match=r"is a folder without \*\.parquet files"):
        a_stream(folder)


def test_the_command_streams_where_it_is_told_to(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["train", "--data", str(data), "--steps", "2", "--stream", "always", "--buffer-rows", "600"]

    assert main([*options, "--out", str(tmp_path / "out")]) == 0

    printed = capsys.readouterr()
    assert "finding the latest rows: 21 of 21 row groups" in printed.err
    assert "trained on" in printed.out


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    peaks = {}
    for rows in (100_000, 1_000_000):
        folder = tmp_path / str(rows)
        assert main(["generate", "--out", str(folder), "--rows", str(rows)]) == 0
        options = ["--data", str(folder), "--steps", "40", "--stream", "always", "--buffer-rows", "50000"]
        peaks[rows] = _peak_mb(["train", *options, "--out", str(folder / "out"), "--threads", "1"])

    assert peaks[1_000_000] < 1.15 * peaks[100_000], peaks


def _peak_mb(arguments: list[str]) -> float:
    """Of a process of its own."""
    script = "import resource, sys; from model_runtime.__main__ import main; assert main(sys.argv[1:]) == 0; "
    script += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script, *arguments], check=True, capture_output=True, text=True)
    return float(done.stderr.splitlines()[-1])
