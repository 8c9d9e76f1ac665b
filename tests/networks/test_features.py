"""The feature contract: what a batch must keep, and what its signature depends on."""

import json
from dataclasses import replace

import numpy as np
import pytest

from control_plane.domain.errors import InvalidField, UnknownName
from control_plane.domain.model_version import Surface, ViewType
from model_runtime.networks.features import FeatureSpec, RowBatch, check_batch
from tests.networks.builders import HOME_FEED, SEARCH, a_batch, a_spec

SOUND = a_batch()


def test_a_spec_survives_its_json() -> None:
    spec = a_spec()

    assert FeatureSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_a_signature_depends_on_the_features_and_on_no_other_surface() -> None:
    spec = a_spec()
    without_search = replace(spec, view_types={HOME_FEED: spec.view_types[HOME_FEED]})
    wider = replace(spec, user_categorical=(("age", 5), ("country", 6)))

    assert without_search.signature(HOME_FEED) == spec.signature(HOME_FEED)
    assert wider.signature(HOME_FEED) != spec.signature(HOME_FEED)
    assert spec.signature(SEARCH) != spec.signature(HOME_FEED)


def test_an_unknown_surface_is_named_with_the_known_ones() -> None:
    with pytest.raises(UnknownName, match=r"surface 'shop'; known: home_feed, search"):
        a_spec().signature(Surface("shop"))


def test_a_sound_batch_passes_unchanged() -> None:
    checked = check_batch(a_spec(), HOME_FEED, SOUND)

    for field in RowBatch.__slots__:
        np.testing.assert_array_equal(getattr(checked, field), getattr(SOUND, field))


def test_categories_outside_the_vocabulary_become_unknown() -> None:
    batch = a_batch(num_users=1, num_rows=2)
    candidate_categorical_NC = np.array([[20, 4], [-1, 1]])
    history_UL = np.array([[3, 20, -7, 19, 0]])

    checked = check_batch(
        a_spec(),
        HOME_FEED,
        replace(batch, candidate_categorical_NC=candidate_categorical_NC, history_UL=history_UL),
    )

    assert checked.candidate_categorical_NC.tolist() == [[0, 4], [0, 1]]
    assert checked.history_UL.tolist() == [[3, 0, 0, 19, 0]]


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("user_index_N", np.full(12, 4), r"user_index_N\[0\]: must be 0 to 3"),
        ("user_index_N", np.full(12, -1), r"must be 0 to 3"),
        ("user_index_N", np.zeros(0, np.int64), r"must hold at least one of the rows"),
        ("view_type_N", np.full(12, 2), r"view_type_N\[0\]: must be 0 to 1 \(the number of view types of home_feed\)"),
        ("view_type_N", np.zeros(11, np.int64), r"must have the shape \(12,\), not \(11,\)"),
        ("candidate_dense_ND", np.full((12, 2), np.nan, np.float32), r"candidate_dense_ND\[0, 0\]: must be finite"),
        ("user_dense_UD", np.full((4, 1), np.inf, np.float32), r"user_dense_UD\[0, 0\]: must be finite"),
        ("user_dense_UD", np.zeros((4, 1)), r"must be float32, not float64"),
        ("history_UL", np.zeros((4, 6), np.int64), r"must have the shape \(4, 5\)"),
        ("history_UL", np.int64(3), r"must hold at least one of the users"),
        ("candidate_categorical_NC", np.zeros((12, 2), np.int32), r"must be int64, not int32"),
    ],
)
def test_a_batch_that_breaks_the_contract_is_refused_by_field_and_rule(
    field: str, value: np.ndarray, rule: str
) -> None:
    broken = replace(SOUND, **{field: value})

    with pytest.raises(InvalidField, match=rule):
        check_batch(a_spec(), HOME_FEED, broken)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"user_dense": None}, "user_dense: must be a list of names"),
        ({"user_categorical": [["age"]]}, "user_categorical: must be a list of"),
        ({"user_categorical": [["age", 1]]}, "age: cardinality must be at least 2"),
        ({"user_categorical": [["item", 3]]}, "names must not repeat"),
        ({"history_of": "age"}, "history_of: must name a candidate's categorical feature"),
        ({"history_length": 0}, "history_length: must be at least 1"),
        ({"history_length": True}, "history_length: must be a whole number"),
        ({"view_types": {}}, "view_types: must name at least one surface"),
        ({"view_types": {"home_feed": ["grid", "grid"]}}, "without repeats"),
    ],
)
def test_a_malformed_spec_is_refused_by_field_and_rule(change: dict[str, object], rule: str) -> None:
    with pytest.raises(InvalidField, match=rule):
        FeatureSpec.from_json({**a_spec().to_json(), **change})


def test_taking_rows_keeps_the_users() -> None:
    taken = SOUND.take(np.array([3, 1]))

    assert taken.user_index_N.tolist() == SOUND.user_index_N[[3, 1]].tolist()
    assert taken.num_users == SOUND.num_users
    assert taken.num_rows == 2
    assert a_spec().view_types_of(HOME_FEED) == (ViewType("grid"), ViewType("closeup"))
