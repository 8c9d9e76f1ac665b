"""`python -m model_runtime export-program`: a version out of a `.pt2` file, or of a module of the user's own."""

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from torch import nn

from control_plane.domain.errors import ControlPlaneError, InvalidField
from control_plane.domain.model_version import Surface, VersionId
from model_runtime.networks.calibration import Calibrator
from model_runtime.networks.engagement import CLICK, TASKS
from model_runtime.networks.features import FeatureSpec, RowBatch
from model_runtime.networks.nulls import null_rates_of_rows
from model_runtime.programs.archive import Archive, read_archive
from model_runtime.programs.export import DEFAULT_MODEL_NAME, ProgramConfig, archive_of, export_program, uncalibrated
from model_runtime.training.calibrate import METHODS, CalibrationConfig, fit_calibrator
from model_runtime.training.data import Examples, read_examples, read_json, split_by_time
from model_runtime.training.train import TrainConfig, golden_rows

PASS_ROWS = 8_192  # of a data set, scored at once


def main(argv: Sequence[str]) -> int:
    """Export one program; 0 when it did, 1 after an error that says why (2: wrong usage)."""
    arguments = _parser().parse_args(argv)
    try:
        print(_export(arguments))
    except ControlPlaneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model_runtime export-program")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--program", type=Path, help="a .pt2 of torch.export.save; nothing in it is unpickled or run")
    source.add_argument(
        "--module", help="FILE.py:NAME or PACKAGE.MODULE:NAME, a callable that makes the module; is run"
    )
    contract = parser.add_mutually_exclusive_group(required=True)
    contract.add_argument("--features", type=Path, help="features.json: what a caller must send")
    contract.add_argument("--data", type=Path, help="data set with features.json, to calibrate on and to check with")
    parser.add_argument("--surface", required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder that gets a folder of the surface's name")
    parser.add_argument("--model-name", default=DEFAULT_MODEL_NAME)
    parser.add_argument("--training-run", default="own program", help="what the manifest says that it came from")
    parser.add_argument(
        "--input", action="append", default=[], metavar="NAME=FIELD", help="where the program's names differ"
    )
    parser.add_argument(
        "--outputs",
        default=",".join(TASKS),
        help="in their order; a dictionary that the program returns says so itself",
    )
    parser.add_argument("--probabilities", action="store_true", help="the outputs are probabilities, not logits")
    parser.add_argument(
        "--calibration", choices=METHODS, help="fit a calibrator by view type on the data set's last part"
    )
    parser.add_argument("--max-unique-users", type=int, default=2_048)
    parser.add_argument("--latency-card", action="store_true", help="measure the version and tell it in its manifest")
    return parser


def _export(arguments: argparse.Namespace) -> str:
    config = ProgramConfig(
        surface=Surface(arguments.surface),
        model_name=arguments.model_name,
        training_run=arguments.training_run,
        inputs=_inputs(arguments.input),
        tasks=tuple(arguments.outputs.split(",")),
        kind="probabilities" if arguments.probabilities else "logits",
        max_unique_users=arguments.max_unique_users,
        has_latency_card=arguments.latency_card,
    )
    if arguments.calibration and arguments.data is None:
        raise InvalidField("calibration", "needs --data to be fitted on")
    examples = None if arguments.data is None else read_examples(arguments.data)
    spec = examples.spec if examples else FeatureSpec.from_json(read_json(arguments.features))
    spec.view_types_of(config.surface)
    archive = _archive(arguments, spec, config)
    if examples is not None:
        version_id = _export_on_data(archive, examples, arguments, config)
    else:
        version_id = export_program(archive, spec, arguments.out, config)
    return f"{config.surface} {version_id} {arguments.out / config.surface}"


def _archive(arguments: argparse.Namespace, spec: FeatureSpec, config: ProgramConfig) -> Archive:
    if arguments.program is not None:
        return read_archive(arguments.program, inputs=config.inputs)
    return archive_of(_module(arguments.module), spec, config)


def _export_on_data(
    archive: Archive, examples: Examples, arguments: argparse.Namespace, config: ProgramConfig
) -> VersionId:
    parts = split_by_time(examples, config.surface, TrainConfig().held_out)
    training = examples.batch(parts.training).of_surface(examples.spec, config.surface)
    calibrator = None
    if arguments.calibration:
        calibrator = _calibrator(archive, examples, parts.calibration, config, arguments.calibration)
    return export_program(
        archive,
        examples.spec,
        arguments.out,
        config,
        golden=golden_rows(examples, config.surface, parts),
        calibrator=calibrator,
        null_rate_F=null_rates_of_rows(training),
    )


def _calibrator(
    archive: Archive, examples: Examples, row_M: NDArray[np.int64], config: ProgramConfig, method: str
) -> Calibrator:
    version = uncalibrated(archive, examples.spec, config)
    batches = [_batch(examples, row_M[first : first + PASS_ROWS], config) for first in range(0, len(row_M), PASS_ROWS)]
    click_M = np.concatenate([version.score(batch)["click"] for batch in batches]).astype(np.float64)
    return fit_calibrator(
        np.log(click_M) - np.log1p(-click_M),
        examples.label_NT[row_M, CLICK] > 0,
        np.concatenate([batch.view_type_N for batch in batches]),
        len(examples.spec.view_types_of(config.surface)),
        CalibrationConfig(method=method),
    )


def _batch(examples: Examples, row_M: NDArray[np.int64], config: ProgramConfig) -> RowBatch:
    return examples.batch(row_M).of_surface(examples.spec, config.surface)


def _inputs(given: Sequence[str]) -> dict[str, str]:
    inputs = {}
    for text in given:
        name, separator, its_field = text.partition("=")
        if not separator or its_field not in RowBatch.__slots__:
            raise InvalidField(
                "input", f"must be NAME=FIELD, FIELD one of {', '.join(RowBatch.__slots__)}, not {text!r}"
            )
        inputs[name] = its_field
    return inputs


def _module(text: str) -> nn.Module:
    """What the user's own code makes: it runs here, in the user's process, and nowhere else."""
    where, _, name = text.rpartition(":")
    make = getattr(_imported(where), name, None)
    if not callable(make):
        raise InvalidField("module", f"{text!r} names no callable; FILE.py:NAME or PACKAGE.MODULE:NAME is wanted")
    module = make()
    if not isinstance(module, nn.Module):
        raise InvalidField("module", f"{text!r} makes a {type(module).__name__}, not a torch.nn.Module")
    return module


def _imported(where: str) -> ModuleType:
    if not where.endswith(".py"):
        try:
            return importlib.import_module(where)
        except (ImportError, ValueError) as error:
            raise InvalidField("module", f"{where!r} cannot be imported: {error}") from None
    spec = importlib.util.spec_from_file_location(Path(where).stem, where)
    if spec is None or spec.loader is None or not Path(where).is_file():
        raise InvalidField("module", f"there is no file {where!r}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
