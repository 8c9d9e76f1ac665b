"""What a running runtime says of its profiles: in a model's metadata and in its metrics."""

from functools import partial
from pathlib import Path

import httpx
import pytest

from model_runtime.checkpoints import load_version
from model_runtime.precision import ParityLimits
from model_runtime.precision_metrics import precision_metadata, precision_metrics
from model_runtime.profiles import serve_as
from tests.model_runtime.artifacts import Artifacts
from tests.model_runtime.conftest import eventually, running_runtime, set_up_home_feed

NOTHING = ParityLimits(max_delta=1e-9)  # may change


@pytest.mark.parametrize("precision", ["bf16", "int8_rows"])
def test_metadata_and_metrics_tell_the_profile_and_its_card(
    control_plane: str, artifacts: Artifacts, tmp_path: Path, precision: str
) -> None:
    set_up_home_feed(control_plane, artifacts)

    with running_runtime(control_plane, tmp_path / "runtime", precision=precision) as (_, url):
        eventually(lambda: httpx.get(f"{url}/v2/health/ready").status_code == 200)
        told = httpx.get(f"{url}/v2/models/home_feed").json()["parameters"]
        metrics = httpx.get(f"{url}/metrics").text.splitlines()

    assert told["precision"] == precision
    assert told["parity"]["max_delta"] > 0.0
    assert "refused" not in told
    labels = f'{{precision="{precision}",version="{artifacts.stable.version_id}"}}'
    assert f"surefoot_runtime_precision{labels} 1.0" in metrics
    assert f"surefoot_runtime_parity_max_delta{labels} {told['parity']['max_delta']}" in metrics
    bytes_told = (
        f'surefoot_runtime_embedding_bytes{{version="{artifacts.stable.version_id}"}} {told["embedding_bytes"]}.0'
    )
    assert bytes_told in metrics


def test_a_profile_that_is_refused_is_told_with_its_figures(artifacts: Artifacts) -> None:
    version = load_version(artifacts.stable.folder, prepare=partial(serve_as, precision="bf16", limits=NOTHING))

    told = precision_metadata(version)
    samples = {each.name: each.samples for each in precision_metrics([version])}

    assert told["precision"] == "fp32"
    assert "bf16 differs from fp32 too much" in str(told["refused"])
    assert [each.value for each in samples["surefoot_runtime_precision_refused"]] == [1.0]
    assert [each.labels["precision"] for each in samples["surefoot_runtime_precision"]] == ["fp32"]
