"""A `.pt2` file of `torch.export.save`, read without torch's own loader, which unpickles and evaluates what is in it.

Read are the graph's JSON and the raw bytes of its tensors. The sample inputs, which are a pickle in every archive, are
not opened; an archive whose weights or constants are pickled is refused.
"""

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
from torch import Tensor

from control_plane.domain.errors import InvalidField, UnsafeArtifact
from model_runtime.programs.graph import Graph, read_json
from model_runtime.programs.serialised import SCHEMA_MAJOR, dtype_of, read_graph

MAX_MEMBERS = 20_000
MAX_BYTES = 64 << 30
MAX_JSON_BYTES = 256 << 20
NEVER_READ = ("data/sample_inputs/", ".data/", "extra/")  # the first is a pickle in every archive
KNOWN = ("archive_format", "archive_version", "byteorder", "version", "models/", "data/weights/", "data/constants/")


class Archive(NamedTuple):
    """`output_names` are the keys of the dictionary that the program returns, where it returns one."""

    graph: Graph
    tensors: Mapping[str, Tensor]
    output_names: tuple[str, ...]


def read_archive(path: Path, *, inputs: Mapping[str, str] | None = None) -> Archive:
    """Read a program from a file that nobody vouches for.

    Args:
        inputs: fields of a `RowBatch` by the program's own names, where these differ.

    Raises:
        UnsafeArtifact: the file is no archive of one plain program, or holds what can only be unpickled.
        InvalidField: the program calls, reads or returns what none may.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, path)
            return _read(members, path, inputs or {})
    except (OSError, zipfile.BadZipFile, NotImplementedError, EOFError, TypeError, ValueError) as error:
        raise UnsafeArtifact(str(path), f"is no .pt2 archive that can be read: {error}") from None


class _Members:
    """What an archive holds, by its name beneath the archive's own folder."""

    def __init__(self, archive: zipfile.ZipFile, infos: Mapping[str, zipfile.ZipInfo], path: Path) -> None:
        self._archive, self._infos, self._path = archive, infos, path

    def __iter__(self) -> Any:
        return iter(self._infos)

    def size(self, name: str) -> int:
        return self._infos[name].file_size if name in self._infos else -1

    def read(self, name: str) -> bytes:
        if name not in self._infos:
            raise UnsafeArtifact(str(self._path), f"lacks {name!r}")
        return self._archive.read(self._infos[name])

    def json(self, name: str) -> Mapping[str, Any]:
        if self.size(name) > MAX_JSON_BYTES:
            raise UnsafeArtifact(str(self._path), f"{name!r} is larger than {MAX_JSON_BYTES} bytes")
        return read_json(name, self.read(name))


def _members(archive: zipfile.ZipFile, path: Path) -> _Members:
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise UnsafeArtifact(str(path), f"holds {len(infos)} members, more than {MAX_MEMBERS}")
    roots = {info.filename.partition("/")[0] for info in infos}
    found: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        _check_member(info, path)
        name = info.filename.partition("/")[2]
        if len(roots) != 1 or not name or name in found:
            raise UnsafeArtifact(str(path), f"its member {info.filename[:100]!r} is not one of a single folder's files")
        found[name] = info
    # Nothing is compressed, so all members together are no larger than the file, unless they overlap.
    if sum(info.file_size for info in infos) > min(path.stat().st_size, MAX_BYTES):
        raise UnsafeArtifact(str(path), "promises more bytes than it has: its members overlap")
    return _Members(archive, found, path)


def _check_member(info: zipfile.ZipInfo, path: Path) -> None:
    shown = info.filename[:100]
    parts = PurePosixPath(info.filename).parts
    if info.filename.startswith("/") or "\\" in info.filename or ".." in parts or not info.filename.isprintable():
        raise UnsafeArtifact(str(path), f"its member {shown!r} would lie outside of it")
    if info.flag_bits & 1 or info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise UnsafeArtifact(str(path), f"its member {shown!r} is compressed or encrypted, which torch never writes")


