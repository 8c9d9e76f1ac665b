"""A question to another package and its answer, as they are stored."""

from typing import Any

Case = dict[str, Any]


def a_case(call: str, inputs: Case, value: Any) -> Case:
    return {"call": call, "inputs": inputs, "value": _plain(value)}


def _plain(value: Any) -> Any:
    """JSON's own types; a number of any package becomes the nearest double."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else float(value)
