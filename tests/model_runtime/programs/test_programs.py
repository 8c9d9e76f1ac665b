"""Programs of the user's own: exported, verified, bounded, and scored as the module itself scores."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from control_plane.domain.errors import DigestMismatch, GoldenMismatch, InvalidField, InvalidManifest, UnsafeArtifact
from control_plane.domain.manifest import FILE_OF, GOLDEN_FILE, MANIFEST_FILE
from control_plane.domain.model_version import Part, digest_of
from control_plane.registry.artifacts import verify_artifact
from model_runtime.checkpoints import LoadedVersion, read_manifest
from model_runtime.networks.calibration import Calibrator
from model_runtime.networks.engagement import to_tensors
from model_runtime.programs.export import ProgramConfig, archive_of, drawn_batch, export_program
from model_runtime.programs.graph import Graph, Node, Value
from model_runtime.programs.loaded import LoadedProgram, fields_of, json_tensor, load_program
from model_runtime.programs.operators import ALLOWED, guarded
from model_runtime.programs.program import Program
from model_runtime.versions import load_version
from tests.model_runtime.artifacts import Artifacts
from tests.model_runtime.programs.own import CONFIG, ByRow, TwoTowers, export_own
from tests.networks.builders import HOME_FEED, SEARCH, a_batch, a_rich_spec, a_spec


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("own")
    export_own(out)
    return out / HOME_FEED


@pytest.fixture
def artifact(exported: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(exported, tmp_path / HOME_FEED))


def _expected(batch: Any, module: nn.Module) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    rows = to_tensors(a_spec(), HOME_FEED, batch, device="cpu")
    graph_inputs = {name: name for name in ("user_dense_UD", "history_UL", "user_index_N")}
    graph_inputs |= {name: name for name in ("candidate_categorical_NC", "candidate_dense_ND")}
    with torch.inference_mode():
        logits = module.eval()(**{name: getattr(rows, name) for name in graph_inputs})
    return {task: logit_N.sigmoid().numpy() for task, logit_N in logits.items()}


def test_a_program_scores_as_its_module_does(exported: Path) -> None:
    version = load_version(exported)
    batch = a_batch(num_users=9, num_rows=50, seed=4)

    found, expected = version.score(batch), _expected(batch, TwoTowers())

    assert isinstance(version, LoadedProgram)
    for task, expected_N in expected.items():
        np.testing.assert_allclose(found[task], expected_N, atol=1e-6)


@pytest.mark.parametrize(("num_users", "num_rows"), [(1, 1), (1, 3), (7, 2), (100, 1_000)])
def test_any_number_of_users_and_rows_is_scored(exported: Path, num_users: int, num_rows: int) -> None:
    batch = a_batch(num_users=num_users, num_rows=num_rows, seed=1)

    np.testing.assert_allclose(
        load_program(exported).score(batch)["click"], _expected(batch, TwoTowers())["click"], atol=1e-6
    )


def test_the_registry_finds_its_files_as_the_manifest_says(exported: Path) -> None:
    manifest = verify_artifact(exported)

    assert manifest.model_name == "program"
    assert manifest.version.version_id == load_program(exported).version_id


def test_the_same_module_gives_the_same_version(exported: Path, tmp_path: Path) -> None:
    assert export_own(tmp_path) == load_program(exported).version_id
    assert export_own(tmp_path / "other", seed=1) != load_program(exported).version_id


def test_a_program_that_takes_no_index_of_users_gets_its_users_by_row(tmp_path: Path) -> None:
    config = replace(CONFIG, kind="probabilities")
    export_program(archive_of(ByRow(), a_spec(), config), a_spec(), tmp_path, config)
    batch = a_batch(num_users=5, num_rows=30)

    found = load_program(tmp_path / HOME_FEED).score(batch)

    with torch.inference_mode():
        of_rows = torch.from_numpy(batch.user_dense_UD[batch.user_index_N])
        expected_NT = ByRow()(of_rows, torch.from_numpy(batch.candidate_dense_ND)).numpy()
    np.testing.assert_allclose(np.stack(list(found.values()), axis=1), expected_NT, atol=1e-6)


def test_the_calibrator_is_ours_on_top(tmp_path: Path) -> None:
    calibrator = Calibrator(2)
    calibrator.intercept_V.copy_(torch.tensor([0.0, 1.0]))
    export_program(archive_of(TwoTowers(), a_spec(), CONFIG), a_spec(), tmp_path, CONFIG, calibrator=calibrator)
    batch = a_batch(num_users=5, num_rows=30)

    found, plain = load_program(tmp_path / HOME_FEED).score(batch), _expected(batch, TwoTowers())

    np.testing.assert_allclose(found["hide"], plain["hide"], atol=1e-6)
    odds = found["click"] / (1 - found["click"]) / (plain["click"] / (1 - plain["click"]))
    np.testing.assert_allclose(odds, np.where(batch.view_type_N == 1, np.e, 1), rtol=1e-4)


def test_versions_of_one_program_share_its_outputs_and_its_memory(exported: Path, tmp_path: Path) -> None:
    calibrator = Calibrator(2)
    calibrator.intercept_V.add_(0.5)
    export_program(archive_of(TwoTowers(), a_spec(), CONFIG), a_spec(), tmp_path, CONFIG, calibrator=calibrator)
    trunks: dict[Any, nn.Module] = {}
    stable, twin = (load_version(folder, trunks=trunks) for folder in (exported, tmp_path / HOME_FEED))
    batch = a_batch(num_users=5, num_rows=30)

    assert twin.trunk is stable.trunk
    assert twin.reads_activations_of(stable)
    np.testing.assert_array_equal(twin.score_shared(*stable.activations(batch))["click"], twin.score(batch)["click"])


def test_a_program_reads_nothing_of_the_unified_networks_trunk(exported: Path, artifacts: Artifacts) -> None:
    program, unified = load_version(exported), load_version(artifacts.stable.folder)

    assert isinstance(unified, LoadedVersion)
    assert not program.reads_activations_of(unified)
    assert not unified.reads_activations_of(program)


def test_every_kind_of_feature_can_be_drawn_and_read(tmp_path: Path) -> None:
    class All(nn.Module):
        def forward(
            self,
            user_multi_hot_UM: Tensor,
            history_action_UL: Tensor,
            user_index_N: Tensor,
            candidate_multi_hot_NM: Tensor,
            surface_categorical_NS: Tensor,
            surface_dense_NS: Tensor,
            view_type_N: Tensor,
        ) -> Tensor:
            user_U = (user_multi_hot_UM.sum(1) + history_action_UL.sum(1)) * 0.01
            own_N = surface_categorical_NS.sum(1) * 0.1 + surface_dense_NS.sum(1)
            row_N = user_U[user_index_N] + candidate_multi_hot_NM.sum(1) * 0.01 + own_N + view_type_N
            return torch.stack((row_N, -row_N, row_N * 0.5), dim=1)

    spec, config = a_rich_spec(), replace(CONFIG, surface=SEARCH)

    export_program(archive_of(All(), spec, config), spec, tmp_path, config)

    assert load_program(tmp_path / SEARCH).score(drawn_batch(spec.pruned(SEARCH), SEARCH, seed=9))


class MixesRows(nn.Module):
    def forward(self, candidate_dense_ND: Tensor) -> Tensor:
        return (candidate_dense_ND - candidate_dense_ND.mean(0)).sum(1, keepdim=True).expand(-1, 3)


class TakesOther(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return pixels


class TwoOutputs(nn.Module):
    def forward(self, candidate_dense_ND: Tensor) -> Tensor:
        return candidate_dense_ND


class Greedy(nn.Module):
    def forward(self, candidate_dense_ND: Tensor) -> Tensor:
        wide = candidate_dense_ND[:, :1].expand(-1, 1 << 20).exp()
        return wide[:, :3] + wide.sum(1, keepdim=True)


class Random(nn.Module):
    def forward(self, candidate_dense_ND: Tensor) -> Tensor:
        return torch.rand_like(candidate_dense_ND).sum(1, keepdim=True).expand(-1, 3)


class Remembers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, candidate_dense_ND: Tensor) -> Tensor:
        assert isinstance(self.seen, Tensor)
        self.seen.add_(1)
        return (candidate_dense_ND.sum(1, keepdim=True) + self.seen).expand(-1, 3)


class NotANumber(nn.Module):
    def forward(self, candidate_dense_ND: Tensor) -> Tensor:
        return (candidate_dense_ND * float("nan")).sum(1, keepdim=True).expand(-1, 3)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (TakesOther(), r"forward\(pixels\): is no field of a batch"),
        (TwoOutputs(), r"outputs: must be 3 numbers for each"),
        (Greedy(), r"needs too much memory"),
        (Random(), r"aten\.rand_like\.default' is not in the list"),
        (Remembers(), r"hold a buffer_mutation"),
    ],
)
def test_a_module_that_no_runtime_could_serve_is_refused_with_the_reason(
    module: nn.Module, said: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidField, match=said):
        export_program(archive_of(module, a_spec(), CONFIG), a_spec(), tmp_path, CONFIG)


@pytest.mark.parametrize("module", [MixesRows(), NotANumber()])
def test_a_module_whose_rows_depend_on_each_other_or_are_nothing_is_refused(module: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(GoldenMismatch):
        export_program(archive_of(module, a_spec(), CONFIG), a_spec(), tmp_path, CONFIG)
    assert not (tmp_path / HOME_FEED).exists()


@pytest.mark.parametrize("tasks", [("click",), ("click", "hide", "hide"), ("a", "b", "c")])
def test_the_outputs_are_the_three_tasks(tasks: tuple[str, ...], tmp_path: Path) -> None:
    config = ProgramConfig(surface=HOME_FEED, tasks=tasks)

    with pytest.raises(InvalidField, match="must be click, good_click, hide"):
        export_program(archive_of(ByRow(), a_spec(), config), a_spec(), tmp_path, config)


def test_a_changed_byte_is_found(artifact: Path) -> None:
    path = artifact / FILE_OF[Part.TRUNK]
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")

    with pytest.raises(DigestMismatch):
        load_version(artifact)


def test_a_program_without_its_name_in_the_manifest_is_no_network(artifact: Path) -> None:
    told = json.loads((artifact / MANIFEST_FILE).read_text())
    del told["config"]["program"]
    (artifact / MANIFEST_FILE).write_text(json.dumps(told))

    with pytest.raises(InvalidManifest, match=r"config\.trunk"):
        load_version(artifact)


def _forged(folder: Path, change: Callable[[dict[str, Any]], None], *, tensors: Mapping[str, Tensor] = {}) -> Path:
    """An artifact whose graph was changed by someone who could make all digests fit."""
    path = folder / FILE_OF[Part.TRUNK]
    held = safetensors.torch.load(path.read_bytes())
    graph = json.loads(held["graph"].numpy().tobytes())
    change(graph)
    path.write_bytes(safetensors.torch.save({**held, **tensors, "graph": json_tensor(json.dumps(graph))}))
    trunk = digest_of(path.read_bytes())
    binding_path = folder / FILE_OF[Part.SURFACE_EXPORT]
    binding = json.loads(safetensors.torch.load(binding_path.read_bytes())["binding"].numpy().tobytes())
    binding["trunk"] = trunk
    binding_path.write_bytes(safetensors.torch.save({"binding": json_tensor(json.dumps(binding))}))
    told = json.loads((folder / MANIFEST_FILE).read_text())
    told["digests"].update(trunk=trunk, surface_export=digest_of(binding_path.read_bytes()))
    (folder / MANIFEST_FILE).write_text(json.dumps(told))
    return folder


def _node(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda graph: graph["nodes"][1].update(changes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_node(op="aten.from_file.default"), "not in the list"),
        (_node(op="prim.eval.default"), "not in the list"),
        (_node(op="number.pow"), "not in the list"),
        (_node(op="aten.ne.Scalar", arguments={"self": {"value": "history_ul"}, "other": 0, "device": "x"}), "device"),
        (_node(arguments={"self": {"value": "nobody"}}), "which nothing made before it"),
        (_node(arguments={"self": {"code": "1"}}), "is no argument"),
        (_node(outputs=["history_ul"]), "a second time"),
        (lambda graph: graph.update(outputs=[]), "at least one value"),
        (lambda graph: graph.update(outputs=["p_user_bias"]), "one entry for each"),
        (lambda graph: graph.update(format="surefoot.program/2"), "format"),
        (lambda graph: graph["inputs"].update(history_ul="surface_dense_NS"), "nothing that this surface has"),
        (lambda graph: graph["inputs"].update(history_ul="__class__"), "nothing that this surface has"),
        (lambda graph: graph["weights"].update(p_user_bias="elsewhere"), "not there|does not read"),
        (lambda graph: graph["weights"].pop("p_user_bias"), "which nothing made|does not read"),
        (lambda graph: graph.update(nodes=graph["nodes"] * 2_000), "at most|second time"),
    ],
)
def test_a_forged_graph_is_refused_whoever_made_the_digests_fit(
    artifact: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    with pytest.raises(UnsafeArtifact, match=said):
        load_version(_forged(artifact, change))


def test_a_foreign_tensor_is_refused(artifact: Path) -> None:
    with pytest.raises(UnsafeArtifact, match="foreign tensor 'code'"):
        load_version(_forged(artifact, lambda graph: None, tensors={"code": torch.zeros(1)}))


def test_a_graph_that_doubles_and_doubles_is_refused_before_it_runs(artifact: Path) -> None:
    """Forty doublings of one column: a terabyte each row, from a graph of a few kilobytes."""

    def grow(graph: dict[str, Any]) -> None:
        name = graph["outputs"][0]
        for index in range(40):
            both = [{"value": name}, {"value": name}]
            name = f"grown_{index}"
            graph["nodes"].append({"op": "aten.cat.default", "arguments": {"tensors": both}, "outputs": [name]})

    with pytest.raises(UnsafeArtifact, match="needs too much memory"):
        load_version(_forged(artifact, grow))


def test_a_graph_that_runs_only_on_many_rows_is_refused(artifact: Path) -> None:
    def read_row_5000(graph: dict[str, Any]) -> None:
        name = graph["outputs"][0]
        arguments = {"self": {"value": name}, "dim": 0, "index": 5_000}
        graph["nodes"].append({"op": "aten.select.int", "arguments": arguments, "outputs": ["row"]})
        both = {"self": {"value": name}, "other": {"value": "row"}}
        graph["nodes"].append({"op": "aten.add.Tensor", "arguments": both, "outputs": ["sum"]})
        graph["outputs"][0] = "sum"

    with pytest.raises(UnsafeArtifact, match=r"fails on these rows: .*out of range"):
        load_version(_forged(artifact, read_row_5000))


def test_what_common_modules_are_made_of_may_be_called(tmp_path: Path) -> None:
    class Common(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.items = nn.Embedding(20, 8)
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.history = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.norms = nn.Sequential(nn.BatchNorm1d(8), nn.GroupNorm(2, 8), nn.PReLU(), nn.Linear(8, 3))

        def forward(self, history_UL: Tensor, user_index_N: Tensor, view_type_N: Tensor) -> Tensor:
            is_padding_UL = history_UL == 0
            is_padding_UL = is_padding_UL & ~is_padding_UL.all(1, keepdim=True)
            read_ULE = self.history(self.items(history_UL), src_key_padding_mask=is_padding_UL)
            row_NT: Tensor = self.norms(nn.functional.normalize(read_ULE.amax(1))[user_index_N])
            of_view_N3 = nn.functional.one_hot(view_type_N, 3)
            return row_NT + of_view_N3 + torch.zeros(3).scatter_add(0, torch.tensor([0]), torch.ones(1))

    export_program(archive_of(Common(), a_spec(), CONFIG), a_spec(), tmp_path, CONFIG)

    assert load_version(tmp_path / HOME_FEED)


def test_numbers_that_square_themselves_are_refused(artifact: Path) -> None:
    def square(graph: dict[str, Any]) -> None:
        size = {"self": {"value": "history_ul"}, "dim": 0}
        graph["nodes"].append({"op": "aten.sym_size.int", "arguments": size, "outputs": ["n0"]})
        for index in range(60):
            read = {"value": f"n{index}"}
            arguments = {"left": read, "right": read}
            graph["nodes"].append({"op": "number.mul", "arguments": arguments, "outputs": [f"n{index + 1}"]})

    with pytest.raises(UnsafeArtifact, match="a size beyond"):
        load_version(_forged(artifact, square))


def test_a_program_that_computes_for_minutes_is_refused(tmp_path: Path) -> None:
    class Slow(nn.Module):
        def forward(self, candidate_dense_ND: Tensor) -> Tensor:
            wide = candidate_dense_ND[:, :1].expand(-1, 8_000)
            for _ in range(8):
                wide = wide @ candidate_dense_ND[:1, :1].expand(8_000, 8_000)
            return wide[:, :3]

    with pytest.raises(InvalidField, match="computes too much"):
        export_program(archive_of(Slow(), a_spec(), CONFIG), a_spec(), tmp_path, CONFIG)


def test_wrong_scores_are_found_by_the_golden_check(artifact: Path) -> None:
    held = safetensors.torch.load((artifact / GOLDEN_FILE).read_bytes())
    held["score.click"] = held["score.click"].roll(1)
    (artifact / GOLDEN_FILE).write_bytes(safetensors.torch.save(held))
    told = json.loads((artifact / MANIFEST_FILE).read_text())
    told["golden"] = digest_of((artifact / GOLDEN_FILE).read_bytes())
    (artifact / MANIFEST_FILE).write_text(json.dumps(told))

    with pytest.raises(GoldenMismatch):
        load_version(artifact)


def test_a_binding_of_another_program_is_refused(artifact: Path, tmp_path: Path) -> None:
    export_own(tmp_path / "other", seed=1)
    name = FILE_OF[Part.SURFACE_EXPORT]
    shutil.copy(tmp_path / "other" / HOME_FEED / name, artifact / name)
    told = json.loads((artifact / MANIFEST_FILE).read_text())
    told["digests"]["surface_export"] = digest_of((artifact / name).read_bytes())
    del told["calibrator_fitted_on"]
    (artifact / MANIFEST_FILE).write_text(json.dumps(told))

    with pytest.raises(InvalidManifest, match="another program"):
        load_version(artifact)


def test_the_list_holds_no_operator_that_writes_or_draws() -> None:
    for base in ALLOWED:
        packet = getattr(torch.ops.aten, base, None)
        assert packet is not None, base
        for overload in packet.overloads():
            schema = getattr(packet, overload)._schema
            is_callable_here = not schema.is_mutable and not any(each.is_out for each in schema.arguments)
            draws = torch.Tag.nondeterministic_seeded in getattr(packet, overload).tags
            assert not (is_callable_here and draws) or base in ("dropout", "scaled_dot_product_attention"), base


def test_an_index_outside_is_moved_inside_on_a_device_that_it_would_end() -> None:
    table, index = torch.eye(3), torch.tensor([-5, 0, 2, 9])

    assert guarded("aten.embedding.default", [table, index])[1].tolist() == [0, 0, 2, 2]
    assert guarded("aten.index_select.default", [table, 0, index])[2].tolist() == [0, 0, 2, 2]
    assert guarded("aten.index.Tensor", [table, [None, index]])[1][1].tolist() == [-3, 0, 2, 2]
    with pytest.raises(InvalidField, match="by a mask"):
        guarded("aten.index.Tensor", [table, [torch.tensor([True])]])


def test_values_are_let_go_after_their_last_reader() -> None:
    nodes = [Node(op="aten.exp.default", arguments={"self": Value("x")}, outputs=("a0",))]
    nodes += [
        Node(op="aten.exp.default", arguments={"self": Value(f"a{index}")}, outputs=(f"a{index + 1}",))
        for index in range(10)
    ]
    program = Program(
        Graph(inputs={"x": "candidate_dense_ND"}, weights={}, nodes=tuple(nodes), outputs=("a10",)), tensors={}
    )
    held: list[int] = []

    program({"candidate_dense_ND": torch.zeros(10, 10)}, watch=lambda now, _: held.append(now))

    assert max(held) == 2 * 400


def test_a_manifest_of_a_program_says_so(exported: Path) -> None:
    manifest = read_manifest(exported)

    assert manifest.config["program"] == {"format": "surefoot.program/1"}
    assert manifest.fitted_on is not None
    assert manifest.serving is not None
    assert fields_of(load_program(exported).trunk.graph, to_tensors(a_spec(), HOME_FEED, a_batch(), device="cpu"))
