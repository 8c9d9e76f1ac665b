"""The joint checkpoint: what one training run over all surfaces leaves behind, as a folder without pickles.

Files: config.json, trunk.safetensors, and per surface SURFACE.head.safetensors, SURFACE.calibrator.safetensors
and SURFACE.golden.safetensors (held-out rows, with the scores they got).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from control_plane.domain.errors import InvalidField, UnsafeArtifact
from control_plane.domain.manifest import FittedOn
from control_plane.domain.model_version import Surface, check_digest, digest_of
from model_runtime.checkpoints import fill, golden_batch, golden_content, read_num_knots, read_tensors, tensors_of
from model_runtime.networks.calibration import Calibrator
from model_runtime.networks.engagement import EngagementNetwork, HeadConfig, TrunkConfig, read_config, write_config
from model_runtime.networks.features import FeatureSpec, RowBatch
from model_runtime.networks.nulls import RateArray, null_rates_from_json, null_rates_to_json

FORMAT = "surefoot-joint/1"
CONFIG_FILE, TRUNK_FILE = "config.json", "trunk.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class JointCheckpoint:
    """The network of all surfaces, a calibrator per surface, and rows to check an export with.

    `null_rates` is how often each feature was null in a surface's training rows, see `networks.nulls`. `fitted_on`
    has the weights that each calibrator was fitted on; checkpoints of before do not tell.
    """

    network: EngagementNetwork
    calibrators: Mapping[Surface, Calibrator]
    golden: Mapping[Surface, RowBatch]
    training_run: str
    metrics: Mapping[str, object]
    null_rates: Mapping[Surface, RateArray] = field(default_factory=dict)
    fitted_on: Mapping[Surface, FittedOn] = field(default_factory=dict)

    @property
    def spec(self) -> FeatureSpec:
        return self.network.spec

    def write(self, folder: Path) -> None:
        """Write all files; config.json comes last, so that a folder cut short does not read as a checkpoint."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG_FILE).unlink(missing_ok=True)
        (folder / TRUNK_FILE).write_bytes(tensors_of(self.network.trunk))
        for surface in self.spec.surfaces:
            (folder / f"{surface}.head.safetensors").write_bytes(tensors_of(self.network.head_of(surface)))
            (folder / f"{surface}.calibrator.safetensors").write_bytes(tensors_of(self.calibrators[surface]))
            (folder / f"{surface}.golden.safetensors").write_bytes(golden_content(self.golden[surface], {}))
        (folder / CONFIG_FILE).write_text(json.dumps(self._config(), indent=2, sort_keys=True))

    def _config(self) -> dict[str, object]:
        return {
            "format": FORMAT,
            "training_run": self.training_run,
            "features": self.spec.to_json(),
            "trunk": write_config(self.network.trunk.config),
            "heads": {surface: write_config(self.network.head_of(surface).config) for surface in self.spec.surfaces},
            "calibrators": {
                name: {"num_knots": each.num_knots} for name, each in self.calibrators.items() if each.num_knots
            },
            "metrics": self.metrics,
            "null_rates": {surface: null_rates_to_json(self.spec, each) for surface, each in self.null_rates.items()},
            "fitted_on": {surface: asdict(each) for surface, each in self.fitted_on.items()},
        }

    @classmethod
    def read(cls, folder: Path) -> "JointCheckpoint":
        """Read what `write` wrote.

        Raises:
            InvalidField: config.json is missing or malformed.
            UnsafeArtifact: a file is missing, no safetensors, or not what the config makes it.
        """
        config = _read_config(folder / CONFIG_FILE)
        spec = FeatureSpec.from_json(config.get("features"))
        heads, metrics = config.get("heads"), config.get("metrics")
        if not isinstance(heads, dict) or not isinstance(metrics, dict):
            raise InvalidField("config.json", "must hold the objects 'heads' and 'metrics'")
        null_rates = config.get("null_rates", {})  # a checkpoint of before does not tell
        if not isinstance(null_rates, dict):
            raise InvalidField("null_rates", "must be an object")
        fitted_on = config.get("fitted_on", {})  # nor this
        if not isinstance(fitted_on, dict):
            raise InvalidField("fitted_on", "must be an object")
        network = EngagementNetwork(
            spec,
            read_config(TrunkConfig, "trunk", config.get("trunk")),
            {surface: read_config(HeadConfig, f"heads.{surface}", heads.get(surface)) for surface in spec.surfaces},
        )
        knots = config.get("calibrators", {})  # those without an isotonic part are not told
        if not isinstance(knots, dict):
            raise InvalidField("calibrators", "must be an object")
        calibrators = {
            surface: Calibrator(len(spec.view_types[surface]), read_num_knots(knots.get(surface)))
            for surface in spec.surfaces
        }
        golden = {}
        fill(network.trunk, *_read(folder / TRUNK_FILE))
        for surface in spec.surfaces:
            fill(network.head_of(surface), *_read(folder / f"{surface}.head.safetensors"))
            fill(calibrators[surface], *_read(folder / f"{surface}.calibrator.safetensors"))
            content, path = _read(folder / f"{surface}.golden.safetensors")
            golden[surface] = golden_batch(read_tensors(content, path), path)
        return cls(
            network=network.eval(),
            calibrators=calibrators,
            golden=golden,
            training_run=str(config.get("training_run")),
            metrics=metrics,
            null_rates={Surface(name): null_rates_from_json(spec, each) for name, each in null_rates.items()},
            fitted_on={Surface(name): _fitted_on(name, each) for name, each in fitted_on.items()},
        )


def weights_of(network: EngagementNetwork) -> dict[Surface, FittedOn]:
    """What calibrators are tied to that are fitted on this network's scores."""
    trunk = digest_of(tensors_of(network.trunk))
    return {
        surface: FittedOn(trunk=trunk, surface_export=digest_of(tensors_of(network.head_of(surface))))
        for surface in network.spec.surfaces
    }


def _fitted_on(surface: str, told: object) -> FittedOn:
    if not isinstance(told, dict):
        raise InvalidField(f"fitted_on.{surface}", "must map trunk and surface_export to digests")
    trunk, surface_export = (
        check_digest(f"fitted_on.{surface}.{part}", told.get(part, "")) for part in ("trunk", "surface_export")
    )
    return FittedOn(trunk=trunk, surface_export=surface_export)


def _read_config(path: Path) -> dict[str, object]:
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise InvalidField("checkpoint", f"cannot be read: {path}: {error.strerror}") from None
    except ValueError as error:
        raise InvalidField("config.json", f"is not JSON: {error}") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise InvalidField("config.json", f"must be an object of the format {FORMAT!r}")
    return config


def _read(path: Path) -> tuple[bytes, Path]:
    try:
        return path.read_bytes(), path
    except OSError as error:
        raise UnsafeArtifact(str(path), f"cannot be read: {error.strerror}") from None
