"""Ask other people's packages for the values that Surefoot's numbers are compared with, and store them beside this.

Run where the package is installed, naming it; nothing of Surefoot is needed, so nothing of it can leak in:

    pip install mpmath && python -m tests.guardrails.independent.make_reference mpmath

confseq compiles (a C++ compiler, Boost's headers, `pip install scikit-build pybind11`, `--no-build-isolation`);
gbstats and ssrm-test ask for pandas 1, gsdesign for nothing, but none of that is needed here (`--no-deps`, with numpy,
scipy, pydantic and toolz); NannyML wants statsmodels, too.
"""

import json
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version

from tests.guardrails.independent.packages import (
    binned_drift,
    definitions,
    group_sequential,
    one_look,
    split,
    uniform_boundaries,
)
from tests.guardrails.independent.packages.case import Case
from tests.guardrails.independent.stored import path_of

REFERENCES: dict[str, Callable[[], Iterator[Case]]] = {
    "mpmath": definitions.mpmath,
    "confseq": uniform_boundaries.confseq,
    "ssrm-test": split.ssrm,
    "gbstats": one_look.gbstats,
    "tea-tasting": one_look.tea_tasting,
    "gsdesign": group_sequential.gsdesign,
    "nannyml": binned_drift.nannyml,
    "scipy": binned_drift.scipy,
}


def main() -> None:
    for package in sys.argv[1:] or REFERENCES:
        cases = [json.dumps(case) for case in REFERENCES[package]()]
        header = json.dumps({"package": package, "version": version(package)})[1:-1]
        text = f'{{{header}, "cases": [\n' + ",\n".join(cases) + "\n]}\n"
        path_of(package).write_text(text)
        print(f"{package}: {len(cases)} cases")


if __name__ == "__main__":
    main()
