"""How many bytes an Arrow stream unpacks to, told from its messages before anything is unpacked.

Kilobytes of compressed zeros may stand for more than fits in memory, and pyarrow has no limit to set. What is read
here are flatbuffers: https://github.com/apache/arrow/blob/main/format/Message.fbs
"""

import struct

import pyarrow as pa

MESSAGE_HEADER, BATCH_OF_DICTIONARY, BUFFERS, COMPRESSION = 2, 1, 2, 3  # fields by their place in their tables
NOT_PACKED = -1  # a buffer that compression would not have made smaller


def unpacked_bytes(body: bytes) -> int:
    """Sum over all batches and dictionaries; `ValueError` or `pa.ArrowException` if the messages make no sense."""
    try:
        return sum(_unpacked(message) for message in pa.ipc.MessageReader.open_stream(body))
    except struct.error as error:
        raise ValueError("a message's metadata point outside of it") from error


def _unpacked(message: pa.ipc.Message) -> int:
    if message.type not in ("record batch", "dictionary"):
        return 0
    metadata, content = memoryview(message.metadata), memoryview(message.body)
    batch = _table(metadata, _field(metadata, _table(metadata, 0), MESSAGE_HEADER))
    if message.type == "dictionary":
        batch = _table(metadata, _field(metadata, batch, BATCH_OF_DICTIONARY))
    if not _field(metadata, batch, COMPRESSION):
        return len(content)
    return sum(_size(content, offset, length) for offset, length in _buffers(metadata, batch))


def _size(content: memoryview, offset: int, length: int) -> int:
    """A packed buffer begins with the size it unpacks to, and unpacking refuses one that is false."""
    if length == 0:
        return 0
    size = _number("<q", content, offset)
    return length if size == NOT_PACKED else size if size >= 0 else length


def _buffers(metadata: memoryview, batch: int) -> list[tuple[int, int]]:
    place = _field(metadata, batch, BUFFERS)
    if not place:
        return []
    vector = _table(metadata, place)
    count = _number("<I", metadata, vector)
    if count > len(metadata):
        raise ValueError("a message lists more buffers than it has bytes")
    return [
        (_number("<q", metadata, vector + 4 + 16 * one), _number("<q", metadata, vector + 12 + 16 * one))
        for one in range(count)
    ]


def _table(metadata: memoryview, place: int) -> int:
    """Where the table or vector lies that the offset at `place` points to."""
    return place + _number("<I", metadata, place)


def _field(metadata: memoryview, table: int, index: int) -> int:
    """Where a table's field lies; 0 if the table does not have it."""
    layout = table - _number("<i", metadata, table)
    entry = 4 + 2 * index
    if entry >= _number("<H", metadata, layout):
        return 0
    offset = _number("<H", metadata, layout + entry)
    return table + offset if offset else 0


def _number(kind: str, content: memoryview, place: int) -> int:
    if place < 0:
        raise ValueError("a message's metadata point outside of it")
    number: int = struct.unpack_from(kind, content, place)[0]
    return number
