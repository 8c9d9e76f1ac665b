"""A registry and an event log in which many rollouts ramp at once: one surface made by the registry's own commands,
and as many like it as are asked for."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import insert, select, text, update
from sqlalchemy.orm import Session

from benchmarks.tick_run.traffic import Traffic
from control_plane.domain.manifest import Manifest
from control_plane.domain.model_version import ModelVersion, Surface, VersionId, ViewType, digest_of
from control_plane.domain.moments import ServingCounts
from control_plane.domain.plan_mapping import plan_from_mapping
from control_plane.domain.rollout import Command, Phase
from control_plane.evidence.event_log import EventLog
from control_plane.registry import arrivals, model_versions, rollouts, runtimes, stables, surfaces
from control_plane.registry.session import Sessions
from control_plane.registry.surfaces import SurfaceState
from control_plane.registry.tables import ModelVersionRow, RolloutRow, SplitRow, SurfaceRow

VIEW_TYPES = (ViewType("grid"), ViewType("closeup"))
BY, WHY = "benchmark", "a measurement"
TEMPLATE = Surface("surface_0000")
SHARE_BP = 5_000
USERS = 50  # that see each surface, one impression each
SURFACES_A_RUNTIME = 150


def make_fleet(sessions: Sessions, log: EventLog, *, count: int, check_seconds: float) -> Traffic:
    """`count` surfaces with a rollout each at its first step, served by runtimes, with traffic of the last hour.

    Their next checks are spread evenly over the first `check_seconds` from now.
    """
    now = datetime.now(UTC)
    started = now - timedelta(hours=1)
    names = [Surface(f"surface_{number:04d}") for number in range(count)]
    with sessions.writing() as session:
        _make_template(session, started, check_seconds)
    with sessions.reading() as session:
        template = _rows_of_template(session)
    copies = _copies(template, names[1:], now=now)  # no transaction is open meanwhile: it would be ended for idling
    with sessions.writing() as session:
        _insert(session, copies)
    states = _states(sessions, names)
    assert {state.candidate_bp for state in states} == {SHARE_BP}
    beat(sessions, names)
    traffic = Traffic(states, VIEW_TYPES)
    traffic.serve(log, count * USERS, started, now)
    spread_checks(sessions, count, seconds=check_seconds)
    return traffic


def beat(sessions: Sessions, names: Sequence[Surface]) -> None:
    """Every runtime serves what is ordered."""
    now = datetime.now(UTC)
    with sessions.writing() as session:
        states = {state.surface: state for state in surfaces.list_surfaces(session)}
        for first in range(0, len(names), SURFACES_A_RUNTIME):
            own = [states[name] for name in names[first : first + SURFACES_A_RUNTIME]]
            loaded = tuple(version for state in own for version in (state.stable, state.candidate) if version)
            counts = ServingCounts(requests=1_000, scores=1_000, distinct_scores=500)
            heartbeat = runtimes.Heartbeat(
                runtime_id=f"runtime {first}",
                generations={state.surface: state.generation for state in own},
                loaded=loaded,
                counts=dict.fromkeys(loaded, counts),
                shadow_dropped=0,
                splits_mode="stream",
            )
            runtimes.record_heartbeat(session, heartbeat, now=now, seen_at=now)


def _make_template(session: Session, now: datetime, check_seconds: float) -> None:
    plan = plan_from_mapping(
        {
            "name": "one of many",
            "steps": [{"share": f"{SHARE_BP / 100:g}%", "bake": "6h"}, {"share": "100%", "bake": "6h"}],
            "guardrails": [{"metric": "ctr"}],
            "check_every": f"{check_seconds:g}s",
            "unwatched": "12h",
        }
    )
    stables.create_surface(session, TEMPLATE, VIEW_TYPES, by=BY, now=now)
    stable, candidate = (_register(session, _manifest(TEMPLATE, name), now) for name in ("stable", "candidate"))
    stables.adopt(session, TEMPLATE, stable, seen_generation=None, by=BY, reason=WHY, now=now)
    rollout = arrivals.create(session, TEMPLATE, candidate, plan, by=BY, now=now)
    commands = [Command.START, Command.SKIP, Command.SKIP]
    for command in commands:
        rollout = rollouts.apply_command(session, rollout.rollout_id, command, by=BY, now=now, reason=WHY)
    assert rollout.phase is Phase.RAMPING


def _rows_of_template(session: Session) -> dict[Any, list[dict[str, Any]]]:
    return {
        table: _mapping(session, table, table.__table__.c.surface == TEMPLATE)
        for table in (SurfaceRow, ModelVersionRow, SplitRow, RolloutRow)
    }


def _copies(
    template: Mapping[Any, list[dict[str, Any]]], names: Sequence[Surface], *, now: datetime
) -> dict[Any, list[dict[str, Any]]]:
    """Rows like the template's, under other names and versions; histories of their own begin at the next change."""
    surface, version, split, rollout = template.values()
    versions, rows = [], []
    for number, name in enumerate(names, start=2):
        manifests = {role: _manifest(name, role) for role in ("stable", "candidate")}
        ids = {role: manifest.version.version_id for role, manifest in manifests.items()}
        versions += [{**version[0], **_version_columns(manifest)} for manifest in manifests.values()]
        own = {"surface": name, **ids}
        rows.append(
            (
                {**surface[0], **own, "rollout_id": number},
                [
                    {
                        **one,
                        "surface": name,
                        "stable": ids["stable"],
                        "candidate": one["candidate"] and ids["candidate"],
                        "shadow": one["shadow"] and ids["candidate"],
                    }
                    for one in split
                ],
                {
                    **rollout[0],
                    **own,
                    "rollout_id": number,
                    "counts_at_start": {},
                    "acknowledged_at": now,
                    "next_check_at": None,
                },
            )
        )
    return {
        SurfaceRow: [row[0] for row in rows],
        ModelVersionRow: versions,
        SplitRow: [one for row in rows for one in row[1]],
        RolloutRow: [row[2] for row in rows],
    }


