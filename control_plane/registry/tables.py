"""The registry's tables. The `surface` row is the one truth of what serves; the rest says why, and since when."""

import json
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAME = String(64)  # surfaces, names of commands and phases
VERSION_ID = String(16)
DIGEST = String(71)  # "sha256:" and 64 hex digits


class UtcDateTime(TypeDecorator[datetime]):
    """A timezone-aware UTC datetime on every database; SQLite itself keeps none."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a naive datetime has no place in the registry: {value}")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class SurfaceRow(Base):
    __tablename__ = "surface"
    __table_args__ = (
        CheckConstraint("generation >= 0", name="generation"),
        CheckConstraint("candidate_bp BETWEEN 0 AND 10000", name="candidate_bp"),
        CheckConstraint("candidate_bp = 0 OR candidate IS NOT NULL", name="candidate"),
        CheckConstraint("shadow_sample_bp BETWEEN 0 AND 10000", name="shadow_sample_bp"),
    )

    surface: Mapped[str] = mapped_column(NAME, primary_key=True)
    view_types: Mapped[list[str]] = mapped_column(JSON)
    generation: Mapped[int]
    stable: Mapped[str | None] = mapped_column(VERSION_ID)
    candidate: Mapped[str | None] = mapped_column(VERSION_ID)
    candidate_bp: Mapped[int]
    shadow: Mapped[str | None] = mapped_column(VERSION_ID)
    shadow_sample_bp: Mapped[int]
    last_proven: Mapped[str | None] = mapped_column(VERSION_ID)
    rollout_id: Mapped[int | None] = mapped_column()
    salt: Mapped[str] = mapped_column(Text)
    unwatched_seconds: Mapped[float | None]
    lease_renewed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    changed_at: Mapped[datetime] = mapped_column(UtcDateTime)


class SplitRow(Base):
    """What served from one generation to the next."""

    __tablename__ = "split"

    surface: Mapped[str] = mapped_column(NAME, ForeignKey("surface.surface"), primary_key=True)
    generation: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    stable: Mapped[str] = mapped_column(VERSION_ID)
    candidate: Mapped[str | None] = mapped_column(VERSION_ID)
    candidate_bp: Mapped[int]
    shadow: Mapped[str | None] = mapped_column(VERSION_ID)
    shadow_sample_bp: Mapped[int]
    salt: Mapped[str] = mapped_column(Text)


class ModelVersionRow(Base):
    __tablename__ = "model_version"
    __table_args__ = (Index(None, "surface", "model_name"),)

    version_id: Mapped[str] = mapped_column(VERSION_ID, primary_key=True)
    surface: Mapped[str] = mapped_column(NAME, ForeignKey("surface.surface"))
    model_name: Mapped[str] = mapped_column(Text)
    trunk: Mapped[str] = mapped_column(DIGEST, index=True)
    surface_export: Mapped[str] = mapped_column(DIGEST, index=True)
    calibrator: Mapped[str] = mapped_column(DIGEST, index=True)
    feature_signature: Mapped[str] = mapped_column(DIGEST, index=True)
    manifest: Mapped[str] = mapped_column(Text)
    artifact_uri: Mapped[str] = mapped_column(Text)
    registered_at: Mapped[datetime] = mapped_column(UtcDateTime)
    registered_by: Mapped[str] = mapped_column(Text)
    aborted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    aborted_because: Mapped[str] = mapped_column(Text, default="")


class VersionHistoryRow(Base):
    """One entry of a version's own chain: its registration, then whatever moved it."""

    __tablename__ = "version_history"

    version_id: Mapped[str] = mapped_column(VERSION_ID, ForeignKey("model_version.version_id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    by: Mapped[str] = mapped_column(Text)
    command: Mapped[str] = mapped_column(NAME)
    artifact_uri: Mapped[str] = mapped_column(Text)
    manifest_digest: Mapped[str] = mapped_column(DIGEST)
    code_version: Mapped[str] = mapped_column(Text)
    previous_hash: Mapped[str] = mapped_column(DIGEST)
    hash: Mapped[str] = mapped_column(DIGEST)


class QuarantineRow(Base):
    """One time in quarantine of one digest; past ones are kept."""

    __tablename__ = "quarantine"
    __table_args__ = (
        Index(
            "uq_quarantine_digest_active",
            "digest",
            unique=True,
            sqlite_where=text("released_at IS NULL"),
            postgresql_where=text("released_at IS NULL"),
        ),
    )

    quarantine_id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(DIGEST)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    by: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)
    released_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    released_by: Mapped[str | None] = mapped_column(Text)
    release_reason: Mapped[str | None] = mapped_column(Text)


class ReleaseRow(Base):
    """One checkpoint on its way over several surfaces."""

    __tablename__ = "release"

    release_id: Mapped[int] = mapped_column(primary_key=True)
    edges: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    created_by: Mapped[str] = mapped_column(Text)


class RolloutRow(Base):
    __tablename__ = "rollout"
    __table_args__ = (
        Index(None, "surface"),
        Index(None, "release_id"),
        Index(
            "uq_rollout_surface_active",
            "surface",
            unique=True,
            sqlite_where=text("phase NOT IN ('done', 'rolled_back', 'queued')"),
            postgresql_where=text("phase NOT IN ('done', 'rolled_back', 'queued')"),
        ),
    )

    rollout_id: Mapped[int] = mapped_column(primary_key=True)
    surface: Mapped[str] = mapped_column(NAME, ForeignKey("surface.surface"))
    stable: Mapped[str] = mapped_column(VERSION_ID, ForeignKey("model_version.version_id"))
    candidate: Mapped[str] = mapped_column(VERSION_ID, ForeignKey("model_version.version_id"))
    plan: Mapped[dict[str, Any]] = mapped_column(JSON)
    phase: Mapped[str] = mapped_column(NAME)
    step: Mapped[int]
    paused_phase: Mapped[str | None] = mapped_column(NAME)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    created_by: Mapped[str] = mapped_column(Text)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    entered_at: Mapped[datetime] = mapped_column(UtcDateTime)
    first_generation: Mapped[int]
    stage_generation: Mapped[int]
    acknowledged_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    away_seconds: Mapped[float | None]
    weight_bp: Mapped[int | None]
    approvals: Mapped[list[str]] = mapped_column(JSON)
    release_id: Mapped[int | None] = mapped_column(ForeignKey("release.release_id"))
    next_check_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    counts_at_start: Mapped[dict[str, dict[str, Any]]] = mapped_column(JSON)


class HistoryRow(Base):
    """One change of one surface; `seq` is the generation it made, 0 the surface's own making."""

    __tablename__ = "history"

    surface: Mapped[str] = mapped_column(NAME, ForeignKey("surface.surface"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    by: Mapped[str] = mapped_column(Text)
    command: Mapped[str] = mapped_column(NAME)
    reason: Mapped[str] = mapped_column(Text)
    before: Mapped[str] = mapped_column(Text)
    after: Mapped[str] = mapped_column(Text)
    rollout_id: Mapped[int | None]
    verdict_id: Mapped[int | None]
    evidence_digest: Mapped[str | None] = mapped_column(DIGEST)
    code_version: Mapped[str] = mapped_column(Text)
    previous_hash: Mapped[str] = mapped_column(DIGEST)
    hash: Mapped[str] = mapped_column(DIGEST)


class OutboxRow(Base):
    """A CloudEvent that leaves with the change it tells of."""

    __tablename__ = "outbox"
    __table_args__ = (Index(None, "delivered_at", "outbox_id"),)

    outbox_id: Mapped[int] = mapped_column(primary_key=True)
    event: Mapped[str] = mapped_column(Text)
    ordering_key: Mapped[str | None] = mapped_column(Text)
    delivered_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class WebhookSubscriberRow(Base):
    """Up to which outbox row a subscriber's deliveries have been made out."""

    __tablename__ = "webhook_subscriber"

    name: Mapped[str] = mapped_column(NAME, primary_key=True)
    fanned_out_to: Mapped[int]


class WebhookDeliveryRow(Base):
    """One event on its way to one subscriber; open until it was delivered or given up."""

    __tablename__ = "webhook_delivery"
    __table_args__ = (
        Index(
            "ix_webhook_delivery_open",
            "subscriber",
            "ordering_key",
            "outbox_id",
            sqlite_where=text("delivered_at IS NULL AND dead_at IS NULL"),
            postgresql_where=text("delivered_at IS NULL AND dead_at IS NULL"),
        ),
        Index(
            "ix_webhook_delivery_dead",
            "subscriber",
            "dead_at",
            sqlite_where=text("dead_at IS NOT NULL"),
            postgresql_where=text("dead_at IS NOT NULL"),
        ),
        Index(None, "outbox_id"),
    )

    subscriber: Mapped[str] = mapped_column(NAME, ForeignKey("webhook_subscriber.name"), primary_key=True)
    outbox_id: Mapped[int] = mapped_column(ForeignKey("outbox.outbox_id"), primary_key=True, autoincrement=False)
    ordering_key: Mapped[str] = mapped_column(Text)
    attempts: Mapped[int]
    next_attempt_at: Mapped[datetime] = mapped_column(UtcDateTime)
    delivered_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    dead_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_error: Mapped[str] = mapped_column(Text)


class FreezeRow(Base):
    """A time in which nothing grows, of one surface or of all; lifted ones are kept.

    `recurrence` is an iCalendar RRULE, each occurrence `duration_seconds` long in `time_zone`; empty: once, from
    `starts_at` to `ends_at`.
    """

    __tablename__ = "freeze_window"
    __table_args__ = (Index(None, "lifted_at"),)

    freeze_id: Mapped[int] = mapped_column(primary_key=True)
    surface: Mapped[str | None] = mapped_column(NAME, ForeignKey("surface.surface"))
    starts_at: Mapped[datetime] = mapped_column(UtcDateTime)
    ends_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    recurrence: Mapped[str] = mapped_column(Text)
    duration_seconds: Mapped[float | None]
    time_zone: Mapped[str] = mapped_column(Text)
    owner: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)
    bypass_group: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    created_by: Mapped[str] = mapped_column(Text)
    lifted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    lifted_by: Mapped[str | None] = mapped_column(Text)
    lift_reason: Mapped[str | None] = mapped_column(Text)


class IdempotencyRow(Base):
    """What a request was answered, for when its key comes again."""

    __tablename__ = "idempotency"
    __table_args__ = (Index(None, "at"),)

    operator: Mapped[str] = mapped_column(Text, primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request_digest: Mapped[str] = mapped_column(DIGEST)
    status: Mapped[int]
    headers: Mapped[dict[str, str]] = mapped_column(JSON)
    body: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(UtcDateTime)


class VerdictInputsRow(Base):
    """What a judge saw, kept once per content; `content` is empty once retention has pruned it."""

    __tablename__ = "verdict_inputs"

    digest: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    content: Mapped[bytes] = mapped_column(LargeBinary)
    pruned_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class RetentionPassRow(Base):
    """What was pruned when. One without `finished_at` is never committed: it opens the triggers to its transaction."""

    __tablename__ = "retention_pass"

    pass_id: Mapped[int] = mapped_column(primary_key=True)
    by: Mapped[str] = mapped_column(Text)
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    what: Mapped[str] = mapped_column(NAME)
    rows: Mapped[int]
    bytes: Mapped[int] = mapped_column(BigInteger)


class VerdictRow(Base):
    __tablename__ = "verdict"
    __table_args__ = (Index(None, "rollout_id", "verdict_id"),)

    verdict_id: Mapped[int] = mapped_column(primary_key=True)
    rollout_id: Mapped[int] = mapped_column(ForeignKey("rollout.rollout_id"))
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    outcome: Mapped[str] = mapped_column(NAME)
    generation: Mapped[int]
    verdict: Mapped[str] = mapped_column(Text)
    inputs_digest: Mapped[str] = mapped_column(DIGEST, ForeignKey("verdict_inputs.digest"))
    code_version: Mapped[str] = mapped_column(Text)


class RuntimeRow(Base):
    __tablename__ = "runtime"

    runtime_id: Mapped[str] = mapped_column(Text, primary_key=True)
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    generations: Mapped[dict[str, int]] = mapped_column(JSON)
    loaded: Mapped[list[str]] = mapped_column(JSON)
    shadow_dropped: Mapped[int] = mapped_column(BigInteger)
    splits_mode: Mapped[str] = mapped_column(NAME)


class RuntimeCountsRow(Base):
    """One runtime's counts of one version: as last told, and in all over its restarts."""

    __tablename__ = "runtime_counts"

    runtime_id: Mapped[str] = mapped_column(Text, ForeignKey("runtime.runtime_id"), primary_key=True)
    version_id: Mapped[str] = mapped_column(VERSION_ID, primary_key=True, index=True)
    told: Mapped[dict[str, Any]] = mapped_column(JSON)
    totals: Mapped[dict[str, Any]] = mapped_column(JSON)


class LeaseRow(Base):
    """Who acts, by the database's own clock; `epoch` grows whenever the holder changes."""

    __tablename__ = "lease"

    name: Mapped[str] = mapped_column(NAME, primary_key=True)
    holder: Mapped[str] = mapped_column(Text)
    epoch: Mapped[int]
    expires_at_ms: Mapped[int] = mapped_column(BigInteger)
    last_tick_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


def canonical_json(value: object) -> str:
    """Equal values are equal bytes. NaN and infinities are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
