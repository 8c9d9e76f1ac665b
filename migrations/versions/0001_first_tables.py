"""The registry's first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "lease",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_tick_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_lease"),
    )
    op.create_table(
        "outbox",
        sa.Column("outbox_id", sa.Integer(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("outbox_id", name="pk_outbox"),
    )
    op.create_index("ix_outbox_delivered_at_outbox_id", "outbox", ["delivered_at", "outbox_id"], unique=False)
    op.create_table(
        "quarantine",
        sa.Column("quarantine_id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("released_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("released_by", sa.Text(), nullable=True),
        sa.Column("release_reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("quarantine_id", name="pk_quarantine"),
    )
    op.create_index(
        "uq_quarantine_digest_active",
        "quarantine",
        ["digest"],
        unique=True,
        sqlite_where=sa.text("released_at IS NULL"),
        postgresql_where=sa.text("released_at IS NULL"),
    )
    op.create_table(
        "release",
        sa.Column("release_id", sa.Integer(), nullable=False),
        sa.Column("edges", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("release_id", name="pk_release"),
    )
    op.create_table(
        "runtime",
        sa.Column("runtime_id", sa.Text(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("generations", sa.JSON(), nullable=False),
        sa.Column("loaded", sa.JSON(), nullable=False),
        sa.Column("shadow_dropped", sa.BigInteger(), nullable=False),
        sa.Column("splits_mode", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("runtime_id", name="pk_runtime"),
    )
    op.create_index("ix_runtime_seen_at", "runtime", ["seen_at"], unique=False)
    op.create_table(
        "surface",
        sa.Column("surface", sa.String(length=64), nullable=False),
        sa.Column("view_types", sa.JSON(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("stable", sa.String(length=16), nullable=True),
        sa.Column("candidate", sa.String(length=16), nullable=True),
        sa.Column("candidate_bp", sa.Integer(), nullable=False),
        sa.Column("shadow", sa.String(length=16), nullable=True),
        sa.Column("shadow_sample_bp", sa.Integer(), nullable=False),
        sa.Column("last_proven", sa.String(length=16), nullable=True),
        sa.Column("rollout_id", sa.Integer(), nullable=True),
        sa.Column("salt", sa.Text(), nullable=False),
        sa.Column("unwatched_seconds", sa.Double(), nullable=True),
        sa.Column("lease_renewed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("candidate_bp = 0 OR candidate IS NOT NULL", name="ck_surface_candidate"),
        sa.CheckConstraint("candidate_bp BETWEEN 0 AND 10000", name="ck_surface_candidate_bp"),
        sa.CheckConstraint("generation >= 0", name="ck_surface_generation"),
        sa.CheckConstraint("shadow_sample_bp BETWEEN 0 AND 10000", name="ck_surface_shadow_sample_bp"),
        sa.PrimaryKeyConstraint("surface", name="pk_surface"),
    )
    op.create_table(
        "verdict_inputs",
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_verdict_inputs"),
    )
    op.create_table(
        "history",
        sa.Column("surface", sa.String(length=64), nullable=False),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("command", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("before", sa.Text(), nullable=False),
        sa.Column("after", sa.Text(), nullable=False),
        sa.Column("rollout_id", sa.Integer(), nullable=True),
        sa.Column("verdict_id", sa.Integer(), nullable=True),
        sa.Column("code_version", sa.Text(), nullable=False),
        sa.Column("previous_hash", sa.String(length=71), nullable=False),
        sa.Column("hash", sa.String(length=71), nullable=False),
        sa.ForeignKeyConstraint(["surface"], ["surface.surface"], name="fk_history_surface"),
        sa.PrimaryKeyConstraint("surface", "seq", name="pk_history"),
    )
    op.create_index("ix_history_at", "history", ["at"], unique=False)
    op.create_table(
        "model_version",
        sa.Column("version_id", sa.String(length=16), nullable=False),
        sa.Column("surface", sa.String(length=64), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("trunk", sa.String(length=71), nullable=False),
        sa.Column("surface_export", sa.String(length=71), nullable=False),
        sa.Column("calibrator", sa.String(length=71), nullable=False),
        sa.Column("feature_signature", sa.String(length=71), nullable=False),
        sa.Column("manifest", sa.Text(), nullable=False),
        sa.Column("artifact_uri", sa.Text(), nullable=False),
        sa.Column("registered_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("registered_by", sa.Text(), nullable=False),
        sa.Column("aborted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("aborted_because", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["surface"], ["surface.surface"], name="fk_model_version_surface"),
        sa.PrimaryKeyConstraint("version_id", name="pk_model_version"),
    )
    op.create_index("ix_model_version_calibrator", "model_version", ["calibrator"], unique=False)
    op.create_index("ix_model_version_feature_signature", "model_version", ["feature_signature"], unique=False)
    op.create_index("ix_model_version_surface_export", "model_version", ["surface_export"], unique=False)
    op.create_index("ix_model_version_surface_model_name", "model_version", ["surface", "model_name"], unique=False)
    op.create_index("ix_model_version_trunk", "model_version", ["trunk"], unique=False)
    op.create_table(
        "runtime_counts",
        sa.Column("runtime_id", sa.Text(), nullable=False),
        sa.Column("version_id", sa.String(length=16), nullable=False),
        sa.Column("told", sa.JSON(), nullable=False),
        sa.Column("totals", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["runtime_id"], ["runtime.runtime_id"], name="fk_runtime_counts_runtime_id"),
        sa.PrimaryKeyConstraint("runtime_id", "version_id", name="pk_runtime_counts"),
    )
    op.create_index("ix_runtime_counts_version_id", "runtime_counts", ["version_id"], unique=False)
    op.create_table(
        "split",
        sa.Column("surface", sa.String(length=64), nullable=False),
        sa.Column("generation", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stable", sa.String(length=16), nullable=False),
        sa.Column("candidate", sa.String(length=16), nullable=True),
        sa.Column("candidate_bp", sa.Integer(), nullable=False),
        sa.Column("shadow", sa.String(length=16), nullable=True),
        sa.Column("shadow_sample_bp", sa.Integer(), nullable=False),
        sa.Column("salt", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["surface"], ["surface.surface"], name="fk_split_surface"),
        sa.PrimaryKeyConstraint("surface", "generation", name="pk_split"),
    )
    op.create_table(
        "rollout",
        sa.Column("rollout_id", sa.Integer(), nullable=False),
        sa.Column("surface", sa.String(length=64), nullable=False),
        sa.Column("stable", sa.String(length=16), nullable=False),
        sa.Column("candidate", sa.String(length=16), nullable=False),
        sa.Column("plan", sa.JSON(), nullable=False),
        sa.Column("phase", sa.String(length=64), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("paused_phase", sa.String(length=64), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("entered_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("first_generation", sa.Integer(), nullable=False),
        sa.Column("stage_generation", sa.Integer(), nullable=False),
        sa.Column("approvals", sa.JSON(), nullable=False),
        sa.Column("release_id", sa.Integer(), nullable=True),
        sa.Column("next_check_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("counts_at_start", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["candidate"], ["model_version.version_id"], name="fk_rollout_candidate"),
        sa.ForeignKeyConstraint(["release_id"], ["release.release_id"], name="fk_rollout_release_id"),
        sa.ForeignKeyConstraint(["stable"], ["model_version.version_id"], name="fk_rollout_stable"),
        sa.ForeignKeyConstraint(["surface"], ["surface.surface"], name="fk_rollout_surface"),
        sa.PrimaryKeyConstraint("rollout_id", name="pk_rollout"),
    )
    op.create_index("ix_rollout_release_id", "rollout", ["release_id"], unique=False)
    op.create_index("ix_rollout_surface", "rollout", ["surface"], unique=False)
    op.create_index(
        "uq_rollout_surface_active",
        "rollout",
        ["surface"],
        unique=True,
        sqlite_where=sa.text("phase NOT IN ('done', 'rolled_back')"),
        postgresql_where=sa.text("phase NOT IN ('done', 'rolled_back')"),
    )
    op.create_table(
        "verdict",
        sa.Column("verdict_id", sa.Integer(), nullable=False),
        sa.Column("rollout_id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("outcome", sa.String(length=64), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("inputs_digest", sa.String(length=71), nullable=False),
        sa.Column("code_version", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["inputs_digest"], ["verdict_inputs.digest"], name="fk_verdict_inputs_digest"),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollout.rollout_id"], name="fk_verdict_rollout_id"),
        sa.PrimaryKeyConstraint("verdict_id", name="pk_verdict"),
    )
    op.create_index("ix_verdict_rollout_id_verdict_id", "verdict", ["rollout_id", "verdict_id"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_verdict_rollout_id_verdict_id", table_name="verdict")
    op.drop_table("verdict")
    op.drop_table("rollout")
    op.drop_table("split")
    op.drop_table("runtime_counts")
    op.drop_table("model_version")
    op.drop_table("history")
    op.drop_table("verdict_inputs")
    op.drop_table("surface")
    op.drop_table("runtime")
    op.drop_table("release")
    op.drop_table("quarantine")
    op.drop_table("outbox")
    op.drop_table("lease")
