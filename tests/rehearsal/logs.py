"""Small event logs, written by the project's own writer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from control_plane.domain.events import EventKind
from control_plane.evidence.event_log import EventLog
from control_plane.evidence.schema import SCHEMA_OF
from control_plane.rehearsal.audience import DAY_MS

Column = Any  # an array or a list of one field's values

MONDAY = 20_458
USERS, PER_DAY, CTR = 3_000, 3.0, 0.2


def write_log(root: Path, *, days: int = 8, surfaces: tuple[str, ...] = ("home_feed",), users: int = USERS) -> EventLog:
    """Users of different pace and taste; a click after a minute, half of them good and paying, some hides."""
    log, rng = EventLog(root), np.random.default_rng(3)
    key_U = rng.integers(0, 2**64, size=users, dtype=np.uint64)
    pace_U, taste_U = rng.gamma(2, PER_DAY / 2, size=users), rng.beta(8, 32, size=users)
    for surface in surfaces:
        for day in range(MONDAY, MONDAY + days):
            user_N = np.repeat(np.arange(users), rng.poisson(pace_U))
            at_N = day * DAY_MS + np.sort(rng.integers(0, DAY_MS, size=user_N.size))
            _append(log, rng, surface, key_U[user_N], taste_U[user_N], at_N)
    return log


def _append(
    log: EventLog, rng: np.random.Generator, surface: str, key_N: Column, taste_N: Column, at_N: Column
) -> None:
    size = key_N.size
    impression_N = rng.integers(0, 2**63, size=size).astype(np.uint64)
    common = {"impression_id": impression_N, "user_key": key_N, "served_at_ms": at_N, "surface": [surface] * size}
    shown = {
        **common,
        "view_type": rng.choice(["grid", "closeup"], size=size),
        "arm": ["stable"] * size,
        "version_id": ["a" * 16] * size,
        "generation": np.ones(size, dtype=np.int64),
        "score": taste_N,
    }
    is_click_N = rng.random(size) < taste_N
    is_good_N = is_click_N & (rng.random(size) < 0.5)
    labels = {
        "click": is_click_N,
        "good_click": is_good_N,
        "revenue": is_good_N,
        "hide": rng.random(size) < 0.01,
    }
    followed = [_engagements(rng, common, mask_N, label) for label, mask_N in labels.items()]
    tables = {EventKind.EXPOSURE: _table(shown, EventKind.EXPOSURE), EventKind.ENGAGEMENT: pa.concat_tables(followed)}
    log.append(tables)


def _engagements(rng: np.random.Generator, common: Mapping[str, Column], mask_N: Column, label: str) -> pa.Table:
    columns: dict[str, Column] = {name: np.asarray(values)[mask_N] for name, values in common.items()}
    size = int(mask_N.sum())
    columns |= {
        "event_id": rng.integers(0, 2**63, size=size).astype(np.uint64),
        "label": [label] * size,
        "occurred_at_ms": columns["served_at_ms"] + 60_000,
        "value": np.full(size, 0.4 if label == "revenue" else 1.0),
    }
    return _table(columns, EventKind.ENGAGEMENT)


def _table(columns: Mapping[str, Column], kind: EventKind) -> pa.Table:
    return pa.table({field.name: pa.array(columns[field.name], type=field.type) for field in SCHEMA_OF[kind]})
