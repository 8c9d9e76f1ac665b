"""Versions that people loaded into this runtime, beside those that the splits name."""

from collections.abc import Callable
from pathlib import Path

from control_plane.domain.model_version import Surface, VersionId
from model_runtime.repository import Export, LoadFailed, NotUnloaded, Wish, choose, exports
from model_runtime.residency import Residency

LOAD_SECONDS = 300.0  # that a load may take: clients wait for it


class ByHand:
    """Loads from one folder of exports, None of which is none; `on_change` is told after each change."""

    def __init__(self, residency: Residency, repository: Path | None, *, on_change: Callable[[], None]) -> None:
        self._residency = residency
        self._repository = repository
        self._on_change = on_change
        self._shadow_bp: dict[VersionId, int] = {}

    def load(self, surface: Surface, wish: Wish) -> None:
        """Load versions of the repository, and wait for them.

        Raises:
            UnknownName: the repository has no such surface or version.
            LoadFailed: at least one does not load; those that do stay.
        """
        chosen = choose(self._exports(), surface, wish)
        uris = {version_id: str(export.folder) for version_id, export in chosen.items()}
        reasons = self._residency.pin(uris, timeout_seconds=LOAD_SECONDS)
        for version_id in chosen.keys() - reasons.keys():
            self.shadow(version_id, wish.shadow_sample_bp)
        self._on_change()
        if reasons:
            raise LoadFailed(reasons)

    def unload(self, surface: Surface, wish: Wish) -> None:
        """Let go of versions that were loaded, all of the surface's where none is named.

        Raises:
            NotUnloaded: a named version was not loaded by hand.
        """
        pinned, surface_of = self._residency.pinned(), dict(self._residency.versions())
        for version_id in wish.versions:
            if version_id not in pinned:
                raise NotUnloaded(version_id)
        gone = wish.versions or [version_id for version_id in pinned if surface_of.get(version_id) == surface]
        for version_id in gone:
            self.shadow(version_id, 0)
        self._residency.unpin(gone)
        self._on_change()

    def shadow(self, version_id: VersionId, sample_bp: int) -> None:
        """Let a version shadow a share of users from now on; 0 is none."""
        others = {known: bp for known, bp in self._shadow_bp.items() if known != version_id}
        self._shadow_bp = {**others, version_id: sample_bp} if sample_bp else others

    def shadows_of(self, surface: Surface) -> dict[VersionId, int]:
        """What share of a surface's users each of these versions shadows."""
        if not self._shadow_bp:
            return {}
        surface_of = dict(self._residency.versions())
        return {version_id: bp for version_id, bp in self._shadow_bp.items() if surface_of.get(version_id) == surface}

    def index(self) -> list[dict[str, str]]:
        """Every version in memory, those that do not load with the reason, and what the repository has besides."""
        ready = [{"name": surface, "version": v, "state": "READY"} for v, surface in self._residency.versions()]
        failed = [
            {"name": "", "version": version_id, "state": "UNAVAILABLE", "reason": reason}
            for version_id, reason in self._residency.failures().items()
        ]
        known = {each["version"] for each in (*ready, *failed)}
        unloaded = [
            {"name": export.surface, "version": version_id, "state": "UNAVAILABLE", "reason": "unloaded"}
            for version_id, export in self._exports().items()
            if version_id not in known
        ]
        return ready + failed + unloaded

    def _exports(self) -> dict[VersionId, Export]:
        return {} if self._repository is None else exports(self._repository)
