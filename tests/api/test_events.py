import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from httpx import Response

from control_plane.domain.events import EventKind
from control_plane.evidence.schema import SCHEMA_OF
from tests.api.deployment import Deployment
from tests.builders import NOON

ARROW = {"Content-Type": "application/vnd.apache.arrow.stream"}
NDJSON = {"Content-Type": "application/x-ndjson"}
NOON_MS = round(NOON.timestamp() * 1_000)


def an_exposure(stable: str, **fields: Any) -> dict[str, Any]:
    exposure = {
        "impression_id": 1,
        "user_key": 2**63 + 7,
        "served_at_ms": NOON_MS,
        "surface": "home_feed",
        "view_type": "grid",
        "arm": "stable",
        "version_id": stable,
        "generation": 1,
        "score": 0.02,
    }
    return {**exposure, **fields}


def an_arrow_stream(rows: list[dict[str, Any]], schema: pa.Schema = SCHEMA_OF[EventKind.EXPOSURE]) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(rows, schema=schema)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def post(
    deployment: Deployment, content: bytes, headers: dict[str, str] = ARROW, *, kind: str | None = None
) -> Response:
    params = {} if kind is None else {"kind": kind}
    return deployment.client.post("/v1/events", content=content, headers=headers, params=params)


def test_sound_rows_are_kept_and_the_others_told_by_row_field_and_rule(deployment: Deployment) -> None:
    stable = deployment.open_surface()
    rows = [
        an_exposure(stable),
        an_exposure(stable, impression_id=2, score=float("nan")),
        an_exposure(stable, impression_id=3, score=-0.1),
        an_exposure(stable, impression_id=4, served_at_ms=NOON_MS + 3_600_000),
        an_exposure("f" * 16, impression_id=5),
        an_exposure(stable, impression_id=6),
    ]

    receipt = post(deployment, an_arrow_stream(rows), kind="exposure").json()

    assert (receipt["accepted"], receipt["refused"]) == (2, 4)
    assert [(refusal["row"], refusal["field"]) for refusal in receipt["first_refused"]] == [
        (1, "score"),
        (2, "score"),
        (3, "served_at_ms"),
        (4, "version_id"),
    ]
    assert 'surefoot_events_total{outcome="refused"} 4.0' in deployment.client.get("/metrics").text


def test_ndjson_rows_carry_their_own_kind(deployment: Deployment) -> None:
    stable = deployment.open_surface()
    exposure = {"kind": "exposure", **an_exposure(stable)}
    click = {"kind": "engagement", "event_id": 9, "label": "click", "occurred_at_ms": NOON_MS + 500, "value": 1.0}
    click |= {name: exposure[name] for name in ("impression_id", "user_key", "served_at_ms", "surface")}
    body = "\n".join(json.dumps(row) for row in (exposure, click)).encode()

    receipt = post(deployment, body, NDJSON).json()

    assert (receipt["accepted"], receipt["refused"], receipt["reasons"]) == (2, 0, {})


@pytest.mark.parametrize(
    ("content", "kind", "field"),
    [
        (b"", "exposure", None),
        (b"not arrow at all", "exposure", None),
        (
            an_arrow_stream([], pa.schema([("score", pa.float64())])),
            "exposure",
            "impression_id",
        ),
        (an_arrow_stream([]), None, "kind"),
        (an_arrow_stream([]), "shown", "kind"),
    ],
)
def test_a_body_that_is_not_what_it_says_is_refused_whole(
    deployment: Deployment, content: bytes, kind: str | None, field: str | None
) -> None:
    answer = post(deployment, content, kind=kind)

    assert answer.status_code == 422
    assert field is None or answer.json()["field"] == field


def test_a_content_type_that_is_not_known_is_told_the_known_ones(deployment: Deployment) -> None:
    answer = post(deployment, b"{}", {"Content-Type": "text/csv"})

    assert answer.status_code == 415
    assert "application/x-ndjson" in answer.json()["detail"]


def test_a_log_that_cannot_write_answers_507_and_keeps_nothing(deployment: Deployment) -> None:
    stable = deployment.open_surface()
    root = deployment.parts.event_log.root
    (root / "exposure").write_text("a file where the log wants a folder")

    answer = post(deployment, an_arrow_stream([an_exposure(stable)]), kind="exposure")

    assert (answer.status_code, answer.json()["type"]) == (507, "urn:surefoot:log-unavailable")
    assert not list(Path(root).rglob("*.parquet"))