def _read(members: _Members, path: Path, inputs: Mapping[str, str]) -> Archive:
    for name in members:
        if not name.startswith((*NEVER_READ, *KNOWN)):
            raise UnsafeArtifact(str(path), f"holds {name[:100]!r}, which is no part of a plain exported program")
    if members.read("archive_format").strip() != b"pt2":
        raise UnsafeArtifact(str(path), "is not what torch.export.save writes")
    if members.size("byteorder") >= 0 and members.read("byteorder").strip() != b"little":
        raise UnsafeArtifact(str(path), "was written on a machine of another byte order")
    models = [name for name in members if name.startswith("models/")]
    if len(models) != 1:
        raise UnsafeArtifact(str(path), f"holds {len(models)} programs, where one is wanted")
    told = members.json(models[0])
    version = told.get("schema_version")
    if not isinstance(version, dict) or version.get("major") != SCHEMA_MAJOR:
        raise UnsafeArtifact(str(path), f"its graph is of schema {str(version)[:100]}, this reads major {SCHEMA_MAJOR}")
    tensors: dict[str, Tensor] = {}
    for kind in ("weights", "constants"):
        tensors |= _tensors(members, f"data/{kind}/", path)
    try:
        graph, output_names = read_graph(told, inputs)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RecursionError) as error:
        raise UnsafeArtifact(str(path), f"its graph is malformed: {type(error).__name__} {error}") from None
    return Archive(graph, {name: tensors[name] for name in _needed(graph, tensors, path)}, output_names)


def _needed(graph: Graph, tensors: Mapping[str, Tensor], path: Path) -> list[str]:
    for name in graph.weights.values():
        if name not in tensors:
            raise UnsafeArtifact(str(path), f"lacks the tensor {name!r}")
    return sorted(set(graph.weights.values()))


def _tensors(members: _Members, folder: str, path: Path) -> dict[str, Tensor]:
    configs = [name for name in members if name.startswith(folder) and name.endswith("_config.json")]
    found: dict[str, Tensor] = {}
    for config in configs:
        entries = members.json(config).get("config")
        if not isinstance(entries, dict):
            raise UnsafeArtifact(str(path), f"{config!r} names no tensors")
        for name, entry in entries.items():
            found[name] = _tensor(members, folder, name, entry, path)
    return found


def _tensor(members: _Members, folder: str, name: str, entry: Any, path: Path) -> Tensor:
    if not isinstance(entry, dict) or entry.get("use_pickle") is not False:
        raise UnsafeArtifact(str(path), f"{name[:100]!r} is a pickle, which can run code and is never loaded")
    try:
        meta = entry["tensor_meta"]
        dtype = dtype_of(meta["dtype"])
        sizes, strides = ([_size(each) for each in meta[key]] for key in ("sizes", "strides"))
        offset = _size(meta["storage_offset"])
        content = members.read(f"{folder}{entry['path_name']}")
        last = offset + sum(stride * (size - 1) for size, stride in zip(sizes, strides, strict=True))
    except (KeyError, TypeError, ValueError, InvalidField) as error:
        raise UnsafeArtifact(str(path), f"{name[:100]!r} has no sound description: {error}") from None
    if math.prod(sizes) and (last + 1) * dtype.itemsize > len(content):
        raise UnsafeArtifact(str(path), f"{name[:100]!r} is larger than its {len(content)} bytes")
    if math.prod(sizes) * dtype.itemsize > len(content):
        raise UnsafeArtifact(str(path), f"{name[:100]!r} promises more than its {len(content)} bytes")
    if not math.prod(sizes):
        return torch.zeros(sizes, dtype=dtype)
    flat = torch.frombuffer(bytearray(content[: len(content) // dtype.itemsize * dtype.itemsize]), dtype=dtype)
    return flat.as_strided(sizes, strides, offset).contiguous().clone()


def _size(value: Any) -> int:
    size = value["as_int"]
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size < 1 << 40:
        raise InvalidField("size", f"must be a whole number, not {size!r}")
    return size
