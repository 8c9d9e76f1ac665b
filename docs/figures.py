"""Pictures and tables of docs/statistics.md, from the judge's own code: `python -m docs.figures [NAME …]`.

Every simulation has its fixed seed. Without names all are made anew, in about two minutes on one core.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from docs.statistics_figures import looking, measured, prices, ramping, scoring
from docs.statistics_figures.drawing import Picture
from docs.statistics_figures.table import with_tables

FOLDER = Path(__file__).parent
PAGE, IMAGES = FOLDER / "statistics.md", FOLDER / "images"
RESULTS = FOLDER.parent / "benchmarks" / "RESULTS.md"

PICTURES: dict[str, Picture] = {
    "false-alarms": looking.false_alarm_curves,
    "one-run": looking.one_run,
    "delays": looking.delay_distributions,
    "stage-margins": ramping.stage_margins,
    "ramp": ramping.weekend_ramp,
    "maturity": scoring.maturity,
    "psi": scoring.drift_null,
}
TABLES: dict[str, Callable[[], str]] = {
    "thresholds": prices.threshold_table,
    "family": prices.family_table,
    "margins": prices.default_table,
    "budgets": prices.budget_table,
    "stages": ramping.margin_table,
    "false-alarms-measured": lambda: measured.false_alarm_table(RESULTS.read_text()),
    "ramp-measured": lambda: measured.ramp_table(RESULTS.read_text()),
    "bars": lambda: measured.bars_table(RESULTS.read_text()),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join([*PICTURES, *TABLES]))
    names = parser.parse_args().names or [*PICTURES, *TABLES]
    if unknown := set(names) - PICTURES.keys() - TABLES.keys():
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    tables: dict[str, str] = {}
    for name in names:
        started = time.perf_counter()
        tables |= drawn(name) if name in PICTURES else {name: TABLES[name]()}
        print(f"{name}: {time.perf_counter() - started:.1f} s")
    PAGE.write_text(with_tables(PAGE.read_text(), tables))


def drawn(name: str) -> dict[str, str]:
    """Write the picture, return its tables."""
    picture, tables = PICTURES[name]()
    image_of(name).write_text(picture)
    return tables


def image_of(name: str) -> Path:
    return IMAGES / f"statistics-{name}.svg"


if __name__ == "__main__":
    main()
