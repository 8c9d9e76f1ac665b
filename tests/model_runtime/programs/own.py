"""A module as a user might write it, and archives that one might send instead."""

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from control_plane.domain.model_version import VersionId
from model_runtime.programs.export import ProgramConfig, archive_of, export_program
from tests.networks.builders import HOME_FEED, a_spec

NUM_ITEMS = 20
CONFIG = ProgramConfig(surface=HOME_FEED)


class TwoTowers(nn.Module):
    """Users once: what they did, beside what they are; then each of their candidates."""

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.items = nn.Embedding(NUM_ITEMS, 8, padding_idx=0)
        self.user = nn.Linear(8 + 1, 16)
        self.tower = nn.Sequential(nn.Linear(16 + 8 + 2, 32), nn.ReLU(inplace=True), nn.Dropout(0.1), nn.Linear(32, 3))

    def forward(
        self,
        user_dense_UD: Tensor,
        history_UL: Tensor,
        user_index_N: Tensor,
        candidate_categorical_NC: Tensor,
        candidate_dense_ND: Tensor,
    ) -> dict[str, Tensor]:
        is_entry_UL1 = (history_UL != 0)[:, :, None]
        history_UE = (self.items(history_UL) * is_entry_UL1).sum(1) / is_entry_UL1.sum(1).clamp(min=1)
        user_UY = torch.relu(self.user(torch.cat((history_UE, user_dense_UD.tanh()), dim=1)))
        item_NE = self.items(candidate_categorical_NC[:, 0])
        row_NX = torch.cat((user_UY[user_index_N], item_NE, candidate_dense_ND.tanh()), dim=1)
        click_N, hide_N, good_click_N = self.tower(row_NX).unbind(dim=1)
        return {"click": click_N, "hide": hide_N - 3, "good_click": good_click_N - 1}


class ByRow(nn.Module):
    """Takes no index of users: its users come once for each row. It gives probabilities."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.linear = nn.Linear(1 + 2, 3)

    def forward(self, user_dense_UD: Tensor, candidate_dense_ND: Tensor) -> Tensor:
        return torch.sigmoid(self.linear(torch.cat((user_dense_UD, candidate_dense_ND), dim=1).tanh()))


def export_own(out: Path, *, seed: int = 0) -> VersionId:
    spec = a_spec()
    return export_program(archive_of(TwoTowers(seed=seed), spec, CONFIG), spec, out, CONFIG)


def saved(module: nn.Module, path: Path, **inputs: Tensor) -> Path:
    """A `.pt2` as torch writes it, dynamic in every first dimension."""
    shapes = {name: {0: torch.export.Dim("users" if "_U" in name else "rows")} for name in inputs}
    exported = torch.export.export(module.eval(), (), inputs, dynamic_shapes=shapes)
    torch.export.save(exported, path)
    return path


def rewritten(
    path: Path,
    *,
    json_edits: Mapping[str, Callable[[Any], None]] | None = None,
    replaced: Mapping[str, bytes] | None = None,
    added: Mapping[str, bytes] | None = None,
) -> Path:
    """Another archive beside the first, with members changed; names are as they stand in the archive."""
    changed = path.with_name(f"changed-{path.name}")
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(changed, "w") as out:
        for info in whole.infolist():
            name = info.filename.partition("/")[2]
            content = (replaced or {}).get(name, whole.read(info))
            if json_edits and name in json_edits:
                value = json.loads(content)
                json_edits[name](value)
                content = json.dumps(value).encode()
            out.writestr(info.filename, content)
        for name, content in (added or {}).items():
            out.writestr(name, content)
    return changed
