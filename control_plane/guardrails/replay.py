"""All that a verdict came from, as bytes: the same inputs are the same bytes, and judge the same to the last bit."""

import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from control_plane.domain.errors import InvalidMoments
from control_plane.domain.moments import Draw, Health, Moments, ServingCounts, Stratum
from control_plane.domain.plan import RolloutPlan
from control_plane.domain.plan_mapping import plan_from_mapping, plan_to_mapping
from control_plane.domain.readings import Reading, ReadingOutcome
from control_plane.domain.rollout import Phase, Stage
from control_plane.domain.verdict import Verdict
from control_plane.guardrails.judge import judge

IntegerArray = NDArray[np.signedinteger]

MAGIC = b"surefoot-inputs/3\n"
ARRAYS: dict[str, np.dtype[np.signedinteger]] = {
    "counts_MGSAK": np.dtype("<i4"),
    "values_MGSAK": np.dtype("<i8"),
    "pairs_GKP": np.dtype("<i8"),
    "score_bins_GAKB": np.dtype("<i4"),
    "score_pairs_CBB": np.dtype("<i4"),
    "reliability_GACBR": np.dtype("<i8"),
    "shadow_reliability_GACBR": np.dtype("<i8"),
    "before_MGAK": np.dtype("<i8"),
}
MAX_WHOLE = 2**512  # nothing can be computed with more; what merely cannot be is for the judge to name
LENGTH_BYTES = 8  # before the header
COMPRESSION_LEVEL = 3  # counts lie transposed by byte, mostly zeros: higher levels cost time and win little


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """What `judge` was given."""

    plan: RolloutPlan
    stage: Stage
    moments: Moments
    health: Health
    readings: tuple[Reading, ...] = ()


def pack(plan: RolloutPlan, stage: Stage, moments: Moments, health: Health, readings: Sequence[Reading] = ()) -> bytes:
    header = json.dumps(
        {
            "plan": plan_to_mapping(plan),
            "stage": asdict(stage),
            "health": asdict(health),
            "readings": [asdict(reading) for reading in readings],
            "moments": _scalars(moments),
            "shapes": {name: array.shape for name, array in _arrays(moments).items()},
        },
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
    ).encode()
    body = b"".join(_array_bytes(name, array) for name, array in _arrays(moments).items())
    return MAGIC + zlib.compress(len(header).to_bytes(LENGTH_BYTES, "big") + header + body, COMPRESSION_LEVEL)


