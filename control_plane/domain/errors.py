"""What can go wrong, named for the condition; each error writes its own message from its data."""

from collections.abc import Sequence

LISTED = {  # by the kind of what was named: where to see what there is
    "surface": "`surefoot surface list` shows what there is",
    "rollout": "`surefoot rollout status --all` shows what there is",
    "release": "`surefoot release status` shows the latest",
    "version": "`surefoot version list` shows what is registered",
    "verdict": "the page of its rollout lists them",
    "freeze": "`surefoot freeze list --all` shows what there is",
    "quarantined digest": "`surefoot quarantine list` shows what is",
    "webhook subscriber": "SUREFOOT_WEBHOOKS names them, `surefoot webhooks list` shows them",
    "dead event": "`surefoot webhooks dead` shows what was given up",
}


class ControlPlaneError(Exception):
    """Base of every error that is the caller's to read, not a bug of ours."""


class InvalidField(ControlPlaneError):
    """A value breaks a rule: `field` says where (a dotted path), `rule` what was expected."""

    def __init__(self, field: str, rule: str, *, line: int | None = None) -> None:
        self.field = field
        self.rule = rule
        self.line = line
        where = field if line is None else f"line {line}: {field}"
        super().__init__(f"{where}: {rule}")


class InvalidPlan(InvalidField):
    """A plan that cannot be armed."""


class InvalidSplit(InvalidField):
    """Weights, salt or lease that no runtime may serve."""


class InvalidManifest(InvalidField):
    """A model version's manifest that names no loadable model."""


class InvalidMoments(InvalidField):
    """Sums that no event log can have produced."""


class DigestMismatch(ControlPlaneError):
    """A file's bytes are not the bytes its manifest promises."""

    def __init__(self, path: str, *, expected: str, found: str) -> None:
        self.path = path
        self.expected = expected
        self.found = found
        super().__init__(f"{path}: its digest is {found}, the manifest says {expected}")


class CalibratorMismatch(ControlPlaneError):
    """A calibrator was fitted on the scores of other weights than it comes with."""

    def __init__(self, version: str, part: str, *, fitted_on: str, found: str) -> None:
        self.version = version
        self.part = part
        self.fitted_on = fitted_on
        self.found = found
        hint = "fit it anew on these weights"
        super().__init__(f"{version}: its calibrator was fitted on {part} {fitted_on}, it comes with {found}; {hint}")


class UnsafeArtifact(ControlPlaneError):
    """A file that is not plain tensors: truncated, pickled, or something else altogether."""

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"{path}: {problem}")


class GoldenMismatch(ControlPlaneError):
    """A loaded model does not give the scores its manifest recorded."""

    def __init__(self, version: str, *, worst: float, tolerance: float) -> None:
        self.version = version
        self.worst = worst
        self.tolerance = tolerance
        super().__init__(
            f"{version}: golden scores differ by {worst:.2e}, more than the tolerance {tolerance:.0e}; not loaded"
        )


class UnknownName(ControlPlaneError):
    """Something was named that does not exist here."""

    def __init__(self, kind: str, name: str, *, known: Sequence[str] = ()) -> None:
        self.kind = kind
        self.name = name
        self.known = tuple(known)
        hint = f"known: {', '.join(known)}" if known else LISTED.get(kind.partition(" of ")[0], "")
        super().__init__("; ".join(filter(None, [f"no {kind} {name!r}", hint])))


class AlreadyExists(ControlPlaneError):
    """The name is taken by something different."""

    def __init__(self, kind: str, name: str, *, differs: str = "content") -> None:
        self.kind = kind
        self.name = name
        super().__init__(f"{kind} {name!r} exists already, with other {differs}")


class SurfaceBusy(ControlPlaneError):
    """A surface carries one rollout at a time."""

    def __init__(self, surface: str, rollout_id: int) -> None:
        self.surface = surface
        self.rollout_id = rollout_id
        ways = (
            f"end it first, as by `surefoot rollout abort {rollout_id}`; or let a new rollout queue behind it or "
            "replace it (`surefoot rollout start --on-busy`)"
        )
        super().__init__(f"{surface} is busy with rollout {rollout_id}; {ways}")


class StaleGeneration(ControlPlaneError):
    """Someone moved first."""

    def __init__(self, surface: str, *, seen: int, current: int) -> None:
        self.surface = surface
        self.seen = seen
        self.current = current
        super().__init__(f"{surface} is at generation {current}, the command was meant for {seen}; look again")


class IllegalTransition(ControlPlaneError):
    """The rollout's phase does not take this command; `takes` are those that it does take, `hint` says more."""

    def __init__(self, phase: str, command: str, *, takes: Sequence[str] = (), hint: str = "") -> None:
        self.phase = phase
        self.command = command
        self.takes = tuple(takes)
        over = "it is over, start another" if phase in ("done", "rolled_back") else ""
        taken = f"it takes {', '.join(command.replace('_', ' ') for command in takes)}" if takes else ""
        refusal = f"a rollout that is {phase} does not take {command}"
        super().__init__("; ".join(filter(None, [refusal, over, taken, hint])))


class MissingVerdict(ControlPlaneError):
    """Weight may grow only on a passing verdict of this digest, or by a person's skip with its reason."""

    def __init__(self, rollout_id: int) -> None:
        self.rollout_id = rollout_id
        super().__init__(
            f"rollout {rollout_id} may not grow without a passing verdict of what serves now; "
            "to go on without one, skip this step with a reason"
        )


class Quarantined(ControlPlaneError):
    """The digest may serve nowhere."""

    def __init__(self, digest: str, *, reason: str) -> None:
        self.digest = digest
        self.reason = reason
        super().__init__(f"{digest} is quarantined ({reason}) and may serve nowhere")


