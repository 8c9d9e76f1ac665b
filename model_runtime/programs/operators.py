"""Which operators a program may call: ATen's pure functions of tensors and numbers, by name, and nothing else.

What is not in the list is refused, whoever registered it: random and in-place operators, those that reach files,
devices, other processes or Python, memory that nobody wrote, and those whose result's size depends on values.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from control_plane.domain.errors import InvalidField
from model_runtime.programs.graph import MAX_NUMBER, Argument, Dtype, MemoryFormat, Node

ELEMENTWISE = """__and__ __or__ __xor__ abs add addcdiv addcmul atan2 bitwise_and bitwise_not bitwise_or bitwise_xor
bucketize ceil celu clamp clamp_max clamp_min cos div elu eq erf exp exp2 expm1 floor floor_divide fmod frac ge gelu
glu gt hardsigmoid hardswish hardtanh isfinite isinf isnan le leaky_relu lerp log log10 log1p log2 log_sigmoid
logical_and logical_not logical_or logical_xor logit lt masked_fill maximum minimum mish mul nan_to_num ne neg pow
prelu reciprocal relu relu6 remainder round rsqrt rsub selu sigmoid sign silu sin softplus sqrt square sub tan tanh
threshold trunc where xlogy"""
REDUCTIONS = """_log_softmax _softmax all amax amin any argmax argmin argsort cumsum linalg_vector_norm log_softmax
logsumexp max mean min norm prod softmax sort std sum topk var"""
PRODUCTS = """_native_batch_norm_legit_no_training addmm baddbmm batch_norm bilinear bmm conv1d dot einsum group_norm
layer_norm linear matmul mm mv native_layer_norm outer rms_norm scaled_dot_product_attention"""
SHAPES = """_to_copy _unsafe_view adjoint alias broadcast_to cat chunk clone constant_pad_nd contiguous detach
diagonal dropout expand expand_as flatten flip lift_fresh_copy matrix_H mT movedim narrow numpy_T pad permute ravel
repeat reshape roll select slice split split_with_sizes squeeze stack swapaxes t tile to transpose tril triu type_as
unbind unflatten unsqueeze view view_as"""
MADE = "arange eye full full_like new_full new_ones new_zeros ones ones_like scalar_tensor zeros zeros_like"
LOOK_UPS = "embedding gather index index_select one_hot scatter_add"
SIZES = "sym_numel sym_size"
ALLOWED = frozenset(
    f"{ELEMENTWISE} {REDUCTIONS} {PRODUCTS} {SHAPES} {MADE} {LOOK_UPS} {SIZES} repeat_interleave".split()
)
ONLY_OVERLOAD = {"repeat_interleave": "self_int"}  # the others' size depends on values

NUMBERS: dict[str, Callable[..., Any]] = {  # on sizes, which are Python's whole numbers
    f"number.{name}": getattr(operator, name)
    for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge")
}
NUMBER_NAMES = ("left", "right")  # of the arguments of those

MUST_BE: Mapping[str, Argument] = {  # or the operator is random, or looks at other rows and remembers them
    "dropout.train": False,
    "batch_norm.training": False,
    "scaled_dot_product_attention.dropout_p": 0.0,
}
# Where a view is possible depends on how a device's kernels lay their results out; nobody writes, so a copy is as good.
CALLED_AS = {f"aten.{name}.default": torch.ops.aten.reshape.default for name in ("view", "_unsafe_view")}
PLACE_ARGUMENTS = ("device", "layout", "pin_memory")  # where a tensor lies is the runtime's to say
PLAIN_TYPES = ("Tensor", "int", "number", "float", "bool", "str", "Device")  # of arguments: what a graph can give
TYPES = frozenset(
    f"{wrapped}[{each}]" if wrapped else each for wrapped in ("", "Optional", "List") for each in PLAIN_TYPES
)
TYPES |= {"List[Optional[Tensor]]", "Optional[List[int]]", "Optional[List[float]]"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Operator:
    """An operator that may be called, and the names of its arguments: by place, then by name."""

    call: Callable[..., Any]
    positional: tuple[str, ...]
    keyword: tuple[str, ...]
    defaults: Mapping[str, Any]
    has_device: bool = False


def find(op: str) -> Operator:
    """The operator of a name such as `aten.linear.default`; `InvalidField` where no program may call it."""
    if op in NUMBERS:
        return Operator(call=_bounded(NUMBERS[op]), positional=NUMBER_NAMES, keyword=(), defaults={})
    namespace, _, rest = op.partition(".")
    base, _, overload = rest.partition(".")
    if namespace == "aten" and base.removesuffix("_") != base and base.removesuffix("_") in ALLOWED:
        raise InvalidField("op", f"{op[:100]!r} writes into its argument; save run_decompositions({{}}) of it")
    if namespace != "aten" or base not in ALLOWED or ONLY_OVERLOAD.get(base, overload) != overload:
        raise InvalidField("op", f"{op[:100]!r} is not in the list of operators that a program may call")
    packet = getattr(torch.ops.aten, base)
    if overload not in packet.overloads():
        raise InvalidField("op", f"{op[:100]!r}: this torch has no such overload of aten.{base}")
    return _from_schema(op, getattr(packet, overload))


def check(node: Node) -> None:
    """Refuse arguments that the operator does not have or must not be given.

    Raises:
        InvalidField: names the operator and the argument.
    """
    found, base = find(node.op), node.op.split(".")[1]
    known = {*found.positional, *found.keyword}
    for name in node.arguments:
        if name not in known or name in PLACE_ARGUMENTS:
            raise InvalidField(f"{node.op}.{name}", "is no argument of it that a program may give")
    for path, needed in MUST_BE.items():
        its_base, _, name = path.partition(".")
        if its_base == base and node.arguments.get(name, found.defaults.get(name)) != needed:
            raise InvalidField(f"{node.op}.{name}", f"must be {needed}: at serving nothing is random or remembered")
    for name in found.positional:
        if name not in node.arguments and name not in found.defaults and name not in PLACE_ARGUMENTS:
            raise InvalidField(f"{node.op}.{name}", "is missing")


def constant(argument: Dtype | MemoryFormat) -> torch.dtype | torch.memory_format:
    """Torch's own object of a name that the graph has checked."""
    found: torch.dtype | torch.memory_format = getattr(torch, argument.name)
    return found


