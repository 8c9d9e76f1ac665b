"""Commands of the training side: train, add-surface, recalibrate, export, report. Those of data: `data_commands`."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from control_plane.domain.errors import ControlPlaneError, InvalidField
from control_plane.domain.manifest import PRECISIONS as SERVED_PRECISIONS
from control_plane.domain.model_version import Surface
from model_runtime.networks.engagement import HeadConfig, TrunkConfig, read_config
from model_runtime.training import data_commands
from model_runtime.training.calibrate import METHODS, CalibrationConfig
from model_runtime.training.data import IMPRESSIONS_FILE, Examples, read_examples, read_json
from model_runtime.training.export import DEFAULT_MODEL_NAME, ExportConfig, export
from model_runtime.training.faults import parse_fault, with_fault
from model_runtime.training.fit import PRECISIONS
from model_runtime.training.joint import JointCheckpoint
from model_runtime.training.migrate import add_surface
from model_runtime.training.progress import passes, steps
from model_runtime.training.report import REPORT_FILE, write_report
from model_runtime.training.resume import RESUME_FILE, Resume, identity_of
from model_runtime.training.row_groups import row_groups
from model_runtime.training.stream import BUFFER_ROWS, Stream, open_stream
from model_runtime.training.train import TrainConfig, recalibrate, train

RESUMED_EVERY = 100  # steps, where a resumed run is not told how often to save
STREAMED_ROWS = 1_000_000  # from as many on, rows are read as they are needed unless asked otherwise


def main(argv: Sequence[str]) -> int:
    """Run one command; 0 when it did what it should, 1 after an error that says why (2: wrong usage)."""
    arguments = _parser().parse_args(argv)
    try:
        command: Callable[[argparse.Namespace], None] = arguments.command
        command(arguments)
    except ControlPlaneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model_runtime")
    commands = parser.add_subparsers(required=True)
    data_commands.add(commands)
    _add_train(commands)
    _add_add_surface(commands)
    _add_recalibrate(commands)
    _add_export(commands)
    _add_report(commands)
    return parser


def _add_train(commands: Any) -> None:
    default = TrainConfig()
    command = commands.add_parser("train", help="train one network for all surfaces of a data set")
    command.add_argument("--data", type=Path, required=True, help="folder with impressions.parquet and features.json")
    command.add_argument("--out", type=Path, required=True, help="folder for the joint checkpoint")
    command.add_argument("--seed", type=int, default=default.seed)
    command.add_argument("--epochs", type=int, default=default.epochs)
    command.add_argument("--steps", type=int, default=None, help="stop after so many steps, whatever the epochs")
    command.add_argument("--batch-rows", type=int, default=default.batch_rows)
    command.add_argument("--learning-rate", type=float, default=default.learning_rate)
    command.add_argument("--weight-decay", type=float, default=default.weight_decay)
    command.add_argument("--held-out", type=float, default=default.held_out, help="share of each surface's latest rows")
    command.add_argument("--before-ms", type=int, default=None, help="use only what was served before this time")
    command.add_argument("--surfaces", default=None, help="use only these, as home_feed,search; others may come later")
    command.add_argument("--model", type=Path, default=None, help="JSON with 'trunk', 'head' and 'heads' by surface")
    command.add_argument("--one-head", action="store_true", help="one head for all surfaces: the baseline")
    command.add_argument("--start", type=Path, default=None, help="a checkpoint whose network to go on from")
    command.add_argument(
        "--precision", choices=PRECISIONS, default=default.precision, help="how matrices are multiplied"
    )
    command.add_argument("--calibration", choices=METHODS, default=default.calibration.method)
    command.add_argument("--checkpoint-every", type=int, default=0, help="steps after which the run's state is saved")
    command.add_argument("--resume", action="store_true", help="go on from the state that lies in the output folder")
    command.add_argument(
        "--stream",
        choices=("auto", "always", "never"),
        default="auto",
        help=f"read rows as they are needed, in memory that does not grow with them (auto: from {STREAMED_ROWS} on)",
    )
    command.add_argument("--buffer-rows", type=int, default=BUFFER_ROWS, help="mixed with each other, where streamed")
    command.add_argument("--device", default=default.device)
    command.add_argument(
        "--threads", type=int, default=None, help="of torch; the result depends on it in the last bits"
    )
    command.set_defaults(command=_train)


def _add_recalibrate(commands: Any) -> None:
    command = commands.add_parser("recalibrate", help="fit a checkpoint's calibrators anew, its weights untouched")
    command.add_argument("--checkpoint", type=Path, required=True)
    command.add_argument("--data", type=Path, required=True, help="folder with impressions.parquet and features.json")
    command.add_argument("--out", type=Path, required=True, help="folder for the joint checkpoint")
    command.add_argument("--after-ms", type=int, default=None, help="use only what was served at this time or later")
    command.add_argument("--calibration", choices=METHODS, default=None, help="another kind than the checkpoint's")
    command.set_defaults(command=_recalibrate)


def _add_add_surface(commands: Any) -> None:
    default = TrainConfig()
    command = commands.add_parser("add-surface", help="add a surface to a checkpoint whose other surfaces stay as is")
    command.add_argument("--checkpoint", type=Path, required=True, help="joint checkpoint that lacks the surface")
    command.add_argument("--data", type=Path, required=True, help="data set that has the surface")
    command.add_argument("--surface", required=True)
    command.add_argument("--out", type=Path, required=True, help="folder for the joint checkpoint")
    command.add_argument(
        "--model", type=Path, default=None, help="JSON with the surface's 'head', or 'heads' by surface"
    )
    command.add_argument("--seed", type=int, default=default.seed)
    command.add_argument("--epochs", type=int, default=default.epochs)
    command.add_argument("--steps", type=int, default=None, help="stop after so many steps, whatever the epochs")
    command.set_defaults(command=_add_surface)


def _add_export(commands: Any) -> None:
    command = commands.add_parser("export", help="write one artifact folder per surface of a checkpoint")
    command.add_argument("--checkpoint", type=Path, required=True)
    command.add_argument("--out", type=Path, required=True, help="folder that gets a folder per surface")
    command.add_argument("--model-name", default=DEFAULT_MODEL_NAME)
    command.add_argument("--blobs", type=Path, default=None, help="store of shared files (default: OUT/.blobs)")
    command.add_argument("--max-unique-users", type=int, default=ExportConfig().max_unique_users)
    command.add_argument("--latency-card", action="store_true", help="measure each version and tell it in its manifest")
    command.add_argument(
        "--compile-card", action="store_true", help="measure each compiled, too; runtimes then compile what was faster"
    )
    command.add_argument(
        "--precision", choices=SERVED_PRECISIONS, default=ExportConfig().precision, help="profile to be served in"
    )
    command.add_argument(
        "--fault",
        action="append",
        default=[],
        help="for drills: SURFACE.calibrator=FACTOR multiplies click odds, trunk=scramble turns every ranking around",
    )
    command.set_defaults(command=_export)


def _add_report(commands: Any) -> None:
    command = commands.add_parser("report", help="write what a checkpoint's training came to as one HTML file")
    command.add_argument("--checkpoint", type=Path, required=True)
    command.add_argument("--out", type=Path, default=None, help=f"file (default: {REPORT_FILE} in the checkpoint)")
    command.set_defaults(command=_report)


def _train(arguments: argparse.Namespace) -> None:
    config = TrainConfig(
        seed=arguments.seed,
        epochs=arguments.epochs,
        steps=arguments.steps,
        batch_rows=arguments.batch_rows,
        learning_rate=arguments.learning_rate,
        weight_decay=arguments.weight_decay,
        held_out=arguments.held_out,
        device=arguments.device,
        has_one_head=arguments.one_head,
        precision=arguments.precision,
        calibration=CalibrationConfig(method=arguments.calibration),
        **_model(arguments.model),
    )
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    surfaces = None if arguments.surfaces is None else arguments.surfaces.split(",")
    examples = _examples(arguments, surfaces)
    start = None if arguments.start is None else JointCheckpoint.read(arguments.start)
    resume = _resume(arguments, examples, config, start)
    begun = time.perf_counter()
    with steps() as progress:
        network = None if start is None else start.network
        joint = train(examples, config, progress=progress, resume=resume, start=network)
    seconds = time.perf_counter() - begun
    joint.write(arguments.out)
    write_report(joint, arguments.out / REPORT_FILE)
    (arguments.out / RESUME_FILE).unlink(missing_ok=True)
    print(f"trained on {examples.num_rows} rows in {seconds:.1f} s: {joint.training_run} in {arguments.out}")
    print(_table(joint))


def _examples(arguments: argparse.Namespace, surfaces: Sequence[str] | None) -> Examples | Stream:
    """In memory or streamed; only what the command line asks for."""
    if arguments.stream != "never":
        groups = row_groups(arguments.data / IMPRESSIONS_FILE) if (arguments.data / IMPRESSIONS_FILE).exists() else []
        if arguments.stream == "always" or sum(group.num_rows for group in groups) >= STREAMED_ROWS:
            used = {"before_ms": arguments.before_ms, "surfaces": surfaces}
            return open_stream(arguments.data, buffer_rows=arguments.buffer_rows, told=passes(), **used)
    return read_examples(arguments.data, before_ms=arguments.before_ms, surfaces=surfaces)


def _resume(
    arguments: argparse.Namespace, examples: Examples | Stream, config: TrainConfig, start: JointCheckpoint | None
) -> Resume | None:
    """Saves as often as asked; what an earlier run left is gone on from only where that is asked, too."""
    if not arguments.checkpoint_every and not arguments.resume:
        return None
    path = arguments.out / RESUME_FILE
    if not arguments.resume:
        path.unlink(missing_ok=True)
    identity = identity_of(examples, (config, None if start is None else start.training_run))
    return Resume(path=path, identity=identity, every_steps=arguments.checkpoint_every or RESUMED_EVERY)


def _add_surface(arguments: argparse.Namespace) -> None:
    joint, surface = JointCheckpoint.read(arguments.checkpoint), Surface(arguments.surface)
    model = {name: each for name, each in _model(arguments.model).items() if name != "trunk"}
    config = TrainConfig(seed=arguments.seed, epochs=arguments.epochs, steps=arguments.steps, **model)
    with steps() as progress:
        grown = add_surface(joint, read_examples(arguments.data), surface, config, progress=progress)
    grown.write(arguments.out)
    write_report(grown, arguments.out / REPORT_FILE)
    print(f"added {surface}: {grown.training_run} in {arguments.out}")
    print(_table(grown))


def _model(path: Path | None) -> dict[str, Any]:
    """The network's own part of a `TrainConfig`, from a file; what the file does not tell stays as it is."""
    if path is None:
        return {}
    told = read_json(path)
    if not isinstance(told, dict) or told.keys() - {"trunk", "head", "heads"}:
        raise InvalidField(path.name, "must be an object of 'trunk', 'head' and 'heads'")
    model: dict[str, Any] = {}
    for name, kind in (("trunk", TrunkConfig), ("head", HeadConfig)):
        if name in told:
            model[name] = read_config(kind, name, _over(asdict(kind()), told[name]))
    heads = told.get("heads", {})
    if not isinstance(heads, dict):
        raise InvalidField("heads", "must be an object")
    model["heads"] = {
        Surface(surface): read_config(HeadConfig, f"heads.{surface}", _over(asdict(HeadConfig()), each))
        for surface, each in heads.items()
    }
    return model