class TakenBack(Quarantined):
    """A version that was rolled back or aborted does not return."""

    def __init__(self, version_id: str, *, day: str, reason: str) -> None:
        super().__init__(version_id, reason=reason)
        because = f" ({reason})" if reason else ""
        hint = "such a version does not return, a mended one is registered anew"
        self.args = (f"{version_id} was taken back on {day}{because}; {hint}",)


class NoSafeVersion(ControlPlaneError):
    """There is nothing left that the surface could fall back to."""

    def __init__(self, surface: str) -> None:
        self.surface = surface
        super().__init__(f"{surface} has no version left to fall back to; register and adopt a sound one first")


class Deposed(ControlPlaneError):
    """A scheduler that lost its lease tried to write."""

    def __init__(self, *, epoch: int, current: int) -> None:
        self.epoch = epoch
        self.current = current
        super().__init__(f"this scheduler holds epoch {epoch}, the lease is at {current}; nothing was written")


class LogUnavailable(ControlPlaneError):
    """The event log could not take or give events; nothing was half written."""

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"event log at {path}: {problem}; no event of this batch was kept")


class RegistryUnavailable(ControlPlaneError):
    """The registry's database could not be read or written; what was being written was not kept."""

    def __init__(self, url: str, problem: str) -> None:
        self.url = url
        self.problem = problem
        super().__init__(f"registry at {url}: {problem}; nothing was changed")


class RegistryFull(RegistryUnavailable):
    """The registry's disk takes no more; reading goes on, and what was being written was not kept."""

    def __init__(self, url: str) -> None:
        super().__init__(url, "its disk is full")


class RegistryLocked(RegistryUnavailable):
    """On SQLite: another process has held the only write lock for longer than a change ever takes."""


class TransactionConflict(RegistryUnavailable):
    """Another writer came in between, or the connection was lost before the commit: the same may be asked again."""


class CommitUnknown(RegistryUnavailable):
    """The connection was lost while the database committed: the change was made whole, or not at all."""

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(url, problem)
        self.args = (
            f"registry at {url}: {problem}, while it committed; whether the change was made is not known: "
            "look before you ask again",
        )


class Unauthenticated(ControlPlaneError):
    """No operator's token came with the request."""

    def __init__(self) -> None:
        super().__init__("a bearer token of a known operator is needed")


class Frozen(ControlPlaneError):
    """A freeze stands: nothing grows until it ends, but for people of its bypass group with a reason."""

    def __init__(
        self,
        surface: str,
        *,
        freeze_id: int,
        owner: str,
        declared_by: str,
        reason: str,
        until: str | None,
        bypass_group: str = "",
    ) -> None:
        self.surface = surface
        self.freeze_id = freeze_id
        self.owner = owner
        self.declared_by = declared_by
        self.reason = reason
        self.until = until
        self.bypass_group = bypass_group
        ends = f"until {until}" if until else "until it is lifted"
        may = f"; {bypass_group} may overrule it with a reason" if bypass_group else ""
        lift = f"`surefoot unfreeze {freeze_id} --reason …` lifts it, which {self._lifters} may"
        super().__init__(f"{surface} is frozen {ends} by {owner}: {reason}{may}; {lift}")

    @property
    def _lifters(self) -> str:
        if not self.bypass_group:
            return "anyone"
        named = dict.fromkeys((self.owner, self.declared_by))
        return f"{', '.join(named)} or anyone of {self.bypass_group}"


class CoolingDown(ControlPlaneError):
    """Something of the candidate was rolled back a short while ago."""

    def __init__(self, digest: str, *, until: str, rollout_id: int) -> None:
        self.rollout_id = rollout_id
        self.digest = digest
        self.until = until
        super().__init__(
            f"{digest} was rolled back lately and cools down until {until}; a person may start it now: "
            f"`surefoot rollout start {rollout_id} --reason …`"
        )


class Forbidden(ControlPlaneError):
    """Who is calling is known, and may not do this."""

    def __init__(self, who: str, what: str) -> None:
        self.who = who
        self.what = what
        super().__init__(f"{who} may not {what}")


class MissingReason(ControlPlaneError):
    """What overrules a rule is recorded with its reason."""

    def __init__(self, command: str) -> None:
        self.command = command
        super().__init__(f"to {command.replace('_', ' ')}, give a reason: the history needs to know why")


class KeyReused(ControlPlaneError):
    """An idempotency key came again with another request."""

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(f"Idempotency-Key {key!r} was used for another request; a new request needs a new key")


class NothingServed(ControlPlaneError):
    """A surface served nothing yet at the moment that was asked for."""

    def __init__(self, surface: str, *, at: str) -> None:
        self.surface = surface
        self.at = at
        super().__init__(f"{surface} served nothing yet at {at}")


class InputsPruned(ControlPlaneError):
    """What a judge saw was removed by retention; the verdict itself stands, and cannot be judged again."""

    def __init__(self, verdict_id: int, *, day: str) -> None:
        self.verdict_id = verdict_id
        self.day = day
        super().__init__(f"the inputs of verdict {verdict_id} were pruned on {day}; it cannot be judged again")


class BackupFailed(ControlPlaneError):
    """A backup could not be written; nothing of it was left behind."""

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"backup to {path}: {problem}; nothing was kept of it")


class InvalidBackup(ControlPlaneError):
    """A folder that holds no whole backup, or one that does not fit here."""

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"{path}: {problem}; nothing was restored")


class TargetNotEmpty(ControlPlaneError):
    """A restore would replace what a registry holds."""

    def __init__(self, url: str, *, rows: int) -> None:
        self.url = url
        self.rows = rows
        super().__init__(f"registry at {url}: holds {rows} rows already; to replace them, restore with --replace")
