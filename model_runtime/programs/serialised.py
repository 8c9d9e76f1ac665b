"""From the JSON that `torch.export.save` writes of a graph to a `Graph` of our own.

Only names, numbers and references are taken over. The symbolic expressions and guards beside them, which torch's loader
evaluates as Python, are not read: sizes are computed by the graph's own nodes.

Source: torch/_export/serde/schema.py of torch 2.13, schema 8.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import torch

from control_plane.domain.errors import InvalidField
from model_runtime.networks.features import RowBatch
from model_runtime.programs.graph import UNUSED, Argument, Dtype, Graph, MemoryFormat, Node, Value
from model_runtime.programs.operators import NUMBER_NAMES, PLACE_ARGUMENTS

SCHEMA_MAJOR = 8
SCALAR_TYPES = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    12: "bool",
    13: "bfloat16",
}
MEMORY_FORMATS = {1: "contiguous_format", 4: "preserve_format"}
STRIDED = 7  # the only layout there is here
FLOATS = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}
OPS, OPERATORS = "torch.ops.", "_operator."
FIELDS = {name.lower(): name for name in RowBatch.__slots__}  # torch writes the names of inputs in small letters
CHECKS = frozenset(  # of what the runtime checks for itself, or what the sizes of no sound program break
    f"torch.ops.aten.{name}.default"
    for name in ("_assert_scalar", "_assert_tensor_metadata", "sym_constrain_range", "sym_constrain_range_for_size")
)


def read_graph(told: Mapping[str, Any], inputs: Mapping[str, str]) -> tuple[Graph, tuple[str, ...]]:
    """The graph, and the keys of the dictionary that it returns, if it does.

    Raises:
        InvalidField: the program does what none may; or `KeyError` and its like where the JSON is no graph.
    """
    module = told["graph_module"]
    graph, signature = module["graph"], module["signature"]
    its_inputs: dict[str, str] = {}
    weights: dict[str, str] = {}
    for spec in signature["input_specs"]:
        _read_input(spec, graph, inputs, its_inputs, weights)
    read = Graph(
        inputs=its_inputs,
        weights=weights,
        nodes=tuple(_node(node) for node in graph["nodes"] if node["target"] not in CHECKS),
        outputs=tuple(_output(spec) for spec in signature["output_specs"]),
    )
    return read, _output_names(module)


def dtype_of(scalar_type: object) -> torch.dtype:
    return getattr(torch, _dtype(scalar_type).name)  # type: ignore[no-any-return]  # a name of SCALAR_TYPES


def _read_input(
    spec: Mapping[str, Any],
    graph: Mapping[str, Any],
    inputs: Mapping[str, str],
    its_inputs: dict[str, str],
    weights: dict[str, str],
) -> None:
    (kind, entry), *_ = spec.items()
    match kind:
        case "user_input":
            name = _tensor_name(entry["arg"], "an input")
            first = graph["tensor_values"][name]["sizes"][:1]
            if not first or "as_expr" not in first[0]:
                raise InvalidField(name, "has a fixed first dimension; export it with a dynamic one (torch.export.Dim)")
            its_inputs[name] = _small(inputs).get(name.lower()) or FIELDS.get(name.lower(), name)
        case "parameter" | "buffer" | "tensor_constant":
            weights[entry["arg"]["name"]] = entry[f"{kind}_name"]
        case _:
            raise InvalidField("inputs", f"a {kind} is nothing that a program may take; tensors only")


def _small(inputs: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): its_field for name, its_field in inputs.items()}


def _node(told: Mapping[str, Any]) -> Node:
    target = told["target"]
    op = _op_of(target)
    names = NUMBER_NAMES if op.startswith("number.") else [entry["name"] for entry in told["inputs"]]
    arguments = {
        str(name): _argument(f"{op}.{name}", entry["arg"])
        for name, entry in zip(names, told["inputs"], strict=False)
        if name not in PLACE_ARGUMENTS
    }
    return Node(op=op, arguments=arguments, outputs=tuple(name for each in told["outputs"] for name in _made(op, each)))


def _op_of(target: str) -> str:
    """Names that are not in the list stay as they are, and are refused as such."""
    if target.startswith(OPS):
        return target.removeprefix(OPS)
    return f"number.{target.removeprefix(OPERATORS)}" if target.startswith(OPERATORS) else target


def _made(op: str, told: Mapping[str, Any]) -> list[str]:
    (kind, value), *_ = told.items()
    match kind:
        case "as_tensor":
            return [value["name"]]
        case "as_tensors":
            return [each["name"] for each in value]
        case "as_sym_int" | "as_sym_bool":
            return [value["as_name"]]
        case "as_none":
            return [UNUSED]
        case _:
            raise InvalidField(op, f"gives {kind.removeprefix('as_')}, which no program may hold")


def _argument(field: str, told: Mapping[str, Any]) -> Argument:
    (kind, value), *_ = told.items()
    match kind:
        case "as_none":
            return None
        case "as_int" | "as_bool" | "as_string":
            return value  # type: ignore[no-any-return]  # the graph that it goes into is checked when it is read again
        case "as_float":
            return _float(value)
        case "as_tensor":
            return Value(value["name"])
        case "as_sym_int" | "as_sym_bool" | "as_sym_float" | "as_optional_tensor":
            return _one_of(field, value)
        case "as_ints" | "as_bools":
            return tuple(value)
        case "as_floats":
            return tuple(map(_float, value))
        case "as_tensors":
            return tuple(Value(each["name"]) for each in value)
        case "as_sym_ints" | "as_sym_bools" | "as_sym_floats" | "as_optional_tensors":
            return tuple(_one_of(field, each) for each in value)
        case "as_scalar_type":
            return _dtype(value)
        case "as_memory_format" if value in MEMORY_FORMATS:
            return MemoryFormat(MEMORY_FORMATS[value])
        case "as_graph":
            raise InvalidField(field, "is a graph of its own: control flow is no part of a program")
        case _:
            raise InvalidField(field, f"is {kind.removeprefix('as_')}, which no program may give")


def _one_of(field: str, told: Mapping[str, Any]) -> Argument:
    """A number or a tensor, or the name of one."""
    (kind, value), *_ = told.items()
    return Value(value) if kind == "as_name" else _argument(field, told)


def _output(spec: Mapping[str, Any]) -> str:
    (kind, entry), *_ = spec.items()
    if kind != "user_output":
        raise InvalidField(
            "outputs", f"hold a {kind}: a program writes into nothing; call run_decompositions({{}}) on it"
        )
    return _tensor_name(entry["arg"], "an output")


def _tensor_name(told: Mapping[str, Any], what: str) -> str:
    if "as_tensor" not in told:
        raise InvalidField("program", f"{what} is {', '.join(told)[:100]}, not a tensor")
    name: str = told["as_tensor"]["name"]
    return name


def _output_names(module: Mapping[str, Any]) -> tuple[str, ...]:
    signature = module["module_call_graph"][0]["signature"]
    if signature is None:
        return ()
    *_, spec = json.loads(signature["out_spec"])
    if not str(spec.get("type", "")).endswith("dict"):
        return ()
    keys = json.loads(spec["context"]) if isinstance(spec["context"], str) else spec["context"]
    return tuple(map(str, keys))


def _float(value: object) -> float:
    return FLOATS[value] if isinstance(value, str) else float(value)  # type: ignore[arg-type]  # TypeError says the rest


def _dtype(value: object) -> Dtype:
    if value not in SCALAR_TYPES:
        raise InvalidField("dtype", f"{str(value)[:40]} is none that a program may have")
    return Dtype(SCALAR_TYPES[value])
