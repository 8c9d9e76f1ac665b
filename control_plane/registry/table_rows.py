"""A registry's rows as plain values, out of one database and into another, whatever its revision."""

import base64
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

from sqlalchemy import Connection, DateTime, Integer, LargeBinary, MetaData, Table, func, insert, select, text

from control_plane.domain.errors import InvalidBackup

FORMAT = "surefoot-rows/1"
NOT_OURS_TO_COPY = "alembic_version"  # the schema's revision comes with the schema
ROWS_AT_ONCE = 200

Row = tuple[str, Mapping[str, Any]]  # table and its columns


def counts(connection: Connection) -> dict[str, int]:
    """How many rows each table of a registry has; nothing where there is no registry."""
    return {
        table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
        for table in _tables(connection)
    }


def read(connection: Connection) -> Iterator[Row]:
    """Every row, those first that others refer to, in the order of their keys."""
    for table in _tables(connection):
        query = select(table).order_by(*table.primary_key.columns).execution_options(yield_per=ROWS_AT_ONCE)
        found = connection.execute(query)
        for row in found:
            yield table.name, {name: _aware(value) for name, value in row._mapping.items()}


def write(connection: Connection, rows: Iterable[Row]) -> None:
    """Put rows into empty tables, in the order in which they come."""
    tables = {table.name: table for table in _tables(connection)}
    batch: list[Mapping[str, Any]] = []
    of = ""
    for name, row in rows:
        if batch and (name != of or len(batch) == ROWS_AT_ONCE):
            connection.execute(insert(tables[of]), batch)
            batch = []
        of = name
        batch.append(row)
    if batch:
        connection.execute(insert(tables[of]), batch)
    if connection.dialect.name == "postgresql":
        _number_on(connection, tables.values())


def save(file: IO[bytes], revision: str, rows: Iterable[Row]) -> None:
    """Rows as compressed JSON lines, after a line that names the schema's revision."""
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1, mtime=0) as packed:
        packed.write(_line({"format": FORMAT, "revision": revision}))
        for name, row in rows:
            packed.write(_line({"table": name, "row": {key: _told(value) for key, value in row.items()}}))


def load(path: Path, connection: Connection) -> Iterator[Row]:
    """What `save` wrote, as values for the tables of `connection`.

    Raises:
        InvalidBackup: with the number of the line.
    """
    tables = {table.name: table for table in _tables(connection)}
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                told = json.loads(line)
                if number == 1:
                    _check_format(path, told)
                else:
                    table = tables[told["table"]]
                    yield table.name, {name: _value(table, name, value) for name, value in told["row"].items()}
    except (OSError, EOFError, zlib.error, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InvalidBackup(str(path), f"line {number + 1} cannot be read ({error})") from error


def _tables(connection: Connection) -> list[Table]:
    metadata = MetaData()
    metadata.reflect(connection)
    return [table for table in metadata.sorted_tables if table.name != NOT_OURS_TO_COPY]


def _number_on(connection: Connection, tables: Iterable[Table]) -> None:
    """Rows brought their own numbers; let PostgreSQL give the next ones to what comes after."""
    for table in tables:
        key = list(table.primary_key.columns)
        if len(key) == 1 and isinstance(key[0].type, Integer):
            sequence = f"pg_get_serial_sequence('{table.name}', '{key[0].name}')"
            top = f"(SELECT max({key[0].name}) FROM {table.name})"
            connection.execute(text(f"SELECT setval({sequence}, coalesce({top}, 1), {top} IS NOT NULL)"))


def _aware(value: Any) -> Any:
    """SQLite keeps UTC without saying so."""
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value


def _told(value: Any) -> Any:
    match value:
        case bytes() | memoryview():
            return base64.b64encode(value).decode()
        case datetime():
            return value.astimezone(UTC).isoformat()
        case _:
            return value


def _value(table: Table, name: str, told: Any) -> Any:
    kind = table.columns[name].type
    if told is None:
        return None
    if isinstance(kind, DateTime):
        return datetime.fromisoformat(cast(str, told))
    if isinstance(kind, LargeBinary) or kind.__visit_name__ in ("BLOB", "BYTEA"):
        return base64.b64decode(cast(str, told), validate=True)
    return told


def _check_format(path: Path, header: Mapping[str, Any]) -> None:
    if header["format"] != FORMAT:
        raise InvalidBackup(str(path), f"holds {header['format']!r}, not {FORMAT!r}")


def _line(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, separators=(",", ":"), allow_nan=False) + "\n").encode()
