"""A program's graph as data: which operator is called with what, in order. Pure; nothing here can be run.

The JSON is our own, small enough to check entirely: names, numbers, and references to earlier values. A graph has no
loops, no branches, no calls into Python, and no expression that anybody would have to evaluate.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from control_plane.domain.errors import InvalidField

FORMAT = "surefoot.program/1"
MAX_NODES = 20_000
MAX_NAME = 200  # characters
MAX_DEPTH = 3  # of lists in an argument
MAX_NUMBER = (1 << 63) - 1  # of a whole number; torch means "to the end" by it
UNUSED = ""  # the name of an output that nobody reads
DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
MEMORY_FORMATS = ("contiguous_format", "preserve_format")
NUMBERS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}  # JSON has none of them


@dataclass(frozen=True, slots=True)
class Value:
    """What an earlier node, an input or a weight is called."""

    name: str


@dataclass(frozen=True, slots=True)
class Dtype:
    name: str


@dataclass(frozen=True, slots=True)
class MemoryFormat:
    name: str


Argument = None | bool | int | float | str | Value | Dtype | MemoryFormat | tuple["Argument", ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One call; `arguments` are by the operator's own names."""

    op: str
    arguments: Mapping[str, Argument]
    outputs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Graph:
    """`inputs` maps values to fields of a `RowBatch`, `weights` values to tensors; `outputs` are values."""

    inputs: Mapping[str, str]
    weights: Mapping[str, str]
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        """Every value is made once, before it is read."""
        if len(self.nodes) > MAX_NODES:
            raise InvalidField("nodes", f"may be at most {MAX_NODES}, not {len(self.nodes)}")
        if not self.outputs:
            raise InvalidField("outputs", "must name at least one value")
        if len(set(self.inputs.values())) != len(self.inputs):
            raise InvalidField("inputs", "must not read a field twice")
        made = set(self.inputs)
        for name in self.weights:
            _make("weights", name, made)
        for index, node in enumerate(self.nodes):
            for read in values_of(tuple(node.arguments.values())):
                if read not in made:
                    raise InvalidField(f"nodes[{index}]", f"{node.op} reads {read!r}, which nothing made before it")
            for name in node.outputs:
                if name != UNUSED:
                    _make(f"nodes[{index}]", name, made)
        for name in self.outputs:
            if name not in made:
                raise InvalidField("outputs", f"name {name!r}, which nothing made")

    def to_json(self) -> str:
        """The same graph gives the same text."""
        nodes = [
            {
                "op": node.op,
                "arguments": {name: _argument_to_json(each) for name, each in node.arguments.items()},
                "outputs": list(node.outputs),
            }
            for node in self.nodes
        ]
        told = {"format": FORMAT, "inputs": self.inputs, "weights": self.weights, "nodes": nodes}
        return json.dumps({**told, "outputs": list(self.outputs)}, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: bytes) -> "Graph":
        """Read what `to_json` wrote; `InvalidField` names what is malformed."""
        told = read_json("graph", text)
        if told.get("format") != FORMAT:
            raise InvalidField("format", f"must be {FORMAT!r}, not {str(told.get('format'))[:100]!r}")
        nodes = _list("nodes", told.get("nodes"))
        return cls(
            inputs=_names_by_name("inputs", told.get("inputs")),
            weights=_names_by_name("weights", told.get("weights")),
            nodes=tuple(_node(f"nodes[{index}]", node) for index, node in enumerate(nodes)),
            outputs=tuple(_name("outputs", name) for name in _list("outputs", told.get("outputs"))),
        )


def values_of(argument: Argument) -> list[str]:
    """The names that an argument reads."""
    match argument:
        case Value(name):
            return [name]
        case tuple():
            return [name for each in argument for name in values_of(each)]
        case _:
            return []


def read_json(field: str, text: bytes) -> Mapping[str, object]:
    """A JSON object without what JSON does not have; `InvalidField` otherwise."""
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise InvalidField(field, f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidField(field, "must be a JSON object")
    return value


def _make(field: str, name: str, made: set[str]) -> None:
    if name in made:
        raise InvalidField(field, f"makes {name!r} a second time")
    made.add(name)


def _argument_to_json(argument: Argument) -> object:
    match argument:
        case Value(name):
            return {"value": name}
        case Dtype(name):
            return {"dtype": name}
        case MemoryFormat(name):
            return {"memory_format": name}
        case tuple():
            return [_argument_to_json(each) for each in argument]
        case float() if not math.isfinite(argument):
            return {"number": next(name for name, number in NUMBERS.items() if str(number) == str(argument))}
        case _:
            return argument


def _node(field: str, value: object) -> Node:
    told = _mapping(field, value)
    arguments = _mapping(f"{field}.arguments", told.get("arguments"))
    return Node(
        op=_name(f"{field}.op", told.get("op")),
        arguments={_name(field, name): _argument(f"{field}.{name}", each, 0) for name, each in arguments.items()},
        outputs=tuple(_output(field, name) for name in _list(f"{field}.outputs", told.get("outputs"))),
    )


def _argument(field: str, value: object, depth: int) -> Argument:
    match value:
        case None | bool() | float():
            return value
        case int() if abs(value) <= MAX_NUMBER:
            return value
        case str() if len(value) <= MAX_NAME:
            return value
        case list() if depth < MAX_DEPTH:
            return tuple(_argument(field, each, depth + 1) for each in value)
        case {"value": str(name), **rest} if not rest:
            return Value(name)
        case {"dtype": str(name), **rest} if name in DTYPES and not rest:
            return Dtype(name)
        case {"memory_format": str(name), **rest} if name in MEMORY_FORMATS and not rest:
            return MemoryFormat(name)
        case {"number": str(name), **rest} if name in NUMBERS and not rest:
            return NUMBERS[name]
        case _:
            raise InvalidField(field, f"is no argument: {str(value)[:100]}")


def _output(field: str, value: object) -> str:
    return UNUSED if value == UNUSED else _name(f"{field}.outputs", value)


def _names_by_name(field: str, value: object) -> dict[str, str]:
    return {_name(field, name): _name(field, each) for name, each in _mapping(field, value).items()}


def _name(field: str, value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME or not value.isprintable():
        raise InvalidField(field, f"must be a name of at most {MAX_NAME} characters, not {str(value)[:100]!r}")
    return value


def _mapping(field: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise InvalidField(field, "must be an object")
    return value


def _list(field: str, value: object) -> list[object]:
    if not isinstance(value, list):
        raise InvalidField(field, "must be a list")
    return value


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")
