"""A registry with its schema up to date, and beside it the tables of who wrote what."""

from benchmarks.crash_run.wrote import METADATA
from control_plane.registry.session import Sessions, make_engine, upgrade


def opened(url: str) -> Sessions:
    """Not for two threads at once: the tool that migrates is not made for that."""
    engine = make_engine(url)
    upgrade(engine)
    METADATA.create_all(engine)
    return Sessions(engine)


def url_of(sessions: Sessions) -> str:
    return sessions.engine.url.render_as_string(hide_password=False)
