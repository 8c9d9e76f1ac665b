"""Commands that make data sets: open-bandit and generate."""

import argparse
from pathlib import Path
from typing import Any

from model_runtime.training import open_bandit
from model_runtime.training.generate import GeneratorConfig, generate
from model_runtime.training.progress import counted


def add(commands: Any) -> None:
    _add_open_bandit(commands)
    _add_generate(commands)


def _add_open_bandit(commands: Any) -> None:
    command = commands.add_parser("open-bandit", help="turn the Open Bandit sample into a data set")
    command.add_argument("--wheel", type=Path, required=True, help="obp-0.4.1-py3-none-any.whl, as PyPI has it")
    command.add_argument("--out", type=Path, required=True, help="folder for impressions.parquet and features.json")
    command.set_defaults(command=_open_bandit)


def _add_generate(commands: Any) -> None:
    default = GeneratorConfig()
    command = commands.add_parser("generate", help="draw a data set whose click probabilities are known")
    command.add_argument("--out", type=Path, required=True, help="folder for impressions.parquet and features.json")
    command.add_argument("--rows", type=int, default=default.rows, help="of any number: memory stays the same")
    command.add_argument("--seed", type=int, default=default.seed, help="the same bits for the same options")
    command.add_argument("--users", type=int, default=default.num_users)
    command.add_argument("--items", type=int, default=default.num_items)
    command.add_argument("--history-length", type=int, default=default.history_length)
    command.add_argument("--rows-per-request", type=int, default=default.rows_per_request)
    command.add_argument("--days", type=int, default=default.days)
    command.add_argument(
        "--changes-at", type=float, default=default.changes_at, help="share of the time after which layouts change"
    )
    command.add_argument("--null-rate", type=float, default=default.null_rate, help="share of values that are missing")
    command.set_defaults(command=_generate)


def _open_bandit(arguments: argparse.Namespace) -> None:
    rows = open_bandit.convert(arguments.wheel, arguments.out)
    print(f"{rows} impressions in {arguments.out}")


def _generate(arguments: argparse.Namespace) -> None:
    config = GeneratorConfig(
        seed=arguments.seed,
        rows=arguments.rows,
        num_users=arguments.users,
        num_items=arguments.items,
        history_length=arguments.history_length,
        rows_per_request=arguments.rows_per_request,
        days=arguments.days,
        changes_at=arguments.changes_at,
        null_rate=arguments.null_rate,
    )
    with counted("drawing", "rows") as advance:
        rows = generate(arguments.out, config, advance=advance)
    print(f"{rows} impressions in {arguments.out}")
