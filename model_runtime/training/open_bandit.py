"""The Open Bandit sample as a data set to train on and to replay.

60 000 logged ad impressions of one week, in a wheel that is read as a zip and never installed. Campaigns stand
for surfaces, positions for view types, the two logging policies stay as the column `policy` and their
probability of the shown item as `propensity`.

The sample has no user ids: **each impression is its own user**, with a key hashed from where its row lies.
What users did before is known only as affinities, their counts of past clicks per item: the items with a
positive one become the history, strongest first.

Shapes: N rows, I items of a campaign, L history entries.
"""

import hashlib
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from control_plane.domain.errors import DigestMismatch, InvalidField
from control_plane.domain.model_version import Digest, Surface, ViewType
from model_runtime.networks.features import FeatureSpec, FloatArray, IntArray
from model_runtime.training.data import FEATURES_FILE, IMPRESSIONS_FILE

WHEEL_DIGEST = Digest("sha256:87dec9caf4283c25ab13036532e0a24566f1c7bdcad1653a8ded43b2f5ef8208")  # obp 0.4.1
FOLDER = "obp/dataset/obd"
SURFACE_OF = {"all": Surface("home_feed"), "men": Surface("search"), "women": Surface("related_pins")}
POLICIES = ("random", "bts")
VIEW_TYPES = tuple(ViewType(f"position_{position}") for position in (1, 2, 3))
HISTORY_LENGTH = 16
USER_FEATURES = tuple(f"user_feature_{index}" for index in range(4))
ITEM_FEATURES = tuple(f"item_feature_{index}" for index in range(1, 4))  # categorical; item_feature_0 is a number
USER_KEY_KEY = b"surefoot/open-bandit/1"
COLUMN_TYPES = {
    "timestamp": pa.timestamp("ns", "UTC"),
    "item_id": pa.int64(),
    "position": pa.int64(),
    "click": pa.int64(),
    "propensity_score": pa.float64(),
    **dict.fromkeys(USER_FEATURES, pa.string()),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalogue:
    """All campaigns' items, numbered on from campaign to campaign; row 0 is the unknown item."""

    first_item: dict[str, int]  # by campaign: the row of its item 0
    number_I: FloatArray  # item_feature_0
    category_IC: IntArray
    cardinalities: tuple[int, ...]  # of ITEM_FEATURES


def convert(wheel: Path, out: Path, *, expected: Digest = WHEEL_DIGEST) -> int:
    """Write impressions.parquet and features.json, in the order of time; return the number of rows.

    Raises:
        InvalidField: the wheel cannot be read.
        DigestMismatch: it is another wheel than the one this adapter was written for.
    """
    _check_digest(wheel, expected)
    with zipfile.ZipFile(wheel) as archive:
        catalogue = _read_catalogue(archive)
        logged = pa.Table.from_batches(
            [
                batch
                for campaign in SURFACE_OF
                for policy in POLICIES
                for batch in _read_impressions(archive, catalogue, campaign, policy)
            ]
        )
    vocabularies = [pc.unique(logged[name]).sort() for name in USER_FEATURES]
    table = _encode(logged, catalogue, vocabularies)
    out.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.sort_by([("served_at_ms", "ascending"), ("user_key", "ascending")]), out / IMPRESSIONS_FILE)
    (out / FEATURES_FILE).write_text(json.dumps(_spec(catalogue, vocabularies).to_json(), indent=2))
    return int(table.num_rows)


