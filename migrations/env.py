"""Alembic's way in. The connection comes from `control_plane.registry.session`; there is no alembic.ini."""

from alembic import context

from control_plane.registry.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