def guarded(op: str, arguments: list[Any]) -> list[Any]:
    """Indices moved inside what they look into: on CUDA one outside would end the process for every version.

    On the CPU torch raises instead, and the version alone fails.
    """
    match op.split(".")[1]:
        case "embedding":
            table, index, *rest = arguments
            return [table, _inside(index, 0, table.shape[0]), *rest]
        case "index_select" | "gather" | "scatter_add":
            source, dim, index, *rest = arguments
            return [source, dim, _inside(index, 0, source.shape[dim] if source.dim() else 1), *rest]
        case "index":
            source, indices = arguments
            sizes = zip(indices, source.shape, strict=False)
            return [source, [None if each is None else _inside(each, -size, size) for each, size in sizes]]
        case _:
            return arguments


def _inside(index: Tensor, first: int, end: int) -> Tensor:
    if index.dtype in (torch.bool, torch.uint8):
        raise InvalidField("index", "by a mask has a size that depends on values; use where")
    return index.clamp(first, end - 1)


def _from_schema(op: str, overload: Any) -> Operator:
    schema = overload._schema  # the only description torch gives of what an operator takes
    arguments = schema.arguments
    if schema.is_mutable or any(argument.is_out for argument in arguments):
        raise InvalidField("op", f"{op!r} writes into its arguments")
    for argument in arguments:
        if str(argument.type) not in TYPES:
            raise InvalidField(
                "op", f"{op!r} takes {argument.name} of the type {argument.type}, which no graph can give"
            )
    return Operator(
        call=CALLED_AS.get(op, overload),
        positional=tuple(argument.name for argument in arguments if not argument.kwarg_only),
        keyword=tuple(argument.name for argument in arguments if argument.kwarg_only),
        defaults={argument.name: argument.default_value for argument in arguments if argument.has_default_value()},
        has_device=any(argument.name == "device" for argument in arguments),
    )


def _bounded(call: Callable[..., Any]) -> Callable[..., Any]:
    def bounded(*numbers: Any) -> Any:
        result = call(*numbers)
        if abs(result) > MAX_NUMBER:
            raise OverflowError(f"a size beyond {MAX_NUMBER}")
        return result

    return bounded
