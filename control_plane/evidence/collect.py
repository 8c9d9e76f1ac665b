"""Events come in: a body is read, its rows are checked one by one, and the sound ones are kept together."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from control_plane.domain.errors import InvalidField
from control_plane.domain.events import EventKind
from control_plane.evidence.bodies import read_arrow_stream, read_ndjson
from control_plane.evidence.event_log import DAY_MS, EventLog
from control_plane.evidence.rows import SHOWN_REFUSALS, Refusal, check

MAX_DAYS = 100  # of one kind in one body: each day costs a file per shard, written and synced


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """What became of one body; `row` counts its rows (of NDJSON: its lines) from 0."""

    accepted: int
    refused: int
    reasons: dict[str, int]
    first_refused: tuple[Refusal, ...]


def collect(
    log: EventLog,
    body: bytes,
    kind: EventKind | None,
    *,
    now_ms: int,
    surfaces: Mapping[str, Sequence[str]],
    known_versions: Collection[str],
) -> Receipt:
    """Keep the sound events of an Arrow stream of one `kind`, or of NDJSON whose rows say their kind (None).

    `InvalidField` if the body cannot be read at all, `LogUnavailable` if the disk does not take it; nothing is
    kept then. Sending a body again is harmless: moments count each event once.
    """
    parsed = read_ndjson(body) if kind is None else read_arrow_stream(body, kind)
    refusals, reasons = list(parsed.refused), Counter(f"{one.field}: {one.rule}" for one in parsed.refused)
    kept: dict[EventKind, pa.Table] = {}
    for part_kind, part in parsed.parts.items():
        checked = check(part.table, part_kind, now_ms=now_ms, surfaces=surfaces, known_versions=known_versions)
        kept[part_kind] = checked.table
        reasons.update(checked.reasons)
        refusals += [replace(one, row=part.row_of(one.row)) for one in checked.first_refused]
    _check_span(kept)
    accepted = log.append(kept)
    return Receipt(
        accepted=accepted,
        refused=sum(reasons.values()),
        reasons=dict(reasons),
        first_refused=tuple(sorted(refusals, key=lambda one: one.row)[:SHOWN_REFUSALS]),
    )


def _check_span(kept: Mapping[EventKind, pa.Table]) -> None:
    for table in kept.values():
        days = len(pc.unique(pc.divide(table["served_at_ms"], DAY_MS)))
        if days > MAX_DAYS:
            rule = f"spans {days} days; a body spans at most {MAX_DAYS}: send it in smaller batches, in order of time"
            raise InvalidField("served_at_ms", rule)
