"""Rows as a released version of Surefoot wrote them, by table, to be put into a registry of its revision.

`released/revision_0001.json` was recorded with version 0.1.0 on SQLite: three surfaces with real traffic, judged; a
rollout rolled back with its trunk quarantined; a release, one surface of it ramping and one waiting; a rollout held.
"""

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Column, DateTime, Engine, Integer, MetaData, Table, insert, select, text

FOLDER = Path(__file__).parent / "released"
REVISIONS = sorted(path.stem.removeprefix("revision_") for path in FOLDER.glob("revision_*.json"))

Rows = dict[str, list[dict[str, Any]]]


def fill(engine: Engine, revision: str) -> None:
    """Put the rows of a revision into an empty registry that is at it."""
    recorded: Rows = json.loads((FOLDER / f"revision_{revision}.json").read_text())
    with engine.execution_options(takes_write_lock=True).begin() as connection:
        metadata = MetaData()
        metadata.reflect(connection)
        for table in metadata.sorted_tables:
            if rows := recorded.get(table.name):
                columns = {column.name: column for column in table.columns}
                values = [{name: _value(columns[name], value) for name, value in row.items()} for row in rows]
                connection.execute(insert(table), values)
                if connection.dialect.name == "postgresql":
                    for statement in _sequences(table):
                        connection.execute(text(statement))


def read(engine: Engine, columns_of: Rows | None = None) -> Rows:
    """Every row of every table; of a table in `columns_of` only the columns that it has there."""
    with engine.connect() as connection:
        metadata = MetaData()
        metadata.reflect(connection)
        found: Rows = {}
        for table in metadata.sorted_tables:
            columns = [
                column for column in table.columns if columns_of is None or column.name in _names(columns_of, table)
            ]
            if table.name != "alembic_version" and columns:
                rows = connection.execute(select(*columns).order_by(*table.primary_key.columns))
                found[table.name] = [dict(row._mapping) for row in rows]
        return found


def _names(columns_of: Rows, table: Table) -> set[str]:
    return {name for row in columns_of.get(table.name, []) for name in row}


def _value(column: Column[Any], recorded: Any) -> Any:
    match recorded:
        case {"base64": str(content)}:
            return base64.b64decode(content)
        case str() if isinstance(column.type, DateTime):
            return datetime.fromisoformat(recorded).replace(tzinfo=UTC)
        case str() if isinstance(column.type, JSON):
            return json.loads(recorded)
        case _:
            return recorded


def _sequences(table: Table) -> list[str]:
    """Let PostgreSQL number what comes after the rows that brought their own numbers."""
    serial = [column for column in table.primary_key.columns if isinstance(column.type, Integer)]
    if len(table.primary_key.columns) != 1 or not serial:
        return []
    name = f"{table.name}.{serial[0].name}"
    return [f"SELECT setval(pg_get_serial_sequence('{table.name}', '{serial[0].name}'), max({name})) FROM {table.name}"]
