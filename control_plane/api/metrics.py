"""Metrics for Prometheus: what this process served, and what the registry says at the moment of the scrape."""

from collections import Counter as Tally
from collections.abc import Sequence
from datetime import datetime, timedelta

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from sqlalchemy.orm import Session

from control_plane.api.deps import LiveSince, Sessions, parts_of
from control_plane.api.errors import documented
from control_plane.clock import system_clock
from control_plane.domain.rollout import ACTIVE
from control_plane.registry import deliveries, leases, rollouts, runtimes, surfaces

router = APIRouter(tags=["metrics"])

TEXT = {"description": "Prometheus text format", "content": {"text/plain": {"schema": {"type": "string"}}}}
DOCUMENTED = {**documented(), 200: TEXT}


@router.get("/metrics", summary="Scrape the metrics", response_class=Response, responses=DOCUMENTED)
def read_metrics(request: Request, sessions: Sessions, live_since: LiveSince) -> Response:
    """Prometheus text format."""
    parts = parts_of(request)
    with sessions.reading() as session:
        shared = _of_the_registry(session, live_since)
        _add_webhooks(shared, session, [subscriber.name for subscriber in parts.settings.webhooks])
    Gauge("surefoot_split_streams", "Open split streams", registry=shared).set(parts.split_feed.listeners)
    text = generate_latest(parts.instruments.registry) + generate_latest(shared)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


def _add_webhooks(shared: CollectorRegistry, session: Session, names: Sequence[str]) -> None:
    pending = Gauge("surefoot_webhooks_pending", "Events not yet told", ["subscriber"], registry=shared)
    oldest = Gauge("surefoot_webhook_oldest_seconds", "Age of the oldest of them", ["subscriber"], registry=shared)
    attempts = Gauge(
        "surefoot_webhook_pending_attempts",
        "Attempts so far at events not yet told, whichever process made them",
        ["subscriber"],
        registry=shared,
    )
    dead = Gauge("surefoot_webhooks_dead", "Events given up", ["subscriber"], registry=shared)
    for queue in deliveries.queues(session):
        if queue.subscriber in names:
            age = timedelta(0) if queue.oldest_at is None else system_clock() - queue.oldest_at
            pending.labels(queue.subscriber).set(queue.pending)
            oldest.labels(queue.subscriber).set(max(0.0, age.total_seconds()))
            attempts.labels(queue.subscriber).set(queue.attempts)
            dead.labels(queue.subscriber).set(queue.dead)


def _of_the_registry(session: Session, live_since: datetime) -> CollectorRegistry:
    """What is the same on every replica, as of this scrape."""
    shared = CollectorRegistry()
    generation = Gauge("surefoot_surface_generation", "Generation of a surface", ["surface"], registry=shared)
    weight = Gauge("surefoot_candidate_weight_bp", "Weight of the candidate", ["surface"], registry=shared)
    active = Gauge("surefoot_active_rollouts", "Rollouts that are not finished", ["phase"], registry=shared)
    live = Gauge("surefoot_live_runtimes", "Runtimes heard of lately", registry=shared)
    for state in surfaces.list_surfaces(session):
        generation.labels(state.surface).set(state.generation)
        weight.labels(state.surface).set(state.candidate_bp)
    phases = Tally(rollout.phase for rollout in rollouts.list_rollouts(session, active_only=True))
    for phase in ACTIVE:
        active.labels(phase.value).set(phases[phase])
    live.set(len(runtimes.live(session, since=live_since)))
    tick = Gauge("surefoot_last_tick_timestamp_seconds", "The scheduler's last whole tick, 0: none", registry=shared)
    lease = leases.current(session, leases.SCHEDULER)
    tick.set(0 if lease is None or lease.last_tick_at is None else lease.last_tick_at.timestamp())
    return shared
