"""Reads a mapping field by field; every error carries the dotted path of the key it is about."""

import math
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import NoReturn, TypeVar

from control_plane.domain.errors import InvalidPlan
from control_plane.domain.split import FULL_TRAFFIC_BP

Choice = TypeVar("Choice", bound=StrEnum)

UNIT_SECONDS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
DURATION = re.compile(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)\s*([smhd])")
SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*(%|bp)")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}")
MAX_NUMBER = 1e15  # beyond it squares and sums stop being exact, and nothing is measured so
LEAST_FRACTION = 1e-9
MAX_TEXT = 4_000  # characters: a query is a few lines
MAX_SECONDS = 3_650 * 86_400.0  # ten years: beyond any rollout, below any overflow


class Reader:
    """One level of a mapping, and where it stands in the whole."""

    def __init__(self, mapping: object, path: str = "") -> None:
        self._path = path
        if not isinstance(mapping, Mapping):
            raise InvalidPlan(path or "plan", f"must be a mapping of keys to values, not {_kind(mapping)}")
        self._mapping = mapping
        self._known: list[str] = []

    def fail(self, key: str, rule: str) -> NoReturn:
        raise InvalidPlan(self._at(key), rule)

    def refuse_unknown(self) -> None:
        for key in self._mapping:
            if key not in self._known:
                self.fail(str(key), f"unknown key; known: {', '.join(self._known)}")

    def section(self, key: str) -> "Reader":
        """A mapping below this one, empty where the key is missing."""
        value = self._value(key, {})
        return Reader({} if value is None else value, self._at(key))

    def list_of(self, key: str, default: tuple[()] | None = None) -> "list[Reader]":
        """The entries of a list; without a default there must be one."""
        value = self._value(key, default)
        if default is not None and (value is None or value in ((), [])):
            return []
        if not isinstance(value, list) or not value:
            self.fail(key, f"must be a list with at least one entry, not {_kind(value)}")
        return [Reader(entry, f"{self._at(key)}[{index}]") for index, entry in enumerate(value)]

    def name(self, key: str) -> str:
        value = self._value(key)
        if not isinstance(value, str) or not NAME.fullmatch(value):
            self.fail(key, f"must be 1 to 100 letters, digits, spaces, '.', '_' or '-', not {value!r}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self._value(key, default)
        if not isinstance(value, str) or (default is None and not value.strip()) or len(value) > MAX_TEXT:
            self.fail(key, f"must be text of 1 to {MAX_TEXT} characters, not {_kind(value)}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self._value(key, default)
        if not isinstance(value, bool):
            self.fail(key, f"must be true or false, not {value!r}")
        return value

    def count(self, key: str, default: int, *, least: int) -> int:
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 2**53:
            self.fail(key, f"must be a whole number of {least} or more, not {_shown(value)}")
        return value

    def number(self, key: str, default: float | None, *, above: float = -math.inf) -> float:
        return self._checked_number(key, self._value(key, default), above)

    def optional_number(self, key: str, default: float | None, *, above: float = -math.inf) -> float | None:
        """A number, or None where it is not there or null."""
        if key not in self._mapping:
            self._known.append(key)
            return default
        value = self._value(key)
        return None if value is None else self._checked_number(key, value, above)

    def numbers(self, key: str, default: tuple[float, ...], *, above: float) -> tuple[float, ...]:
        value = self._value(key, list(default))
        if not isinstance(value, list) or not value:
            self.fail(key, f"must be a list of numbers, not {_kind(value)}")
        return tuple(self._checked_number(f"{key}[{index}]", entry, above) for index, entry in enumerate(value))

    def fraction(self, key: str, default: float) -> float:
        """A number strictly between 0 and 1, or a percentage such as '3%'."""
        value = self._value(key, default)
        if isinstance(value, str) and (found := SHARE.fullmatch(value)) and found[2] == "%":
            value = float(found[1]) / 100
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.fail(key, f"must be between 0% and 100%, like '3%' or 0.03, not {_shown(value)}")
        if not LEAST_FRACTION <= value <= 1 - LEAST_FRACTION:
            self.fail(key, f"must be between 0% and 100%, like '3%' or 0.03, not {_shown(value)}")
        return float(value)

    def share(self, key: str, default: int | None = None, *, least: int) -> int:
        """Basis points, from '5%' or '500bp'."""
        value = self._value(key, None if default is None else f"{default}bp")
        found = SHARE.fullmatch(value) if isinstance(value, str) else None
        if found is None:
            self.fail(key, f"must be a share of the traffic like '5%' or '500bp', not {value!r}")
        share_bp = float(found[1]) * (100 if found[2] == "%" else 1)
        if abs(share_bp - round(share_bp)) > 1e-6 or not least <= round(share_bp) <= FULL_TRAFFIC_BP:
            self.fail(key, f"must be {least}bp to 100% in whole basis points, not {value!r}")
        return round(share_bp)

    def duration(self, key: str, default: float, *, least: float | None = None) -> float:
        """Seconds, from '90s', '15m', '6h' or '2d'; longer than nothing unless `least` allows it."""
        value = self._value(key, f"{default!r}s")
        found = DURATION.fullmatch(value) if isinstance(value, str) else None
        if found is None:
            self.fail(key, f"must be a duration like '90s', '15m', '6h' or '2d', not {value!r}")
        seconds = float(found[1]) * UNIT_SECONDS[found[2]]
        if not (0 < seconds <= MAX_SECONDS or seconds == least):
            self.fail(key, f"must be longer than nothing and at most ten years, not {value!r}")
        return seconds

    def optional_duration(self, key: str, default: float | None) -> float | None:
        """Seconds, or None where it is not there or null."""
        if self._mapping.get(key) is None:
            self._known.append(key)
            return default
        return self.duration(key, 0.0)

    def choice(self, key: str, choices: type[Choice], default: Choice | None = None) -> Choice:
        value = self._value(key, default)
        try:
            return choices(str(value))
        except ValueError:
            self.fail(key, f"must be one of {', '.join(choices)}, not {value!r}")

    def _value(self, key: str, *default: object) -> object:
        self._known.append(key)
        if key in self._mapping:
            return self._mapping[key]
        if default and default[0] is not None:
            return default[0]
        return self.fail(key, "is missing")

    def _checked_number(self, key: str, value: object, above: float) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_NUMBER:
            self.fail(key, f"must be a number of at most {MAX_NUMBER:g}, not {_shown(value)}")
        if value <= above:
            self.fail(key, f"must be above {above:g}, not {value!r}")
        return float(value)

    def _at(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key


def _shown(value: object) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) <= MAX_NUMBER else "a longer one"
    return text if len(text) <= 100 else f"{text[:100]}…"


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__
