"""Reading a data set: columns become arrays, equal users become one, and what is wrong is named."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from control_plane.domain.errors import InvalidField
from model_runtime.training.data import FEATURES_FILE, IMPRESSIONS_FILE, examples_of, read_examples
from tests.networks.builders import a_spec
from tests.training.builders import impressions


def with_column(table: pa.Table, name: str, values: object) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


def test_each_row_keeps_its_own_features_and_labels() -> None:
    table = impressions(200)

    examples = examples_of(a_spec(), table)

    for row in (0, 57, 199):
        logged = table.slice(row, 1).to_pylist()[0]
        user = examples.rows.user_index_N[row]
        history = [*logged["history"], 0, 0, 0, 0, 0][:5]
        assert examples.spec.surfaces[examples.surface_N[row]] == logged["surface"]
        assert examples.spec.view_types[logged["surface"]][examples.rows.view_type_N[row]] == logged["view_type"]
        assert examples.rows.user_categorical_UC[user].tolist() == logged["user_categorical"]
        assert examples.rows.history_UL[user].tolist() == history
        assert examples.rows.candidate_categorical_NC[row].tolist() == logged["candidate_categorical"]
        assert examples.rows.candidate_dense_ND[row].tolist() == pytest.approx(logged["candidate_dense"])
        assert examples.label_NT[row, 0] == logged["click"]
        assert np.isnan(examples.label_NT[row, 2])


def test_users_with_equal_features_become_one() -> None:
    table = impressions(100)
    table = with_column(table, "history", pa.array([[3]] * 100, pa.list_(pa.int64())))
    table = with_column(table, "user_categorical", pa.array([[1, 1]] * 100, pa.list_(pa.int64())))

    examples = examples_of(a_spec(), table)

    assert examples.rows.num_users == 2  # their dense feature is 0 or 1
    batch = examples.batch(np.array([0, 2, 4]))
    assert batch.num_users == 1
    assert batch.num_rows == 3


def test_a_batch_holds_only_the_users_of_its_rows() -> None:
    examples = examples_of(a_spec(), impressions(100))
    row_M = np.array([70, 3, 70])

    batch = examples.batch(row_M)

    assert batch.num_users == 2
    found, expected = batch.user_index_N, examples.rows.user_index_N[row_M]
    np.testing.assert_array_equal(batch.history_UL[found], examples.rows.history_UL[expected])


def test_lists_of_other_widths_of_integers_and_floats_are_read() -> None:
    table = impressions(20)
    narrow = with_column(table, "user_dense", table["user_dense"].cast(pa.list_(pa.float64())))
    fixed = with_column(narrow, "candidate_categorical", narrow["candidate_categorical"].cast(pa.list_(pa.int32(), 2)))

    examples = examples_of(a_spec(), fixed)

    assert examples.rows.user_dense_UD.dtype == np.float32
    np.testing.assert_array_equal(
        examples.rows.candidate_categorical_NC, examples_of(a_spec(), table).rows.candidate_categorical_NC
    )


def test_a_data_set_without_the_optional_labels_is_read() -> None:
    examples = examples_of(a_spec(), impressions(20).drop_columns(["good_click", "hide"]))

    assert np.isnan(examples.label_NT[:, 1:]).all()


def test_only_what_was_served_before_a_time_can_be_read(tmp_path: Path) -> None:
    pq.write_table(impressions(100), tmp_path / IMPRESSIONS_FILE)
    (tmp_path / FEATURES_FILE).write_text(json.dumps(a_spec().to_json()))

    assert read_examples(tmp_path).num_rows == 100
    assert read_examples(tmp_path, before_ms=30_000).num_rows == 30
    with pytest.raises(InvalidField, match="must hold at least one row"):
        read_examples(tmp_path, before_ms=0)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("surface", "shop", r"surface\[0\]: must be one of home_feed, search, not 'shop'"),
        ("surface", None, r"surface\[0\]: must be one of home_feed, search, not None"),
        ("view_type", "banner", r"view_type\[\d\]: must be one of"),
        ("served_at_ms", "today", "served_at_ms: must be int64, not string"),
        ("user_categorical", [1], r"user_categorical\[0\]: must hold 2 values, not 1"),
        ("user_categorical", 1, "user_categorical: must be lists of int64, not int64"),
        ("candidate_dense", [1.0, None], r"candidate_dense\[0\]: must not hold null"),
        ("candidate_dense", [1.0, float("nan")], r"candidate_dense\[0\]: must be finite"),
        ("history", None, "history: must be lists of int64"),
        ("click", 1, "click: must be bool, not int64"),
        ("click", None, r"click\[0\]: must not be null"),
    ],
)
def test_a_malformed_column_is_refused_by_field_and_rule(name: str, value: object, rule: str) -> None:
    table = impressions(20)

    with pytest.raises(InvalidField, match=rule):
        examples_of(a_spec(), with_column(table, name, pa.array([value] * 20)))


def test_a_missing_column_or_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidField, match="click: is missing; the columns are surface"):
        examples_of(a_spec(), impressions(20).drop_columns(["click"]))
    with pytest.raises(InvalidField, match=r"features\.json: cannot be read"):
        read_examples(tmp_path)
    (tmp_path / FEATURES_FILE).write_text(json.dumps(a_spec().to_json()))
    with pytest.raises(InvalidField, match=r"impressions\.parquet: cannot be read"):
        read_examples(tmp_path)
    (tmp_path / IMPRESSIONS_FILE).write_text("surface,click")
    with pytest.raises(InvalidField, match=r"impressions\.parquet: is not Parquet"):
        read_examples(tmp_path)
