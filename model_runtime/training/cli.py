"""Commands of the training side: open-bandit, train, recalibrate, export."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from control_plane.domain.errors import ControlPlaneError
from model_runtime.training import open_bandit
from model_runtime.training.data import read_examples
from model_runtime.training.export import DEFAULT_MODEL_NAME, export
from model_runtime.training.faults import parse_fault, with_fault
from model_runtime.training.joint import JointCheckpoint
from model_runtime.training.train import Progress, TrainConfig, recalibrate, train

try:
    import rich.console
    import rich.progress
except ImportError:  # the runtime's own dependencies do not include it
    HAS_RICH = False
else:
    HAS_RICH = True

PLAIN_LINES = 10  # of progress, where no terminal shows a bar


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
    _add_open_bandit(commands)
    _add_train(commands)
    _add_recalibrate(commands)
    _add_export(commands)
    return parser


def _add_open_bandit(commands: Any) -> None:
    command = commands.add_parser("open-bandit", help="turn the Open Bandit sample into a data set")
    command.add_argument("--wheel", type=Path, required=True, help="obp-0.4.1-py3-none-any.whl, as PyPI has it")
    command.add_argument("--out", type=Path, required=True, help="folder for impressions.parquet and features.json")
    command.set_defaults(command=_open_bandit)


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
    command.set_defaults(command=_recalibrate)


def _add_export(commands: Any) -> None:
    command = commands.add_parser("export", help="write one artifact folder per surface of a checkpoint")
    command.add_argument("--checkpoint", type=Path, required=True)
    command.add_argument("--out", type=Path, required=True, help="folder that gets a folder per surface")
    command.add_argument("--model-name", default=DEFAULT_MODEL_NAME)
    command.add_argument(
        "--fault",
        action="append",
        default=[],
        help="for drills: SURFACE.calibrator=FACTOR multiplies click odds, trunk=scramble turns every ranking around",
    )
    command.set_defaults(command=_export)


def _open_bandit(arguments: argparse.Namespace) -> None:
    rows = open_bandit.convert(arguments.wheel, arguments.out)
    print(f"{rows} impressions in {arguments.out}")


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
    )
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    examples = read_examples(arguments.data, before_ms=arguments.before_ms)
    begun = time.perf_counter()
    with _progress() as progress:
        joint = train(examples, config, progress=progress)
    seconds = time.perf_counter() - begun
    joint.write(arguments.out)
    print(f"trained on {examples.num_rows} rows in {seconds:.1f} s: {joint.training_run} in {arguments.out}")
    print(_table(joint))


def _recalibrate(arguments: argparse.Namespace) -> None:
    joint = JointCheckpoint.read(arguments.checkpoint)
    recalibrate(joint, read_examples(arguments.data), after_ms=arguments.after_ms).write(arguments.out)
    print(f"calibrated anew: {joint.training_run} in {arguments.out}")


def _export(arguments: argparse.Namespace) -> None:
    joint = JointCheckpoint.read(arguments.checkpoint)
    for text in arguments.fault:
        joint = with_fault(joint, parse_fault(text))
    for surface, version_id in export(joint, arguments.out, model_name=arguments.model_name).items():
        print(f"{surface} {version_id} {arguments.out / surface}")


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


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on a terminal, a few plain lines elsewhere; both on stderr."""
    if not (HAS_RICH and sys.stderr.isatty()):
        yield _print_progress
        return
    columns = (
        "[progress.description]{task.description}",
        rich.progress.BarColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=rich.console.Console(stderr=True)) as bar:
        task = bar.add_task("training")

        def show(step: int, steps: int, loss: float) -> None:
            bar.update(task, completed=step, total=steps, description=f"training, loss {loss:.4f}")

        yield show


def _print_progress(step: int, steps: int, loss: float) -> None:
    if step == steps or step % max(1, steps // PLAIN_LINES) == 0:
        print(f"step {step} of {steps}, loss {loss:.4f}", file=sys.stderr)