def _check_digest(wheel: Path, expected: Digest) -> None:
    try:
        with wheel.open("rb") as file:
            found = Digest(f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")
    except OSError as error:
        raise InvalidField("wheel", f"cannot be read: {wheel}: {error.strerror}") from None
    if found != expected:
        raise DigestMismatch(str(wheel), expected=expected, found=found)


def _read_catalogue(archive: zipfile.ZipFile) -> Catalogue:
    """Item features as one policy's files state them: the other's say the same, hashed with another salt."""
    tables = {}
    for campaign in SURFACE_OF:
        with archive.open(f"{FOLDER}/{POLICIES[0]}/{campaign}/item_context.csv") as file:
            tables[campaign] = pcsv.read_csv(file).sort_by("item_id")
    items = pa.concat_tables(tables.values())
    sizes = [table.num_rows for table in tables.values()]
    vocabularies = [pc.unique(items[name]).sort() for name in ITEM_FEATURES]
    category_IC = np.stack(
        [_codes(items[name], words) for name, words in zip(ITEM_FEATURES, vocabularies, strict=True)]
    )
    return Catalogue(
        first_item=dict(zip(tables, (1 + np.cumsum([0, *sizes[:-1]])).tolist(), strict=True)),
        number_I=np.concatenate([[0.0], items["item_feature_0"].to_numpy()]).astype(np.float32),
        category_IC=np.concatenate([np.zeros((1, len(ITEM_FEATURES)), np.int64), category_IC.T]),
        cardinalities=tuple(1 + len(words) for words in vocabularies),
    )


def _read_impressions(
    archive: zipfile.ZipFile, catalogue: Catalogue, campaign: str, policy: str
) -> Iterator[pa.RecordBatch]:
    first_row = 0
    with archive.open(f"{FOLDER}/{policy}/{campaign}/{campaign}.csv") as file:
        for batch in pcsv.open_csv(file, convert_options=pcsv.ConvertOptions(column_types=COLUMN_TYPES)):
            yield _narrow(batch, catalogue.first_item[campaign], campaign, policy, first_row)
            first_row += batch.num_rows


def _narrow(batch: pa.RecordBatch, first_item: int, campaign: str, policy: str, first_row: int) -> pa.RecordBatch:
    """One column per thing known of an impression, where the log has one per item of the campaign."""
    item_N = batch["item_id"].to_numpy()
    affinities = [name for name in batch.schema.names if name.startswith("user-item_affinity_")]
    affinity_NI = np.stack([batch[name].to_numpy() for name in affinities], axis=1)
    row_names = (f"{campaign}/{policy}/{first_row + row}" for row in range(batch.num_rows))
    columns: dict[str, Any] = {
        "surface": [SURFACE_OF[campaign]] * batch.num_rows,
        "view_type": [VIEW_TYPES[position - 1] for position in batch["position"].to_pylist()],
        "served_at_ms": batch["timestamp"].cast(pa.timestamp("ms", "UTC"), safe=False).cast(pa.int64()),
        "user_key": pa.array(np.array([_user_key(name) for name in row_names], np.uint64)),
        "policy": [policy] * batch.num_rows,
        "propensity": batch["propensity_score"],
        "item": item_N + first_item,
        "affinity": affinity_NI[np.arange(batch.num_rows), item_N].astype(np.float32),
        "history": pa.array(_histories(affinity_NI, first_item), pa.list_(pa.int64())),
        "click": batch["click"].cast(pa.bool_()),
        **{name: batch[name] for name in USER_FEATURES},
    }
    return pa.RecordBatch.from_pydict(columns)


def _histories(affinity_NI: NDArray[np.float64], first_item: int) -> list[list[int]]:
    """Items with a positive affinity, strongest first, equal ones by number."""
    histories: list[list[int]] = [[] for _ in affinity_NI]
    for row in np.flatnonzero((affinity_NI > 0).any(axis=1)):
        strongest = np.argsort(-affinity_NI[row], kind="stable")[:HISTORY_LENGTH]
        histories[row] = (first_item + strongest[affinity_NI[row, strongest] > 0]).tolist()
    return histories


def _user_key(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8, key=USER_KEY_KEY).digest(), "big")


def _encode(logged: pa.Table, catalogue: Catalogue, vocabularies: Sequence[pa.Array]) -> pa.Table:
    item_N = logged["item"].to_numpy()
    user_categorical_NC = np.stack(
        [_codes(logged[name], words) for name, words in zip(USER_FEATURES, vocabularies, strict=True)], axis=1
    )
    candidate_dense_ND = np.stack([catalogue.number_I[item_N], logged["affinity"].to_numpy()], axis=1)
    no_label = pa.nulls(logged.num_rows, pa.bool_())
    return pa.table(
        {
            **{name: logged[name] for name in ("surface", "view_type", "served_at_ms", "user_key", "policy")},
            "propensity": logged["propensity"],
            "user_categorical": _lists(user_categorical_NC),
            "user_dense": _lists(np.zeros((logged.num_rows, 0), np.float32)),
            "history": logged["history"],
            "candidate_categorical": _lists(np.column_stack([item_N, catalogue.category_IC[item_N]])),
            "candidate_dense": _lists(candidate_dense_ND),
            "click": logged["click"],
            "good_click": no_label,
            "hide": no_label,
        }
    )


def _spec(catalogue: Catalogue, vocabularies: Sequence[pa.Array]) -> FeatureSpec:
    return FeatureSpec(
        user_categorical=tuple((name, 1 + len(words)) for name, words in zip(USER_FEATURES, vocabularies, strict=True)),
        user_dense=(),
        candidate_categorical=(
            ("item", len(catalogue.number_I)),
            *zip(ITEM_FEATURES, catalogue.cardinalities, strict=True),
        ),
        candidate_dense=("item_feature_0", "user_item_affinity"),
        history_of="item",
        history_length=HISTORY_LENGTH,
        view_types=dict.fromkeys(SURFACE_OF.values(), VIEW_TYPES),
    )


def _codes(values: pa.ChunkedArray, words: pa.Array) -> IntArray:
    """Places in the vocabulary, from 1: 0 stands for unknown."""
    code_N: IntArray = pc.index_in(values, words).to_numpy().astype(np.int64) + 1
    return code_N


def _lists(value_NC: NDArray[np.int64] | NDArray[np.float32]) -> pa.Array:
    offset_N = np.arange(len(value_NC) + 1, dtype=np.int32) * value_NC.shape[1]
    return pa.ListArray.from_arrays(pa.array(offset_N), pa.array(np.ascontiguousarray(value_NC).ravel()))
