"""Freezes, idempotency keys, webhook deliveries, and what rollouts need to wait for runtimes and for one another."""

import hashlib
import json
from datetime import UTC

import sqlalchemy as sa
from alembic import op

from migrations import append_only

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

GENESIS = "sha256:" + "0" * 64
ACTIVE_BEFORE = sa.text("phase NOT IN ('done', 'rolled_back')")
ACTIVE = sa.text("phase NOT IN ('done', 'rolled_back', 'queued')")


def upgrade() -> None:
    op.create_table(
        "freeze_window",
        sa.Column("freeze_id", sa.Integer(), nullable=False),
        sa.Column("surface", sa.String(length=64), nullable=True),
        sa.Column("starts_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("recurrence", sa.Text(), nullable=False),
        sa.Column("duration_seconds", sa.Double(), nullable=True),
        sa.Column("time_zone", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("bypass_group", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("lifted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lifted_by", sa.Text(), nullable=True),
        sa.Column("lift_reason", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["surface"], ["surface.surface"], name="fk_freeze_window_surface"),
        sa.PrimaryKeyConstraint("freeze_id", name="pk_freeze_window"),
    )
    op.create_index("ix_freeze_window_lifted_at", "freeze_window", ["lifted_at"], unique=False)
    op.create_table(
        "idempotency",
        sa.Column("operator", sa.Text(), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("request_digest", sa.String(length=71), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("headers", sa.JSON(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("operator", "key", name="pk_idempotency"),
    )
    op.create_index("ix_idempotency_at", "idempotency", ["at"], unique=False)
    op.create_table(
        "webhook_subscriber",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("fanned_out_to", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_webhook_subscriber"),
    )
    op.create_table(
        "webhook_delivery",
        sa.Column("subscriber", sa.String(length=64), nullable=False),
        sa.Column("outbox_id", sa.Integer(), nullable=False),
        sa.Column("ordering_key", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("dead_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["outbox_id"], ["outbox.outbox_id"], name="fk_webhook_delivery_outbox_id"),
        sa.ForeignKeyConstraint(["subscriber"], ["webhook_subscriber.name"], name="fk_webhook_delivery_subscriber"),
        sa.PrimaryKeyConstraint("subscriber", "outbox_id", name="pk_webhook_delivery"),
    )
    op.create_index(
        "ix_webhook_delivery_open",
        "webhook_delivery",
        ["subscriber", "ordering_key", "outbox_id"],
        unique=False,
        sqlite_where=sa.text("delivered_at IS NULL AND dead_at IS NULL"),
        postgresql_where=sa.text("delivered_at IS NULL AND dead_at IS NULL"),
    )
    op.create_index(
        "ix_webhook_delivery_dead",
        "webhook_delivery",
        ["subscriber", "dead_at"],
        unique=False,
        sqlite_where=sa.text("dead_at IS NOT NULL"),
        postgresql_where=sa.text("dead_at IS NOT NULL"),
    )
    op.create_index("ix_webhook_delivery_outbox_id", "webhook_delivery", ["outbox_id"], unique=False)
    op.create_table(
        "retention_pass",
        sa.Column("pass_id", sa.Integer(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("what", sa.String(length=64), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("pass_id", name="pk_retention_pass"),
    )
    op.add_column("verdict_inputs", sa.Column("pruned_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("outbox", sa.Column("ordering_key", sa.Text(), nullable=True))
    op.add_column("history", sa.Column("evidence_digest", sa.String(length=71), nullable=True))
    op.drop_index("uq_rollout_surface_active", "rollout")
    op.add_column("rollout", sa.Column("acknowledged_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("rollout", sa.Column("away_seconds", sa.Double(), nullable=True))
    op.add_column("rollout", sa.Column("weight_bp", sa.Integer(), nullable=True))
    op.create_index(
        "uq_rollout_surface_active", "rollout", ["surface"], unique=True, sqlite_where=ACTIVE, postgresql_where=ACTIVE
    )
    op.create_table(
        "version_history",
        sa.Column("version_id", sa.String(length=16), nullable=False),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("command", sa.String(length=64), nullable=False),
        sa.Column("artifact_uri", sa.Text(), nullable=False),
        sa.Column("manifest_digest", sa.String(length=71), nullable=False),
        sa.Column("code_version", sa.Text(), nullable=False),
        sa.Column("previous_hash", sa.String(length=71), nullable=False),
        sa.Column("hash", sa.String(length=71), nullable=False),
        sa.ForeignKeyConstraint(["version_id"], ["model_version.version_id"], name="fk_version_history_version_id"),
        sa.PrimaryKeyConstraint("version_id", "seq", name="pk_version_history"),
    )
    _begin_version_histories(op.get_bind())
    append_only.protect(op.get_bind())


def downgrade() -> None:
    """Changes made on a verdict since then are hashed with its digest: revision 0001 takes them for altered."""
    append_only.unprotect(op.get_bind())
    op.drop_index("uq_rollout_surface_active", "rollout")
    op.execute("UPDATE rollout SET phase = 'rolled_back', next_check_at = NULL WHERE phase = 'queued'")
    for column in (
        "weight_bp",
        "away_seconds",
        "acknowledged_at",
    ):  # a batch would drop the table that verdicts refer to
        op.drop_column("rollout", column)
    op.create_index(
        "uq_rollout_surface_active",
        "rollout",
        ["surface"],
        unique=True,
        sqlite_where=ACTIVE_BEFORE,
        postgresql_where=ACTIVE_BEFORE,
    )
    op.drop_table("version_history")
    op.drop_column("history", "evidence_digest")
    op.drop_column("outbox", "ordering_key")
    op.drop_column("verdict_inputs", "pruned_at")
    op.drop_table("retention_pass")
    op.drop_table("webhook_delivery")
    op.drop_table("webhook_subscriber")
    op.drop_table("idempotency")
    op.drop_table("freeze_window")


def _begin_version_histories(connection: sa.Connection) -> None:
    """Versions of before have a history from here on: what their rows tell now, as its first entry."""
    versions = sa.table(
        "model_version",
        *(sa.column(name) for name in ("version_id", "manifest", "artifact_uri", "registered_by")),
        sa.column("registered_at", sa.DateTime(timezone=True)),
    )
    for row in connection.execute(sa.select(versions).order_by(versions.c.version_id)).all():
        at = row.registered_at if row.registered_at.tzinfo else row.registered_at.replace(tzinfo=UTC)
        told = {
            "version_id": row.version_id,
            "seq": 0,
            "at": at.astimezone(UTC).isoformat(timespec="microseconds"),
            "by": row.registered_by,
            "command": "found",
            "artifact_uri": row.artifact_uri,
            "manifest_digest": _digest_of(row.manifest),
            "code_version": "",
        }
        hashed = _digest_of(GENESIS + "\n" + json.dumps(told, sort_keys=True, separators=(",", ":")))
        entry = {**told, "at": at, "previous_hash": GENESIS, "hash": hashed}
        connection.execute(sa.insert(_version_history()).values(**entry))


def _version_history() -> sa.TableClause:
    names = (
        "version_id",
        "seq",
        "by",
        "command",
        "artifact_uri",
        "manifest_digest",
        "code_version",
        "previous_hash",
        "hash",
    )
    return sa.table("version_history", *map(sa.column, names), sa.column("at", sa.DateTime(timezone=True)))


def _digest_of(content: str) -> str:
    return f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"
