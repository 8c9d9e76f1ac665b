"""Parquet files read a row group at a time; what cannot be read is named by file, row group, column and row."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from control_plane.domain.errors import InvalidField

IMPRESSIONS_FILE = "impressions.parquet"
OPEN_FILES = 8  # whose footers are kept, so that a row group does not cost reading them again


class InvalidRow(InvalidField):
    """A column breaks a rule in one row, counted from 0 in the table that was read."""

    def __init__(self, name: str, row: int, rule: str) -> None:
        self.name, self.row = name, row
        super().__init__(f"{name}[{row}]", rule)

    def found_in(self, groups: Sequence["RowGroup"], row: int) -> InvalidField:
        """The same, told where it lies: `row` counts through the groups that were read."""
        for group in groups:
            if row < group.num_rows:
                return InvalidField(f"{group}, row {row}: {self.name}", self.rule)
            row -= group.num_rows
        raise AssertionError(f"row {row} lies beyond the row groups that were read")


@dataclass(frozen=True, kw_only=True, slots=True)
class RowGroup:
    """Rows and row groups are counted from 0."""

    path: Path
    index: int
    num_rows: int

    def __str__(self) -> str:
        return f"{self.path.name}, row group {self.index}"

    def read(self, required: Collection[str], optional: Collection[str] = ()) -> pa.Table:
        """The named columns.

        Raises:
            InvalidField: a required one is missing, or one cannot be read.
        """
        names = _open(self.path).schema_arrow.names
        for name in required:
            if name not in names:
                raise InvalidField(f"{self.path.name}: {name}", f"is missing; the columns are {', '.join(names)}")
        found = [*required, *(name for name in optional if name in names)]
        try:
            return self._columns(found)
        except (OSError, pa.ArrowException) as error:
            raise InvalidField(f"{self}: {self._broken(found)}", f"cannot be read: {error}") from None

    def _columns(self, names: Sequence[str]) -> pa.Table:
        return _open(self.path).read_row_group(self.index, columns=names, use_threads=False)

    def _broken(self, names: Sequence[str]) -> str:
        for name in names:
            try:
                self._columns([name])
            except (OSError, pa.ArrowException):
                return name
        return "a column"


def row_groups(path: Path) -> list[RowGroup]:
    """All of a file, or of the *.parquet files of a folder in the order of their names; empty ones are left out.

    Raises:
        InvalidField: it is not there, holds no Parquet file, or one that is not Parquet.
    """
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise InvalidField(path.name, f"is a folder without *.parquet files: {path}")
    groups = [
        RowGroup(path=file, index=index, num_rows=metadata.row_group(index).num_rows)
        for file in files
        for metadata in [_open(file).metadata]
        for index in range(metadata.num_row_groups)
    ]
    return [group for group in groups if group.num_rows]


@lru_cache(maxsize=OPEN_FILES)
def _opened(path: Path, changed_ns: int, num_bytes: int) -> pq.ParquetFile:
    return pq.ParquetFile(path)


def _open(path: Path) -> pq.ParquetFile:
    """Open as long as the file stays the one that it was."""
    try:
        told = path.stat()
        return _opened(path, told.st_mtime_ns, told.st_size)
    except OSError as error:
        raise InvalidField(path.name, f"cannot be read: {path}: {error.strerror or error}") from None
    except pa.ArrowInvalid as error:
        raise InvalidField(path.name, f"is not Parquet: {error}") from None
