"""A graph with its weights, ready to run: one call after another, each value let go after its last reader."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from control_plane.domain.errors import InvalidField
from model_runtime.programs.graph import UNUSED, Argument, Dtype, Graph, MemoryFormat, Node, Value, values_of
from model_runtime.programs.operators import check, constant, find, guarded

Watch = Callable[[int, int], None]  # is told how many bytes the values at hand hold, and how many were just made


class _Step(NamedTuple):
    node: Node
    call: Callable[..., Any]
    positional: tuple[Any, ...]
    keyword: Mapping[str, Any]
    last_read: tuple[str, ...]


class Program(nn.Module):
    """Runs nothing but the operators of `programs.operators`, in the order of the graph.

    Raises:
        InvalidField: a call that no program may make, or a weight that the tensors lack.
    """

    def __init__(self, graph: Graph, tensors: Mapping[str, Tensor], *, device: str = "cpu") -> None:
        super().__init__()
        self.graph = graph
        self.device = device
        for index, (value, name) in enumerate(graph.weights.items()):
            if name not in tensors:
                raise InvalidField("weights", f"name the tensor {name!r} as {value!r}, which is not there")
            self.register_buffer(f"weight_{index}", tensors[name].to(device))
        for node in graph.nodes:
            check(node)
        last = _last_reads(graph)
        self._steps = [self._step(node, last[index]) for index, node in enumerate(graph.nodes)]

    def forward(self, inputs: Mapping[str, Tensor], *, watch: Watch | None = None) -> list[Tensor]:
        """The outputs' tensors, from the fields of a `RowBatch`; whatever an operator raises goes through."""
        values: dict[str, Any] = {value: inputs[field] for value, field in self.graph.inputs.items()}
        values |= zip(self.graph.weights, self.buffers(), strict=True)
        held = 0
        for node, call, positional, keyword, last_read in self._steps:
            arguments = [_read(argument, values) for argument in positional]
            result = call(*arguments, **{name: _read(argument, values) for name, argument in keyword.items()})
            made = result if isinstance(result, tuple | list) else (result,)
            for name, value in zip(node.outputs, made, strict=True):
                if name != UNUSED:
                    values[name] = value
            if watch is not None:
                new = sum(_bytes(values[name]) for name in node.outputs if name != UNUSED)
                held += new
                watch(held, new)
                held -= sum(_bytes(values[name]) for name in last_read)
            for name in last_read:
                del values[name]
        return [values[name] for name in self.graph.outputs]

    def _step(self, node: Node, last_read: tuple[str, ...]) -> _Step:
        found = find(node.op)
        given = {name: _ready(argument) for name, argument in node.arguments.items()}
        if found.has_device:
            given["device"] = self.device
        places = [index for index, name in enumerate(found.positional) if name in given]
        names = found.positional[: places[-1] + 1] if places else ()
        positional = tuple(given.pop(name) if name in given else found.defaults[name] for name in names)
        call = found.call
        if self.device.startswith("cuda"):
            call = _Guarded(node.op, call)
        return _Step(node, call, positional, given, last_read)


def first_line(error: Exception) -> str:
    """Without the traces that torch adds."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class _Guarded:
    def __init__(self, op: str, call: Callable[..., Any]) -> None:
        self.op, self.call = op, call

    def __call__(self, *arguments: Any, **keyword: Any) -> Any:
        return self.call(*guarded(self.op, list(arguments)), **keyword)


def _last_reads(graph: Graph) -> list[tuple[str, ...]]:
    """By node, the values that nobody reads after it, of those that nodes make; also those that nobody reads at all."""
    seen = set(graph.outputs)
    last: list[tuple[str, ...]] = []
    of_nodes = {name for node in graph.nodes for name in node.outputs}
    for node in reversed(graph.nodes):
        read = {*values_of(tuple(node.arguments.values())), *node.outputs} - {UNUSED}
        last.append(tuple(sorted(name for name in read if name in of_nodes and name not in seen)))
        seen |= read
    return last[::-1]


def _ready(argument: Argument) -> Any:
    """The argument with torch's own objects for names of types; what refers to a value stays."""
    match argument:
        case Dtype() | MemoryFormat():
            return constant(argument)
        case tuple():
            return tuple(_ready(each) for each in argument)
        case _:
            return argument


def _read(argument: Any, values: Mapping[str, Any]) -> Any:
    if type(argument) is Value:
        return values[argument.name]
    if type(argument) is tuple:
        return [_read(each, values) for each in argument]
    return argument


def _bytes(value: Any) -> int:
    return value.nbytes if isinstance(value, torch.Tensor) else 0
