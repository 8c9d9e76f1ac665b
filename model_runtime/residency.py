"""Which versions are in memory: loaded in the background, what they hold alike held once, the previous ones kept.

A version that cannot be loaded is told and tried again later; it never touches what is loaded already. One for which
there is no memory is not begun with; those that nobody names any more make room first.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from torch import nn

from control_plane.domain.errors import InvalidField
from control_plane.domain.manifest import FILE_OF
from control_plane.domain.model_version import Digest, Surface, VersionId
from model_runtime.checkpoints import read_manifest
from model_runtime.memory import DoesNotFit, check_fits
from model_runtime.profiles import serve_as
from model_runtime.settings import AS_EXPORTED
from model_runtime.sharing import share_tensors
from model_runtime.versions import Version, load_version

KEPT_PREVIOUS = 2  # versions a surface keeps beyond those named: the last stable and the last candidate
RETRY_SECONDS = 15.0  # a full disk or a share that hung may be well again

log = logging.getLogger(__name__)


class Residency:
    """Readers never wait for a load: `get` looks into a dict."""

    def __init__(
        self,
        *,
        device: str = "cpu",
        precision: str = AS_EXPORTED,
        budget_bytes: int = 0,
        on_settled: Callable[[], None] = lambda: None,
    ) -> None:
        self._device = device
        self._precision = precision
        self._budget_bytes = budget_bytes  # of all weights together; 0 is what the machine has
        self.on_settled = on_settled  # called by the loading thread after each load or failure
        self._versions: dict[VersionId, Version] = {}
        self._named_at: dict[VersionId, float] = {}
        self._trunks: dict[Digest, nn.Module] = {}  # as their files have them
        self._failures: dict[VersionId, str] = {}
        self._tried_at: dict[VersionId, float] = {}
        self._named: dict[VersionId, str] = {}  # by splits
        self._pinned: dict[VersionId, str] = {}  # by hand
        self._changed = threading.Condition()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._load_wanted, name="residency", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def want(self, artifact_uris: Mapping[VersionId, str]) -> None:
        """Name the versions that shall be in memory; what is missing loads in the background."""
        with self._changed:
            for version_id in self._failures.keys() & artifact_uris.keys():
                if self._named.get(version_id) != artifact_uris[version_id]:
                    del self._failures[version_id]  # it lies elsewhere now: no reason to wait for the next try
            self._named = dict(artifact_uris)
            self._named_at |= dict.fromkeys(artifact_uris, time.monotonic())
            if artifact_uris.keys() - self._versions.keys():  # else who is woken would hold up the next split alone
                self._changed.notify_all()

    def pin(self, artifact_uris: Mapping[VersionId, str], *, timeout_seconds: float) -> dict[VersionId, str]:
        """Load versions by hand and wait; the reasons of those that do not load, which are pinned no longer."""
        with self._changed:
            for version_id in artifact_uris:
                self._failures.pop(version_id, None)
            self._pinned |= artifact_uris
            self._named_at |= dict.fromkeys(artifact_uris, time.monotonic())
            self._changed.notify_all()
            self._changed.wait_for(lambda: all(map(self.is_settled, artifact_uris)), timeout_seconds)
            missing = [version_id for version_id in artifact_uris if version_id not in self._versions]
            reasons = {version_id: self._failures.get(version_id, "is still loading") for version_id in missing}
            self._unpin(missing)
            return reasons

    def unpin(self, version_ids: Iterable[VersionId]) -> None:
        """Let go of what was loaded by hand; what a split names as well stays."""
        with self._changed:
            self._unpin(version_ids)

    def pinned(self) -> frozenset[VersionId]:
        with self._changed:
            return frozenset(self._pinned)

    def _unpin(self, version_ids: Iterable[VersionId]) -> None:
        for version_id in version_ids:
            self._pinned.pop(version_id, None)
            if version_id not in self._named:
                self._versions.pop(version_id, None)
        self._forget_old()

    def get(self, version_id: VersionId) -> Version | None:
        return self._versions.get(version_id)

    def is_settled(self, version_id: VersionId) -> bool:
        """Loaded, or known not to load."""
        return version_id in self._versions or version_id in self._failures

    def loaded(self) -> tuple[VersionId, ...]:
        with self._changed:
            return tuple(sorted(self._versions))

    def versions(self) -> list[tuple[VersionId, Surface]]:
        """What is in memory, with the surface that each is of."""
        with self._changed:
            return [
                (version_id, self._versions[version_id].manifest.version.surface)
                for version_id in sorted(self._versions)
            ]

    def trunks(self) -> tuple[nn.Module, ...]:
        """Each trunk once, however many versions share it."""
        with self._changed:
            return tuple({id(version.trunk): version.trunk for version in self._versions.values()}.values())

    def held_bytes(self) -> int:
        """Of all weights, each tensor once."""
        with self._changed:
            return self._held_bytes()

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
                wanted = {**self._named, **self._pinned}
                missing = {v: uri for v, uri in wanted.items() if v not in self._versions}
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
            folder = folder_of(artifact_uri)
            self._make_room(folder)
            resident = list(self._versions.values())
            prepare = partial(serve_as, precision=self._precision, resident=resident)
            loaded = load_version(folder, device=self._device, trunks=self._trunks, prepare=prepare)
            if loaded.version_id != version_id:
                problem = f"{artifact_uri} holds version {loaded.version_id}"
            share_tensors(loaded, resident)
        except Exception as error:  # whatever a bad artifact raises, what serves goes on
            problem = str(error) or type(error).__name__
        with self._changed:
            self._tried_at[version_id] = time.monotonic()
            if problem or loaded is None:
                log.error("version %s does not load: %s", version_id, problem)
                self._failures[version_id] = problem
            else:
                self._failures.pop(version_id, None)
                self._versions[version_id] = loaded
            self._forget_old()
            self._changed.notify_all()

    def _make_room(self, folder: Path) -> None:
        """Forget what nobody names, the oldest first, until the version fits; `DoesNotFit` where that is not enough."""
        bytes_of = _bytes_by_digest(folder)  # before the lock is taken: a split waits for no disk
        while True:
            with self._changed:
                new, held = self._new_bytes(bytes_of), self._held_bytes()
            try:
                check_fits(new, held, budget_bytes=self._budget_bytes, device=self._device)
            except DoesNotFit:
                with self._changed:
                    unnamed = self._unnamed()
                    if not unnamed:
                        raise
                    del self._versions[unnamed[-1]]
                    self._forget_trunks()
            else:
                return

    def _new_bytes(self, bytes_of: Mapping[Digest, int]) -> int:
        """Of the files that hold what is not in memory yet."""
        held = {v.manifest.version.digest_of_part(part) for v in self._versions.values() for part in FILE_OF}
        return sum(size for digest, size in bytes_of.items() if digest not in held)

    def _held_bytes(self) -> int:
        modules = [m for v in self._versions.values() for m in v.modules]
        tensors = {t.data_ptr(): t.nbytes for m in modules for t in m.state_dict().values()}
        return sum(tensors.values())

    def _unnamed(self) -> list[VersionId]:
        """What nobody wants, the latest named first."""
        wanted = self._named.keys() | self._pinned.keys()
        unnamed = [version_id for version_id in self._versions if version_id not in wanted]
        return sorted(unnamed, key=lambda v: self._named_at.get(v, 0.0), reverse=True)

    def _forget_old(self) -> None:
        """Drop what nobody named for longest, and the trunks that no version uses any more."""
        kept: Counter[str] = Counter()
        for version_id in self._unnamed():
            surface = self._versions[version_id].manifest.version.surface
            kept[surface] += 1
            if kept[surface] > KEPT_PREVIOUS:
                del self._versions[version_id]
        self._forget_trunks()

    def _forget_trunks(self) -> None:
        in_use = {id(version.trunk) for version in self._versions.values()}
        for digest in [digest for digest, trunk in self._trunks.items() if id(trunk) not in in_use]:
            del self._trunks[digest]


def _bytes_by_digest(folder: Path) -> dict[Digest, int]:
    """Of an export's files."""
    version = read_manifest(folder).version
    return {version.digest_of_part(part): (folder / name).stat().st_size for part, name in FILE_OF.items()}


def folder_of(artifact_uri: str) -> Path:
    """A folder path or a file:// URL of one."""
    parts = urlsplit(artifact_uri)
    return Path(unquote(parts.path)) if parts.scheme == "file" else Path(artifact_uri)
