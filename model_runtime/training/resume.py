"""A training run's state in one file, so that a run that was killed goes on and ends in the same bits.

The file is safetensors: weights, the optimizer's moments, torch's random state and the losses so far; its metadata
hold the step and what the run was of. The order of the data follows from the seed, so the step says where in it the
run stood.
"""

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from control_plane.domain.errors import InvalidField, UnsafeArtifact
from model_runtime.checkpoints import read_tensors
from model_runtime.training.data import Examples
from model_runtime.training.losses import LossCurve
from model_runtime.training.stream import Stream

RESUME_FILE = "resume.safetensors"
NETWORK, OPTIMIZER, RANDOM, LOSSES = "network.", "optimizer.", "random_state", "losses"


@dataclass(frozen=True, kw_only=True, slots=True)
class Resume:
    """Where a run's state lies, and how often it is saved; `identity` is that of the run's data and config."""

    path: Path
    identity: str
    every_steps: int = 100

    def __post_init__(self) -> None:
        if self.every_steps < 1:
            raise InvalidField("checkpoint_every", f"must be at least 1 step, not {self.every_steps}")

    def save(self, network: nn.Module, optimizer: torch.optim.Optimizer, step: int, losses: LossCurve) -> None:
        """Replace the file in one step: whenever the process dies, a whole one is there."""
        tensors: dict[str, Tensor] = {f"{NETWORK}{index}": weight for index, weight in enumerate(network.parameters())}
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"{OPTIMIZER}{index}.{name}": torch.as_tensor(each) for name, each in moments.items()}
        tensors |= {RANDOM: torch.get_rng_state(), LOSSES: losses.state()}
        metadata = {"identity": self.identity, "step": str(step)}
        content = safetensors.torch.save({name: each.detach().cpu() for name, each in tensors.items()}, metadata)
        _replace(self.path, content)

    def restore(self, network: nn.Module, optimizer: torch.optim.Optimizer, losses: LossCurve) -> int:
        """Put everything back as it was saved and return the steps done; 0 where nothing was saved.

        Raises:
            InvalidField: the file is of a run on other data or with another config.
            UnsafeArtifact: it is no whole safetensors file, or does not hold this run's tensors.
        """
        if not self.path.exists():
            return 0
        content = self.path.read_bytes()
        tensors, metadata = read_tensors(content, self.path), _metadata(content)
        if metadata.get("identity") != self.identity:
            raise InvalidField("resume", f"{self.path} is of a run on other data or with another config")
        _restore_weights(network, tensors, self.path)
        _restore_moments(optimizer, tensors)
        torch.set_rng_state(tensors[RANDOM])
        if LOSSES in tensors:  # states of before do not tell
            losses.restore(tensors[LOSSES])
        return int(metadata["step"])


def identity_of(examples: Examples | Stream, config: object) -> str:
    """The same only for the same rows in the same order, trained the same way."""
    if isinstance(examples, Stream):
        return hashlib.sha256(f"{examples.identity()}/{config!r}".encode()).hexdigest()
    told = hashlib.sha256(json.dumps([examples.spec.to_json(), repr(config)], sort_keys=True).encode())
    arrays = [getattr(examples.rows, name) for name in examples.rows.given()]
    for array in (*arrays, examples.label_NT, examples.surface_N, examples.served_at_ms_N):
        told.update(array.tobytes())
    return told.hexdigest()


def _restore_weights(network: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    with torch.no_grad():
        for index, weight in enumerate(network.parameters()):
            saved = tensors.get(f"{NETWORK}{index}")
            if saved is None or saved.shape != weight.shape:
                raise UnsafeArtifact(str(path), "does not hold the weights of this network")
            weight.copy_(saved)


def _restore_moments(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, saved in tensors.items():
        if name.startswith(OPTIMIZER):
            index, moment = name.removeprefix(OPTIMIZER).split(".")
            state.setdefault(int(index), {})[moment] = saved
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _metadata(content: bytes) -> dict[str, str]:
    header_bytes = int.from_bytes(content[:8], "little")
    told = json.loads(content[8 : 8 + header_bytes]).get("__metadata__")
    return told if isinstance(told, dict) else {}


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as staging:
        whole = Path(staging) / path.name
        with whole.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        whole.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
