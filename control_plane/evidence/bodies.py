"""Bodies of events off the wire: an Arrow stream of one kind, or NDJSON of any."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from control_plane.domain.errors import InvalidField
from control_plane.domain.events import EventKind
from control_plane.evidence.arrow_size import unpacked_bytes
from control_plane.evidence.rows import Refusal
from control_plane.evidence.schema import SCHEMA_OF, conform

END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # without it, a stream cut between two batches looks whole
MAX_UNPACKED_BYTES = 512 * 1024 * 1024  # of an Arrow stream: eight times the largest body, where it is compressed
MAX_LINES = 1_000_000  # of NDJSON: 64 MB of whole events have a third of that; each line costs microseconds
INTEGERS = {"uint64": (0, 2**64 - 1), "int64": (-(2**63), 2**63 - 1)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """The rows of one kind; `rows` says where in the body each stood, None if all stood in order."""

    table: pa.Table
    rows: Sequence[int] | None = None

    def row_of(self, index: int) -> int:
        return index if self.rows is None else self.rows[index]


@dataclass(frozen=True, kw_only=True, slots=True)
class Body:
    """What could be read, by kind, and the rows that could not."""

    parts: Mapping[EventKind, Part]
    refused: tuple[Refusal, ...] = ()


def read_arrow_stream(body: bytes, kind: EventKind) -> Body:
    """Read a whole stream, or refuse all of it: no row of a damaged one can be trusted."""
    if not body:
        raise InvalidField("body", "is empty; expected an Arrow IPC stream")
    if not body.endswith(END_OF_STREAM):
        raise InvalidField("body", "is no Arrow IPC stream, or was cut off: it lacks the end-of-stream marker")
    try:
        size = unpacked_bytes(body)
        if size > MAX_UNPACKED_BYTES:
            raise InvalidField("body", f"unpacks to {size} bytes, at most {MAX_UNPACKED_BYTES} may be sent at once")
        with pa.ipc.open_stream(body) as reader:
            table = reader.read_all()
        table.validate(full=True)
    except (pa.ArrowException, ValueError, OSError) as error:  # ValueError: names that are no UTF-8
        raise InvalidField("body", f"is no whole Arrow IPC stream: {str(error).splitlines()[0]}") from error
    return Body(parts={kind: Part(table=conform(table, kind))})


def read_ndjson(body: bytes) -> Body:
    """Read one event a line; a line that is none is refused by itself. Blank lines are skipped."""
    if body.count(b"\n") > MAX_LINES:
        raise InvalidField("body", f"has more than {MAX_LINES} lines; send it in smaller batches")
    values: dict[EventKind, list[dict[str, object]]] = {}
    rows: dict[EventKind, list[int]] = {}
    refused: list[Refusal] = []
    for row, line in enumerate(io.BytesIO(body)):
        if not line.strip():
            continue
        try:
            kind, value = _event(line)
        except InvalidField as error:
            refused.append(Refusal(row=row, field=error.field, rule=error.rule))
        else:
            values.setdefault(kind, []).append(value)
            rows.setdefault(kind, []).append(row)
    if not values and not refused:
        raise InvalidField("body", "is empty; expected one JSON object a line")
    parts = {
        kind: Part(table=pa.Table.from_pylist(values[kind], schema=SCHEMA_OF[kind]), rows=rows[kind]) for kind in values
    }
    return Body(parts=parts, refused=tuple(refused))


def _event(line: bytes) -> tuple[EventKind, dict[str, object]]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidField("line", "is not JSON") from error
    if not isinstance(value, dict):
        raise InvalidField("line", "must be a JSON object")
    try:
        kind = EventKind(str(value.get("kind")))
    except ValueError as error:
        raise InvalidField("kind", f"must be one of {', '.join(EventKind)}") from error
    return kind, {column.name: _value(value, column) for column in SCHEMA_OF[kind]}


def _value(event: Mapping[str, object], column: pa.Field) -> object:
    if column.name not in event:
        raise InvalidField(column.name, "is missing")
    value = event[column.name]
    if value is None:
        return None
    if pa.types.is_string(column.type):
        return _text(column.name, value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidField(column.name, "must be a number")
    if pa.types.is_floating(column.type):
        return _double(column.name, value)
    low, high = INTEGERS[str(column.type)]
    if not isinstance(value, int) or not low <= value <= high:
        raise InvalidField(column.name, f"must be an integer from {low} to {high}")
    return value


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise InvalidField(name, "must be a string of printable characters")
    return value


def _double(name: str, value: float) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise InvalidField(name, "must be a finite number") from error
