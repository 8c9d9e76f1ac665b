"""What a program may need: measured without memory or computing, by its shapes at the largest batch of a runtime."""

from collections.abc import Mapping

import torch
from torch.utils.flop_counter import FlopCounterMode

from control_plane.domain.errors import InvalidField
from model_runtime.batching import USER_FIELDS
from model_runtime.programs.program import Program, first_line

MAX_ROWS, MAX_USERS = 8_192, 2_048  # of a forward, see `settings`
MAX_HELD_BYTES = 8 << 30  # of values at a time
MAX_MADE_BYTES = 256 << 30  # of all values of a forward: what the elementwise operators read and write
MAX_FLOPS = 2_000_000_000_000  # of a forward's products: most of a minute of one core


def check_limits(program: Program, widths: Mapping[str, int], *, max_users: int | None) -> None:
    """Run a program's shapes through at the largest batch.

    Args:
        widths: the second dimension of each field of a `RowBatch` that has one.

    Raises:
        InvalidField: it holds, reads or computes too much, or does not fit that many users and rows.
    """
    users, rows = min(max_users or MAX_USERS, MAX_USERS), MAX_ROWS
    graph = program.graph
    buffers = zip(graph.weights.values(), program.buffers(), strict=True)
    shapes_only = Program(graph, {name: torch.empty_like(each, device="meta") for name, each in buffers}, device="meta")
    takes_users_once = "user_index_N" in graph.inputs.values()
    inputs = {
        field: _empty(field, users if takes_users_once and field in USER_FIELDS else rows, widths)
        for field in graph.inputs.values()
    }
    total = 0

    def watch(held: int, made: int) -> None:
        nonlocal total
        total += made
        if held > MAX_HELD_BYTES or total > MAX_MADE_BYTES:
            raise InvalidField("graph", f"needs too much memory at {users} users and {rows} rows: {held} bytes at once")

    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        try:
            outputs = shapes_only(inputs, watch=watch)
        except InvalidField:
            raise
        except Exception as error:  # whatever an operator says of shapes that do not fit
            said = f"does not run at {users} users and {rows} rows: {first_line(error)}"
            raise InvalidField("graph", said) from None
    if counter.get_total_flops() > MAX_FLOPS:
        raise InvalidField(
            "graph", f"computes too much: {counter.get_total_flops()} FLOP at {users} users, {rows} rows"
        )
    for output in outputs:
        if not isinstance(output, torch.Tensor) or output.shape[:1] != (rows,):
            raise InvalidField("outputs", f"must have one entry for each of {rows} rows, not {tuple(output.shape)}")


def _empty(field: str, size: int, widths: Mapping[str, int]) -> torch.Tensor:
    dtype = torch.float32 if "dense" in field else torch.int64
    shape = (size, widths[field]) if field in widths else (size,)
    return torch.empty(shape, dtype=dtype, device="meta")
