"""Which versions are in memory: loaded in the background, trunks shared by digest, the previous ones kept.

A version that cannot be loaded is told and tried again later; it never touches what is loaded already.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from torch import nn

from control_plane.domain.errors import InvalidField
from control_plane.domain.model_version import Digest, Part, VersionId
from model_runtime.checkpoints import LoadedVersion, load_version

KEPT_PREVIOUS = 2  # versions a surface keeps beyond those named: the last stable and the last candidate
RETRY_SECONDS = 15.0  # a full disk or a share that hung may be well again

log = logging.getLogger(__name__)


class Residency:
    """Readers never wait for a load: `get` looks into a dict."""

    def __init__(self, *, device: str = "cpu", on_settled: Callable[[], None] = lambda: None) -> None:
        self._device = device
        self.on_settled = on_settled  # called by the loading thread after each load or failure
        self._versions: dict[VersionId, LoadedVersion] = {}
        self._named_at: dict[VersionId, float] = {}
        self._trunks: dict[Digest, nn.Module] = {}
        self._failures: dict[VersionId, str] = {}
        self._tried_at: dict[VersionId, float] = {}
        self._wanted: dict[VersionId, str] = {}
        self._changed = threading.Condition()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._load_wanted, name="residency", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def want(self, artifact_uris: Mapping[VersionId, str]) -> None:
        """Name the versions that shall be in memory; what is missing loads in the background."""
        with self._changed:
            for version_id in self._failures.keys() & artifact_uris.keys():
                if self._wanted.get(version_id) != artifact_uris[version_id]:
                    del self._failures[version_id]  # it lies elsewhere now: no reason to wait for the next try
            self._wanted = dict(artifact_uris)
            self._named_at |= dict.fromkeys(artifact_uris, time.monotonic())
            self._changed.notify()

    def get(self, version_id: VersionId) -> LoadedVersion | None:
        return self._versions.get(version_id)

    def is_settled(self, version_id: VersionId) -> bool:
        """Loaded, or known not to load."""
        return version_id in self._versions or version_id in self._failures

    def loaded(self) -> tuple[VersionId, ...]:
        with self._changed:
            return tuple(sorted(self._versions))

    def trunks(self) -> tuple[nn.Module, ...]:
        """Each trunk once, however many versions share it."""
        with self._changed:
            return tuple(self._trunks.values())

    def failures(self) -> dict[VersionId, str]:
        """Wanted versions that do not load, with the reason."""
        with self._changed:
            return dict(self._failures)

    def _load_wanted(self) -> None:
        while (found := self._next()) is not None:
            version_id, artifact_uri = found
            self._load(version_id, artifact_uri)
            self.on_settled()

    def _next(self) -> tuple[VersionId, str] | None:
        """Wait for a version to load; None when stopping."""
        with self._changed:
            while not self._is_stopping:
                now = time.monotonic()
                missing = {v: uri for v, uri in self._wanted.items() if v not in self._versions}
                self._failures = {v: why for v, why in self._failures.items() if v in missing}
                waits = {v: self._tried_at[v] + RETRY_SECONDS - now if v in self._failures else 0.0 for v in missing}
                for version_id, wait in waits.items():
                    if wait <= 0:
                        return version_id, missing[version_id]
                self._changed.wait(min(waits.values(), default=None))
        return None

    def _load(self, version_id: VersionId, artifact_uri: str) -> None:
        problem = ""
        loaded = None
        try:
            if not artifact_uri:
                raise InvalidField(f"versions.{version_id}", "is missing: the control plane names no artifact")
            loaded = load_version(folder_of(artifact_uri), device=self._device, trunks=self._trunks)
            if loaded.version_id != version_id:
                problem = f"{artifact_uri} holds version {loaded.version_id}"
        except Exception as error:  # whatever a bad artifact raises, what serves goes on
            problem = str(error) or type(error).__name__
        with self._changed:
            self._tried_at[version_id] = time.monotonic()
            if problem or loaded is None:
                log.error("version %s does not load: %s", version_id, problem)
                self._failures[version_id] = problem
                return
            self._failures.pop(version_id, None)
            self._versions[version_id] = loaded
            self._forget_old()

    def _forget_old(self) -> None:
        """Drop what nobody named for longest, and the trunks that no version uses any more."""
        kept: Counter[str] = Counter()
        for version_id in sorted(self._versions, key=lambda v: self._named_at.get(v, 0.0), reverse=True):
            if version_id in self._wanted:
                continue
            surface = self._versions[version_id].manifest.version.surface
            kept[surface] += 1
            if kept[surface] > KEPT_PREVIOUS:
                del self._versions[version_id]
        in_use = {version.manifest.version.digest_of_part(Part.TRUNK) for version in self._versions.values()}
        for digest in [digest for digest in self._trunks if digest not in in_use]:
            del self._trunks[digest]


def folder_of(artifact_uri: str) -> Path:
    """A folder path or a file:// URL of one."""
    parts = urlsplit(artifact_uri)
    return Path(unquote(parts.path)) if parts.scheme == "file" else Path(artifact_uri)
