"""Archives that nobody vouches for: each is read without running anything, or refused by name."""

import contextlib
import io
import logging
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from control_plane.domain.errors import InvalidField, UnsafeArtifact
from model_runtime.programs.archive import read_archive
from model_runtime.programs.program import Program
from tests.model_runtime.programs.own import TwoTowers, rewritten, saved

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # torch warns of what torch calls

SAMPLES = "data/sample_inputs/model.pt"
MODEL, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    module = TwoTowers()
    module.tower[1] = nn.ReLU()
    return saved(
        module,
        tmp_path_factory.mktemp("archive") / "program.pt2",
        user_dense_UD=torch.zeros(3, 1),
        history_UL=torch.ones(3, 5, dtype=torch.int64),
        user_index_N=torch.tensor([0, 0, 1, 2]),
        candidate_categorical_NC=torch.ones(4, 2, dtype=torch.int64),
        candidate_dense_ND=torch.zeros(4, 2),
    )


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_plain_archive_gives_its_graph_and_its_weights(program: Path) -> None:
    archive = read_archive(program)

    assert archive.output_names == ("click", "hide", "good_click")
    assert torch.equal(archive.tensors["items.weight"], TwoTowers().items.weight)
    assert set(archive.graph.inputs.values()) >= {"history_UL", "user_index_N", "candidate_dense_ND"}


def test_sample_inputs_are_a_pickle_that_is_never_opened(program: Path, tmp_path: Path) -> None:
    bad = rewritten(program, replaced={SAMPLES: pickle.dumps(Trap(tmp_path / "sprung"))})

    assert read_archive(bad).graph.nodes
    assert not (tmp_path / "sprung").exists()


def test_pickled_weights_are_refused_unopened(program: Path, tmp_path: Path) -> None:
    def point_at_it(told: Any) -> None:
        told["config"]["user.bias"].update(use_pickle=True, path_name="trap")

    content = pickle.dumps(Trap(tmp_path / "sprung"))
    bad = rewritten(program, added={"program/data/weights/trap": content}, json_edits={WEIGHTS: point_at_it})

    with pytest.raises(UnsafeArtifact, match=r"'user\.bias' is a pickle, which can run code"):
        read_archive(bad)
    assert not (tmp_path / "sprung").exists()


def test_a_pickle_in_the_place_of_raw_weights_is_read_as_numbers(program: Path, tmp_path: Path) -> None:
    bad = rewritten(
        program, replaced={"data/weights/weight_0": pickle.dumps(Trap(tmp_path / "sprung")) + bytes(10_000)}
    )

    assert read_archive(bad).tensors["items.weight"].shape == (20, 8)
    assert not (tmp_path / "sprung").exists()


