"""What a caller may ask of the engine, read from the protocol's tensors and parameters.

Every function raises `InvalidField`, naming the input or parameter that breaks its contract.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from control_plane.domain.errors import InvalidField
from control_plane.domain.model_version import Surface
from model_runtime.networks.features import OPTIONAL_FIELDS, FeatureSpec, RowBatch, check_batch
from model_runtime.protocol import InferRequest

BATCH_FIELDS = tuple(field.name for field in fields(RowBatch))
USER_KEY = "user_key"
LATEST_MS = 1 << 53  # what a JSON number carries exactly


@dataclass(frozen=True, kw_only=True, slots=True)
class Showing:
    """The caller asked us to pick each user's best row and to log it as shown."""

    served_at_ms: int


def read_batch(spec: FeatureSpec, surface: Surface, request: InferRequest, *, max_rows: int) -> RowBatch:
    """The rows of a request, checked against what the surface's model reads."""
    for name in request.tensors:
        if name not in BATCH_FIELDS and name != USER_KEY:
            known = ", ".join((*BATCH_FIELDS, USER_KEY))
            raise InvalidField(name, f"is not an input of {surface}; known: {known}")
    widths = spec.widths(surface)
    for name in BATCH_FIELDS:
        if name not in request.tensors and (name not in OPTIONAL_FIELDS or widths[name]):
            raise InvalidField(name, "is missing from the inputs")
    given = [name for name in BATCH_FIELDS if name in request.tensors]
    batch = RowBatch(**{name: request.tensors[name] for name in given})  # type: ignore[arg-type]  # checked below
    if max(batch.num_rows, batch.num_users) > max_rows:
        raise InvalidField("user_index_N", f"may hold at most {max_rows} rows, and as many users")
    return check_batch(spec, surface, batch)


def read_showing(parameters: Mapping[str, object]) -> Showing | None:
    """None where the caller picks for itself."""
    if "shown_row" in parameters:
        raise InvalidField("parameters.shown_row", "is not supported; ask for the output shown_row")
    show = parameters.get("show", 0)
    if not isinstance(show, int) or show not in (0, 1):
        raise InvalidField("parameters.show", f"must be 0 or 1, not {show!r}")
    served_at_ms = parameters.get("served_at_ms")
    if served_at_ms is None:
        served_at_ms = time.time_ns() // 1_000_000
    if isinstance(served_at_ms, bool) or not isinstance(served_at_ms, int) or not 0 <= served_at_ms < LATEST_MS:
        raise InvalidField("parameters.served_at_ms", f"must be milliseconds since the epoch, not {served_at_ms!r}")
    return Showing(served_at_ms=served_at_ms) if show else None


def read_deadline(parameters: Mapping[str, object], *, arrived_at: float, max_seconds: float) -> float:
    """When the caller stops waiting, on the clock of `arrived_at`; `timeout` is in microseconds, as in Triton."""
    timeout_us = parameters.get("timeout", 0)
    if isinstance(timeout_us, bool) or not isinstance(timeout_us, int) or timeout_us < 0:
        raise InvalidField("parameters.timeout", f"must be 0 (none) or more microseconds, not {timeout_us!r}")
    return arrived_at + (min(timeout_us / 1e6, max_seconds) if timeout_us else max_seconds)


def read_user_keys(request: InferRequest, num_users: int) -> NDArray[np.uint64]:
    """What routes each user, shape (U,)."""
    found = request.tensors.get(USER_KEY)
    if found is None:
        raise InvalidField(USER_KEY, "is missing; a request that names no version is routed by it")
    if found.dtype != np.uint64:
        raise InvalidField(USER_KEY, f"must be UINT64, not {found.dtype.name}")
    if found.shape != (num_users,):
        raise InvalidField(USER_KEY, f"must have the shape ({num_users},), not {found.shape}")
    return found.astype(np.uint64, copy=False)