def _over(default: object, told: object) -> object:
    """The default with what is told put over it, entry by entry."""
    if not isinstance(default, dict) or not isinstance(told, dict):
        return told
    return {**default, **{name: _over(default.get(name), each) for name, each in told.items()}}


def _recalibrate(arguments: argparse.Namespace) -> None:
    joint = JointCheckpoint.read(arguments.checkpoint)
    calibration = None if arguments.calibration is None else CalibrationConfig(method=arguments.calibration)
    examples = read_examples(arguments.data, surfaces=joint.spec.surfaces)
    fitted = recalibrate(joint, examples, after_ms=arguments.after_ms, calibration=calibration)
    fitted.write(arguments.out)
    print(f"calibrated anew: {joint.training_run} in {arguments.out}")


def _export(arguments: argparse.Namespace) -> None:
    joint = JointCheckpoint.read(arguments.checkpoint)
    for text in arguments.fault:
        joint = with_fault(joint, parse_fault(text))
    config = ExportConfig(
        model_name=arguments.model_name,
        max_unique_users=arguments.max_unique_users,
        blobs=arguments.blobs,
        has_latency_card=arguments.latency_card,
        has_compile_card=arguments.compile_card,
        precision=arguments.precision,
    )
    for surface, version_id in export(joint, arguments.out, config=config).items():
        print(f"{surface} {version_id} {arguments.out / surface}")


def _report(arguments: argparse.Namespace) -> None:
    path = arguments.out or arguments.checkpoint / REPORT_FILE
    write_report(JointCheckpoint.read(arguments.checkpoint), path)
    print(f"report in {path}")


def _table(joint: JointCheckpoint) -> str:
    """Quality on held-out rows, for people; NE below 1 beats the group's own click rate, calibration 1 is right."""
    held_out = joint.metrics["held_out"]
    assert isinstance(held_out, dict)
    lines = [f"{'surface':<16}{'view type':<16}{'rows':>8}{'clicks':>8}{'NE':>9}{'AUC':>9}{'calibration':>13}"]
    for surface, groups in held_out.items():
        for name, group in groups.items():
            figures = [group[key] for key in ("normalised_entropy", "auc", "calibration")]
            shown = [f"{figure:.4f}" if figure is not None else "–" for figure in figures]
            lines.append(
                f"{surface:<16}{name:<16}{group['rows']:>8}{group['clicks']:>8}{shown[0]:>9}{shown[1]:>9}{shown[2]:>13}"
            )
    return "\n".join(lines)
