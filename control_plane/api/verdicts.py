"""Verdicts: one look of the judge, in words, and the very bytes it looked at."""

from fastapi import APIRouter, Response

from control_plane.api.deps import Id, Sessions
from control_plane.api.errors import documented
from control_plane.api.rollout_schemas import ExplainedVerdictOut, VerdictOut
from control_plane.guardrails.explain import explain
from control_plane.registry import evidence

router = APIRouter(prefix="/v1/verdicts", tags=["verdicts"])

OCTETS = "application/octet-stream"


@router.get("/{verdict_id}", summary="Read a verdict", responses=documented(404))
def read_verdict(verdict_id: Id, sessions: Sessions) -> ExplainedVerdictOut:
    with sessions.reading() as session:
        stored = evidence.get_verdict(session, verdict_id)
    rendered = VerdictOut.of(stored)
    return ExplainedVerdictOut(
        **dict(rendered), explanation=explain(stored.verdict), verdict_json=stored.verdict.to_json()
    )


@router.get(
    "/{verdict_id}/inputs",
    summary="Download what the judge looked at",
    response_class=Response,
    responses={
        **documented(404, 410),
        200: {
            "description": "Plan, stage, moments and health; `surefoot verdict replay` judges them again",
            "content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}},
        },
    },
)
def read_inputs(verdict_id: Id, sessions: Sessions) -> Response:
    with sessions.reading() as session:
        inputs = evidence.inputs(session, verdict_id)
    return Response(inputs, media_type=OCTETS)
