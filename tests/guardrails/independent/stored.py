"""What `make_reference.py` has stored of other people's packages."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "reference"


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    inputs: dict[str, Any]
    value: Any


def cases(package: str, call: str) -> list[Case]:
    """The package's answers to calls whose description starts with `call`; never none."""
    stored = json.loads(path_of(package).read_text())["cases"]
    found = [Case(inputs=case["inputs"], value=case["value"]) for case in stored if case["call"].startswith(call)]
    assert found, f"{package} has no stored answer to {call!r}"
    return found


def path_of(package: str) -> Path:
    return FOLDER / f"{package}.json"
