"""The Open Bandit adapter, on a wheel of the same layout with a handful of rows."""

import hashlib
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from control_plane.domain.errors import DigestMismatch, InvalidField
from control_plane.domain.model_version import Digest, digest_of
from model_runtime.training.data import IMPRESSIONS_FILE, read_examples
from model_runtime.training.open_bandit import convert

NUM_ITEMS = {"all": 3, "men": 2, "women": 2}
AFFINITIES: dict[str, list[tuple[float, ...]]] = {
    "all": [(0.0, 0.0, 0.0), (1.0, 4.0, 1.0)],
    "men": [(0.0, 2.0)] * 2,
    "women": [(0.0, 0.0)] * 2,
}


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "obp.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for policy in ("random", "bts"):
            for campaign, num_items in NUM_ITEMS.items():
                folder = f"obp/dataset/obd/{policy}/{campaign}"
                archive.writestr(f"{folder}/item_context.csv", item_context(policy, campaign, num_items))
                archive.writestr(f"{folder}/{campaign}.csv", impressions(policy, campaign, num_items))
    return path


def item_context(policy: str, campaign: str, num_items: int) -> str:
    """Hashes differ by policy, as they do in the sample."""
    header = ",item_id,item_feature_0,item_feature_1,item_feature_2,item_feature_3"
    words = [f"{policy}-{campaign}-{item},{policy}-x,{policy}-{item % 2}" for item in range(num_items)]
    return "\n".join([header, *(f"{item},{item},{item + 0.5},{word}" for item, word in enumerate(words)), ""])


def impressions(policy: str, campaign: str, num_items: int) -> str:
    affinities = ",".join(f"user-item_affinity_{item}" for item in range(num_items))
    users = ",".join(f"user_feature_{index}" for index in range(4))
    lines = [f",timestamp,item_id,position,click,propensity_score,{users},{affinities}"]
    for row, affinity in enumerate(AFFINITIES[campaign]):
        when = f"2019-11-24 00:0{row}:00.500000+00:00"
        values = ",".join(map(str, affinity))
        lines.append(f"{row},{when},{row},{row + 2},{row},0.25,young,tall,u{row},{policy},{values}")
    return "\n".join(lines) + "\n"


def digest(path: Path) -> Digest:
    return digest_of(path.read_bytes())


def test_campaigns_become_surfaces_and_positions_view_types(wheel: Path, tmp_path: Path) -> None:
    rows = convert(wheel, tmp_path / "out", expected=digest(wheel))

    table = pq.read_table(tmp_path / "out" / IMPRESSIONS_FILE)
    assert rows == table.num_rows == 12
    assert set(table["surface"].to_pylist()) == {"home_feed", "search", "related_pins"}
    assert set(table["view_type"].to_pylist()) == {"position_2", "position_3"}
    assert table["served_at_ms"].to_pylist() == [1_574_553_600_500] * 6 + [1_574_553_660_500] * 6
    assert len(set(table["user_key"].to_pylist())) == 12
    assert table["click"].to_pylist() == [False] * 6 + [True] * 6
    assert table["hide"].null_count == 12
    assert set(table["propensity"].to_pylist()) == {0.25}


def test_affinities_become_the_history_and_a_feature_of_the_shown_item(wheel: Path, tmp_path: Path) -> None:
    convert(wheel, tmp_path / "out", expected=digest(wheel))

    rows = pq.read_table(tmp_path / "out" / IMPRESSIONS_FILE).to_pylist()
    logged = {(row["surface"], row["policy"], row["click"]): row for row in rows}
    second = logged["home_feed", "bts", True]
    assert second["history"] == [2, 1, 3]  # item 1 strongest, then 0 and 2 by number; 0 stays free for unknown
    assert second["candidate_categorical"][0] == 2
    assert second["candidate_dense"] == [1.5, 4.0]
    assert logged["home_feed", "bts", False]["history"] == []
    assert logged["search", "random", True]["history"] == [5]  # the second campaign's items follow the first's


def test_an_item_is_the_same_under_both_policies(wheel: Path, tmp_path: Path) -> None:
    convert(wheel, tmp_path / "out", expected=digest(wheel))

    rows = pq.read_table(tmp_path / "out" / IMPRESSIONS_FILE).to_pylist()
    features = {(row["surface"], row["click"], tuple(row["candidate_categorical"])) for row in rows}
    assert len(features) == 6


def test_what_is_written_can_be_trained_on(wheel: Path, tmp_path: Path) -> None:
    convert(wheel, tmp_path / "out", expected=digest(wheel))

    examples = read_examples(tmp_path / "out")

    assert examples.num_rows == 12
    assert examples.spec.history_vocabulary == 1 + sum(NUM_ITEMS.values())
    assert dict(examples.spec.user_categorical)["user_feature_2"] == 3


def test_another_wheel_or_none_is_refused(wheel: Path, tmp_path: Path) -> None:
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()

    with pytest.raises(DigestMismatch, match=rf"its digest is sha256:{found}, the manifest says sha256:87dec9ca"):
        convert(wheel, tmp_path / "out")
    with pytest.raises(InvalidField, match="wheel: cannot be read"):
        convert(tmp_path / "none.whl", tmp_path / "out")
    assert not (tmp_path / "out").exists()