def test_torchs_own_loader_springs_the_trap(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason for a reader of our own."""
    monkeypatch.setattr(logging, "raiseExceptions", False)  # torch's own message about it is malformed
    content = io.BytesIO()
    torch.save(Trap(tmp_path / "sprung"), content)
    bad = rewritten(program, replaced={SAMPLES: content.getvalue()})

    with contextlib.suppress(AssertionError):  # it says afterwards that it wanted something else
        torch.export.load(bad)

    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "name",
    [
        "program/data/constants/opaque_obj_0",
        "program/data/aotinductor/program/code.so",
        "program/data/executorch/program.pte",
        "program/code.py",
    ],
)
def test_libraries_and_objects_are_refused(program: Path, name: str) -> None:
    bad = rewritten(program, added={name: b"\x7fELF"})

    if "constants" in name:
        assert read_archive(bad)  # without an entry in the constants' list nobody looks at it
    else:
        with pytest.raises(UnsafeArtifact, match="no part of a plain exported program"):
            read_archive(bad)


@pytest.mark.parametrize("name", ["program/../../etc/passwd", "/etc/passwd", "program\\..\\x", "other/x", "program/"])
def test_names_that_lead_outside_are_refused(program: Path, name: str) -> None:
    with pytest.raises(UnsafeArtifact, match=r"outside of it|not one of a single folder"):
        read_archive(rewritten(program, added={name: b"x"}))


def test_a_member_that_stands_twice_is_refused(program: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        bad = rewritten(program, added={f"program/{MODEL}": b"{}"})

    with pytest.raises(UnsafeArtifact, match="single folder"):
        read_archive(bad)


def test_a_zip_bomb_is_refused_before_it_is_read(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.pt2"
    with zipfile.ZipFile(bomb, "w", compression=zipfile.ZIP_DEFLATED) as out:
        out.writestr("bomb/archive_format", b"0" * 50_000_000)

    with pytest.raises(UnsafeArtifact, match="compressed or encrypted"):
        read_archive(bomb)


def test_members_that_overlap_are_refused(program: Path, tmp_path: Path) -> None:
    """A directory that names the same bytes a thousand times: stored, and a bomb all the same."""
    bomb = tmp_path / "overlap.pt2"
    with zipfile.ZipFile(bomb, "w") as out:
        out.writestr("bomb/data/weights/w", b"0" * 100_000)
        first = out.infolist()[0]
        for index in range(1_000):
            info = zipfile.ZipInfo(f"bomb/data/weights/w{index}")
            info.header_offset, info.file_size, info.compress_size, info.CRC = 0, 100_000, 100_000, first.CRC
            out.filelist.append(info)

    with pytest.raises(UnsafeArtifact, match="overlap"):
        read_archive(bomb)


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip", pickle.dumps({"a": 1})])
def test_what_is_no_zip_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pt2"
    path.write_bytes(content)

    with pytest.raises(UnsafeArtifact, match=r"no \.pt2 archive"):
        read_archive(path)


def test_a_damaged_member_is_refused(program: Path, tmp_path: Path) -> None:
    content = bytearray(program.read_bytes())
    at = content.index(TwoTowers().user.bias.detach().numpy().tobytes())
    content[at] ^= 0xFF
    bad = tmp_path / "bad.pt2"
    bad.write_bytes(content)

    with pytest.raises(UnsafeArtifact, match="CRC"):
        read_archive(bad)


def test_whatever_bytes_are_changed_it_is_read_or_refused(program: Path, tmp_path: Path) -> None:
    content, draw, path = program.read_bytes(), random.Random(3), tmp_path / "changed.pt2"
    refused = 0
    for _ in range(300):
        changed = bytearray(content)
        for _ in range(draw.choice((1, 3, 20))):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        path.write_bytes(changed[: draw.choice((len(changed), draw.randrange(len(changed))))])
        try:
            read_archive(path)
        except (UnsafeArtifact, InvalidField):
            refused += 1

    assert 200 < refused < 300  # what is never read may change


def _op(target: str) -> Callable[[Any], None]:
    def edit(told: Any) -> None:
        told["graph_module"]["graph"]["nodes"][1]["target"] = target

    return edit


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.item.default",
        "torch.ops.aten.nonzero.default",
        "torch.ops.aten.rand.default",
        "torch.ops.aten.empty.memory_format",
        "torch.ops.aten.add_.Tensor",
        "torch.ops.aten.add.out",
        "torch.ops.aten.__class__.default",
        "torch.ops.mylib.run.default",
        "torch.ops.higher_order.cond",
        "torch.ops.profiler._record_function_enter_new.default",
        "_operator.pow",
        "_operator.attrgetter",
        "builtins.eval",
        "torch.load",
        "math.factorial",
        "os.system",
    ],
)
def test_operators_outside_the_list_are_refused_by_name(program: Path, target: str) -> None:
    archive = read_archive(rewritten(program, json_edits={MODEL: _op(target)}))

    with pytest.raises(InvalidField, match=r"not in the list|writes into|no such overload|argument of it|is missing"):
        Program(archive.graph, archive.tensors)


def test_expressions_that_torch_would_evaluate_are_not_read(program: Path, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    code = f"__import__('os').mkdir({str(sprung)!r})"

    def edit(told: Any) -> None:
        told["guards_code"] = [code]
        told["range_constraints"] = {code: {"min_val": 0, "max_val": 9}}
        values = told["graph_module"]["graph"]["tensor_values"]
        for meta in values.values():
            for size in meta["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = code

    assert read_archive(rewritten(program, json_edits={MODEL: edit})).graph.nodes
    assert not sprung.exists()


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda told: told.update(schema_version={"major": 99, "minor": 1}), "schema"),
        (lambda told: told.update(graph_module=7), "malformed"),
        (lambda told: told["graph_module"]["graph"].update(nodes=[{}]), "malformed"),
        (lambda told: told["graph_module"]["signature"]["input_specs"].append({}), "malformed"),
    ],
)
def test_a_graph_that_is_none_is_refused(program: Path, edit: Callable[[Any], None], said: str) -> None:
    with pytest.raises(UnsafeArtifact, match=said):
        read_archive(rewritten(program, json_edits={MODEL: edit}))


@pytest.mark.parametrize(
    "edit",
    [
        lambda meta: meta["sizes"][0].update(as_int=1 << 30),
        lambda meta: meta["strides"][0].update(as_int=1 << 30),
        lambda meta: meta["storage_offset"].update(as_int=1 << 30),
        lambda meta: meta["sizes"][0].update(as_int=-1),
        lambda meta: meta.update(strides=[{"as_int": 0}], sizes=[{"as_int": 1 << 30}]),
        lambda meta: meta.update(dtype=12345),
        lambda meta: meta.update(sizes=[{"as_int": 1}] * 3),
        lambda meta: meta.clear(),
    ],
)
def test_a_tensor_that_promises_what_its_bytes_are_not_is_refused(program: Path, edit: Callable[[Any], None]) -> None:
    def edit_bias(told: Any) -> None:
        edit(told["config"]["user.bias"]["tensor_meta"])

    with pytest.raises(UnsafeArtifact, match=r"user\.bias"):
        read_archive(rewritten(program, json_edits={WEIGHTS: edit_bias}))


def test_a_fixed_batch_size_is_refused(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def forward(self, candidate_dense_ND: Tensor) -> Tensor:
            return candidate_dense_ND

    exported = torch.export.export(Fixed(), (), {"candidate_dense_ND": torch.zeros(4, 3)})
    torch.export.save(exported, tmp_path / "fixed.pt2")

    with pytest.raises(InvalidField, match="fixed first dimension"):
        read_archive(tmp_path / "fixed.pt2")


def test_control_flow_is_refused(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, candidate_dense_ND: Tensor) -> Tensor:
            some = candidate_dense_ND.sum() > 0
            branched: Tensor = torch.cond(some, torch.sin, torch.cos, (candidate_dense_ND,))
            return branched

    path = saved(Branching(), tmp_path / "branching.pt2", candidate_dense_ND=torch.zeros(4, 3))

    with pytest.raises(InvalidField, match=r"control flow|not in the list"):
        read_archive(path)