def _insert(session: Session, copies: Mapping[Any, list[dict[str, Any]]]) -> None:
    connection = session.connection()  # many rows a statement, where the mapper would send one after another
    for table, rows in copies.items():
        connection.execute(insert(table), rows)
    session.execute(
        text("SELECT setval(pg_get_serial_sequence('rollout', 'rollout_id'), :top)"),
        {"top": len(copies[RolloutRow]) + 1},
    )


def spread_checks(sessions: Sessions, count: int, *, seconds: float) -> None:
    """Let the first `count` rollouts fall due one after another over so long from now."""
    now = datetime.now(UTC)
    due = [
        {"rollout_id": number + 1, "next_check_at": now + timedelta(seconds=seconds * number / count)}
        for number in range(count)
    ]
    with sessions.writing() as session:
        session.execute(update(RolloutRow), due)


def _states(sessions: Sessions, names: Sequence[Surface]) -> list[SurfaceState]:
    with sessions.reading() as session:
        states = {state.surface: state for state in surfaces.list_surfaces(session)}
    return [states[name] for name in names]


def _mapping(session: Session, table: Any, condition: Any) -> list[dict[str, Any]]:
    columns = [column.key for column in table.__table__.columns]
    found = session.scalars(select(table).where(condition))
    return [{name: getattr(row, name) for name in columns} for row in found]


def _version_columns(manifest: Manifest) -> dict[str, Any]:
    version = manifest.version
    return {
        "surface": version.surface,
        "version_id": version.version_id,
        "trunk": version.trunk,
        "surface_export": version.surface_export,
        "calibrator": version.calibrator,
        "feature_signature": version.feature_signature,
        "manifest": manifest.to_json(),
    }


def _manifest(surface: Surface, name: str) -> Manifest:
    def digest(part: str) -> Any:
        return digest_of(f"{surface}/{name}/{part}".encode())

    version = ModelVersion(
        surface=surface,
        trunk=digest("trunk"),
        surface_export=digest("export"),
        calibrator=digest("calibrator"),
        feature_signature=digest_of(b"signature"),
    )
    return Manifest(
        version=version,
        model_name="unified",
        view_types=VIEW_TYPES,
        golden=digest_of(b"golden"),
        golden_tolerance=1e-5,
        training_run=name,
        config={},
    )


def _register(session: Session, manifest: Manifest, now: datetime) -> VersionId:
    uri = f"/artifacts/{manifest.training_run}"
    return model_versions.register(session, manifest, artifact_uri=uri, by=BY, now=now).version_id
