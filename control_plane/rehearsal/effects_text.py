"""Effects as people type them: `ctr=-3%`, `hide_rate=+20%@grid`."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from control_plane.domain.errors import InvalidField, UnknownName
from control_plane.rehearsal.audience import Effects
from control_plane.rehearsal.scenarios import Scenario

NAMES = ("ctr", "good_click_rate", "hide_rate", "revenue_per_click", "prediction", "score_noise")
LARGEST = 10.0  # eleven times as much; beyond it somebody forgot a percent sign
FORM = "NAME=VALUE or NAME=VALUE@VIEW_TYPE, such as ctr=-3% or hide_rate=+20%@grid"
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)\s*%?")


def scenario_of(texts: Sequence[str], *, view_types: Sequence[str]) -> Scenario:
    """One scenario with all of these effects; what is said of one view type holds there instead of everywhere."""
    everywhere: dict[str, Any] = {}
    by_view: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, value, view_type = _parsed(text, view_types)
        into = everywhere if view_type is None else by_view.setdefault(view_type, {})
        if name in into:
            raise InvalidField("--effect", f"{name} is given twice{'' if view_type is None else f' for {view_type}'}")
        into[name] = value
    base = Effects(**everywhere)
    effects = replace(base, by_view_type={view: replace(base, **fields) for view, fields in by_view.items()})
    return Scenario(name=", ".join(text.strip() for text in texts), sentence=_sentence(texts), effects=effects)


def _parsed(text: str, view_types: Sequence[str]) -> tuple[str, float, str | None]:
    name, equals, rest = (part.strip() for part in text.partition("="))
    number, at, view_type = (part.strip() for part in rest.partition("@"))
    if not equals or not name or not number or (at and not view_type):
        raise InvalidField("--effect", f"must be {FORM}, not {text!r}")
    if name not in NAMES:
        raise UnknownName("effect", name, known=NAMES)
    if at and view_type not in view_types:
        raise UnknownName("view type", view_type, known=view_types)
    return name, _value(name, number, text), view_type if at else None


def _value(name: str, number: str, text: str) -> float:
    if not NUMBER.fullmatch(number):
        raise InvalidField("--effect", f"{number!r} is no number in {text!r}; write it as -3% or -0.03")
    value = float(number.rstrip("% ")) / (100 if number.endswith("%") else 1)
    least = 0.0 if name == "score_noise" else -1.0
    if not math.isfinite(value) or not least <= value <= LARGEST:
        raise InvalidField("--effect", f"{name} must be {least:.0%} to {LARGEST:.0%}, not {value:g} ({value:.0%})")
    if name == "prediction" and value == -1:
        raise InvalidField("--effect", "prediction must be above -100%: scores of 0 predict nothing")
    return value


def _sentence(texts: Sequence[str]) -> str:
    return f"As asked for: {', '.join(text.strip() for text in texts)}."
