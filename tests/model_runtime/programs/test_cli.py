"""`python -m model_runtime export-program`, as a person types it."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from model_runtime.__main__ import main
from model_runtime.networks.nulls import null_rates_to_json
from model_runtime.programs.loaded import LoadedProgram, load_program
from tests.model_runtime.programs.own import ByRow
from tests.networks.builders import HOME_FEED, a_spec
from tests.training.builders import impressions

ROOT = Path(__file__).parents[3]
OWN = "tests.model_runtime.programs.own:TwoTowers"
EXAMPLE = ROOT / "examples/programs/own_module.py"


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    pq.write_table(impressions(4_000), folder / "impressions.parquet")
    (folder / "features.json").write_text(json.dumps(a_spec().to_json()))
    return folder


def export(tmp_path: Path, *options: str | Path) -> LoadedProgram:
    arguments = ["export-program", *map(str, options), "--surface", "home_feed", "--out", str(tmp_path)]
    assert main(arguments) == 0
    return load_program(tmp_path / HOME_FEED)


def test_a_module_is_exported_from_its_feature_contract_alone(
    tmp_path: Path, logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version = export(tmp_path, "--module", OWN, "--features", logs / "features.json", "--latency-card")

    assert capsys.readouterr().out == f"home_feed {version.version_id} {tmp_path / HOME_FEED}\n"
    assert version.manifest.serving is not None
    assert version.manifest.serving.latency is not None


def test_on_logs_it_is_calibrated_by_view_type_and_knows_what_was_null(tmp_path: Path, logs: Path) -> None:
    version = export(tmp_path, "--module", OWN, "--data", logs, "--calibration", "platt")

    assert not torch.equal(version.calibrator.intercept_V, torch.zeros(2))
    assert version.null_rate_F is not None
    assert null_rates_to_json(version.spec, version.null_rate_F)["user_dense"] == pytest.approx([0.5], abs=0.05)


def test_a_pt2_is_exported_with_other_names_and_probabilities(tmp_path: Path, logs: Path) -> None:
    path = _by_row(tmp_path / "own.pt2")

    version = export(
        tmp_path,
        *("--program", path, "--features", logs / "features.json", "--probabilities"),
        *("--input", "users=user_dense_UD", "--input", "rows=candidate_dense_ND", "--outputs", "hide,click,good_click"),
    )

    assert version.binding.tasks == ("hide", "click", "good_click")
    assert version.binding.kind == "probabilities"


def test_the_example_runs_as_it_says(tmp_path: Path, logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", str(logs))

    version = export(tmp_path, "--module", f"{EXAMPLE}:make", "--data", logs, "--calibration", "platt")

    assert "number.pow" not in {node.op for node in version.trunk.graph.nodes}
    assert f"--module {EXAMPLE.relative_to(ROOT)}:make" in EXAMPLE.read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--module", "nowhere:make"], "'nowhere' cannot be imported"),
        (["--module", "nowhere.py:make"], "there is no file 'nowhere.py'"),
        (["--module", "tests.model_runtime.programs.own:Nothing"], "names no callable"),
        (["--module", "tests.networks.builders:a_spec"], "makes a FeatureSpec, not a torch.nn.Module"),
        (["--program", "nowhere.pt2"], "no .pt2 archive"),
        (["--module", OWN, "--outputs", "click"], None),
        (["--module", OWN, "--input", "x"], "NAME=FIELD"),
        (["--module", OWN, "--calibration", "platt"], "needs --data"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    options: list[str], said: str | None, tmp_path: Path, logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export-program", *options, "--features", str(logs / "features.json")]

    code = main([*arguments, "--surface", "home_feed", "--out", str(tmp_path)])

    errors = capsys.readouterr().err
    assert code == (0 if said is None else 1)  # a dictionary names its outputs itself
    assert said is None or said in errors
    assert said is None or errors.startswith("error: ")
    assert len(errors.splitlines()) <= 1


def test_an_unknown_surface_is_told(tmp_path: Path, logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export-program", "--module", OWN, "--features", str(logs / "features.json")]

    assert main([*arguments, "--surface", "elsewhere", "--out", str(tmp_path)]) == 1
    assert "elsewhere" in capsys.readouterr().err


def _by_row(path: Path) -> Path:
    class Renamed(ByRow):
        def forward(self, users: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            return super().forward(users, rows)

    rows = torch.export.Dim("rows")
    given = {"users": torch.zeros(4, 1), "rows": torch.zeros(4, 2)}
    exported = torch.export.export(Renamed().eval(), (), given, dynamic_shapes={name: {0: rows} for name in given})
    torch.export.save(exported, path)
    return path
