"""Arrow schemas of the three kinds of events: the columns are the fields of `domain.events`."""

import pyarrow as pa
import pyarrow.compute as pc

from control_plane.domain.errors import InvalidField
from control_plane.domain.events import EventKind

MAX_TEXT_BYTES = 200  # names of surfaces, view types and versions are shorter

_SERVED = [
    pa.field("impression_id", pa.uint64()),
    pa.field("user_key", pa.uint64()),
    pa.field("served_at_ms", pa.int64()),
    pa.field("surface", pa.string()),
]
_SCORED = [
    pa.field("version_id", pa.string()),
    pa.field("generation", pa.int64()),
    pa.field("score", pa.float64()),
]
SCHEMA_OF: dict[EventKind, pa.Schema] = {
    EventKind.EXPOSURE: pa.schema(
        [*_SERVED, pa.field("view_type", pa.string()), pa.field("arm", pa.string()), *_SCORED]
    ),
    EventKind.SHADOW_SCORE: pa.schema([*_SERVED, pa.field("view_type", pa.string()), *_SCORED]),
    EventKind.ENGAGEMENT: pa.schema(
        [
            pa.field("event_id", pa.uint64()),
            *_SERVED,
            pa.field("label", pa.string()),
            pa.field("occurred_at_ms", pa.int64()),
            pa.field("value", pa.float64()),
        ]
    ),
}


def conform(table: pa.Table, kind: EventKind) -> pa.Table:
    """Return the columns of `kind` in their order; strings may come dictionary-encoded or large.

    A missing column or one of another type refuses the whole table; columns beyond the schema are dropped,
    so that producers may add fields before readers know them.
    """
    columns = []
    for field in SCHEMA_OF[kind]:
        if table.schema.get_field_index(field.name) < 0:
            raise InvalidField(field.name, "column is missing, or there twice")
        columns.append(_as_type(table[field.name], field))
    return pa.Table.from_arrays(columns, schema=SCHEMA_OF[kind])


def _as_type(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    value_type = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    strings = pa.types.is_string(value_type) or pa.types.is_large_string(value_type)
    if column.type == field.type:
        return column
    if pa.types.is_string(field.type) and strings:
        return _as_strings(column, field)
    raise InvalidField(field.name, f"must be a column of {field.type}, not {column.type}")


def _as_strings(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    """A long value that a dictionary holds once would be written out for every row."""
    for chunk in column.chunks:
        values = chunk.dictionary if pa.types.is_dictionary(chunk.type) else chunk
        longest = pc.max(pc.binary_length(values)).as_py() or 0
        if longest > MAX_TEXT_BYTES:
            raise InvalidField(field.name, f"holds a text of {longest} bytes; at most {MAX_TEXT_BYTES} are allowed")
    return column.cast(field.type)