def unpack(packed: bytes) -> Inputs:
    """Read what `pack` wrote; anything else is `InvalidMoments`."""
    if not packed.startswith(MAGIC):
        raise InvalidMoments("inputs", f"must begin with {MAGIC.decode().strip()!r}")
    try:
        content = zlib.decompress(packed[len(MAGIC) :])
        body = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "big")
        header = json.loads(content[LENGTH_BYTES:body])
        arrays = _read_arrays(content[body:], header["shapes"])
        return _read_inputs(header, arrays)
    except (zlib.error, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise InvalidMoments("inputs", f"are damaged: {error}") from error


def readings(packed: bytes) -> tuple[Reading, ...]:
    """The external readings alone, without unpacking the sums; anything but inputs is `InvalidMoments`."""
    if not packed.startswith(MAGIC):
        raise InvalidMoments("inputs", f"must begin with {MAGIC.decode().strip()!r}")
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(packed[len(MAGIC) :], LENGTH_BYTES)
        length = int.from_bytes(content, "big")
        header = json.loads(stream.decompress(stream.unconsumed_tail, length))
        return tuple(_reading(told) for told in header["readings"])
    except (zlib.error, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise InvalidMoments("inputs", f"are damaged: {error}") from error


def replay(packed: bytes) -> Verdict:
    """Judge again what was judged; equal code gives an equal verdict."""
    inputs = unpack(packed)
    return judge(inputs.plan, inputs.stage, inputs.moments, inputs.health, inputs.readings)


def _scalars(moments: Moments) -> dict[str, Any]:
    return {
        "surface": moments.surface,
        "stable": moments.stable,
        "candidate": moments.candidate,
        "segments": list(moments.segments),
        "strata": [asdict(stratum) for stratum in moments.strata],
        "draws": [asdict(draw) for draw in moments.draws],
        "users_A": list(moments.users_A),
        "cross_exposed_users": moments.cross_exposed_users,
        "as_of_ms": moments.as_of_ms,
        "newest_event_ms": moments.newest_event_ms,
        "candidate_newest_ms": moments.candidate_newest_ms,
    }


def _arrays(moments: Moments) -> dict[str, IntegerArray]:
    """Those that are there, in the order of their bytes."""
    found = {name: getattr(moments, name) for name in ARRAYS}
    return {name: array for name, array in found.items() if array is not None}


def _array_bytes(name: str, array: IntegerArray) -> bytes:
    """Little-endian, all first bytes, then all second bytes, …: sums of similar size compress to a tenth."""
    if array.dtype != ARRAYS[name]:
        raise InvalidMoments(name, f"must be an array of {ARRAYS[name].name}, not {array.dtype}")
    return np.ascontiguousarray(array, dtype=ARRAYS[name]).reshape(-1, 1).view(np.uint8).T.tobytes()


def _read_arrays(body: bytes, shapes: dict[str, list[int]]) -> dict[str, IntegerArray]:
    arrays: dict[str, IntegerArray] = {}
    start = 0
    for name, kind in ARRAYS.items():
        if name not in shapes:
            continue
        shape = [_whole(length) for length in shapes[name]]
        size = kind.itemsize * math.prod(shape)
        planes = np.frombuffer(body[start : start + size], dtype=np.uint8).reshape(kind.itemsize, -1)
        values = np.ascontiguousarray(planes.T).view(kind)
        arrays[name] = values.astype(kind.newbyteorder("=")).reshape(shape)
        start += size
    if start != len(body):
        raise ValueError("trailing bytes")
    return arrays


def _read_inputs(header: dict[str, Any], arrays: dict[str, IntegerArray]) -> Inputs:
    scalars, health, stage = header["moments"], header["health"], header["stage"]
    fields: dict[str, Any] = {
        **scalars,
        **arrays,
        "segments": tuple(_text(segment) for segment in scalars["segments"]),
        "strata": tuple(Stratum(**stratum) for stratum in scalars["strata"]),
        "draws": tuple(Draw(**draw) for draw in scalars["draws"]),
        "users_A": tuple(scalars["users_A"]),
    }
    counts = {arm: _serving_counts(health[arm]) for arm in ("stable", "candidate")}
    whole = {name: _whole(value) for name, value in stage.items() if name != "phase"}
    plan = plan_from_mapping(header["plan"])
    if not -1 <= whole["step"] < len(plan.steps):
        raise ValueError(f"a stage at step {whole['step']} of {len(plan.steps)}")
    return Inputs(
        plan=plan,
        stage=Stage(phase=Phase(stage["phase"]), **whole),
        moments=Moments(**fields),
        health=Health(**{**health, **counts}),
        readings=tuple(_reading(told) for told in header["readings"]),
    )


def _serving_counts(told: dict[str, Any]) -> ServingCounts:
    """Counts that cannot be are for the judge to name, but whole numbers they must be."""
    bins = {"latency_bins": [_whole(count) for count in told.get("latency_bins", ())]}
    return ServingCounts.from_mapping(
        {**bins, **{name: _whole(value) for name, value in told.items() if name not in bins}}
    )


def _reading(told: dict[str, Any]) -> Reading:
    value, sampled_at_ms = told["value"], told["sampled_at_ms"]
    return Reading(
        name=_text(told["name"]),
        outcome=ReadingOutcome(told["outcome"]),
        value=None if value is None else float(value),
        sampled_at_ms=None if sampled_at_ms is None else _whole(sampled_at_ms),
        query=_text(told["query"]),
        detail=_text(told["detail"]),
    )


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MAX_WHOLE:
        raise ValueError(f"{value!r} is no whole number that was ever stored")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value
