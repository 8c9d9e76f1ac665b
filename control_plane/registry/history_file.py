"""The history as JSON lines: written from a registry, and checked without one.

A header, then of each surface its changes in order and what it is now, then an end. A file without its end was cut off.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.orm import Session

from control_plane.domain.errors import InvalidField
from control_plane.domain.model_version import Surface
from control_plane.registry import history, surfaces
from control_plane.registry.chain import Chain, Entry, Evidence, Link
from control_plane.registry.code_version import CODE_VERSION
from control_plane.registry.tables import canonical_json

FORMAT = "surefoot-history/1"
AGAIN = "`surefoot history export --file FILE` writes a whole one"
ENTRY_FIELDS = tuple(Entry.__dataclass_fields__)

Json = dict[str, Any]
ReadingsOf = Callable[[int, str], Sequence[Mapping[str, object]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """The end of one surface's chain. Who keeps its hash elsewhere notices a history that was rewritten as a whole."""

    changes: int
    hash: str


@dataclass(kw_only=True, slots=True)
class Report:
    """What a walk over an exported history found."""

    changes: int = 0
    heads: dict[str, Head] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def lines(
    session: Session, *, surface: Surface | None, at: datetime, readings_of: ReadingsOf = lambda verdict_id, verdict: ()
) -> Iterator[str]:
    """The history of one surface, or of all, a line at a time, each with its line break.

    `readings_of` gives what other systems had said to the judge of a verdict, with the queries as they were sent.
    """
    states = surfaces.list_surfaces(session) if surface is None else [surfaces.get(session, surface)]
    changes = history.count(session, surface)
    yield _line("header", format=FORMAT, exported_at=at.isoformat(), code_version=CODE_VERSION, changes=changes)
    for state in states:
        for link in history.links(session, state.surface):
            yield _line("change", **_told(link, readings_of))
        yield _line("surface", state=json.loads(history.state_json(state)))
    yield _line("end", changes=changes)


def check(text_lines: Iterable[str], on_progress: Callable[[int, int], None] = lambda walked, of: None) -> Report:
    """Walk an exported history; `on_progress` is told how many changes of how many were walked.

    Raises:
        InvalidField: a line is none of an export's, with its number.
    """
    report, walked, number = Report(), _Walk(), 0
    for number, text in enumerate(text_lines, start=1):
        try:
            walked.take(_read(text), report)
        except InvalidField as error:
            raise InvalidField(error.field, error.rule, line=number) from None
        on_progress(report.changes, walked.expected)
    if number == 0:
        raise InvalidField("the history", f"is empty; {AGAIN}")
    walked.finish(report, number)
    return report


class _Walk:
    """Where a walk stands: the chain of the present surface, and what the header promised."""

    def __init__(self) -> None:
        self.expected = -1
        self._chain = Chain()
        self._surface = ""
        self._has_ended = False

    def take(self, line: Json, report: Report) -> None:
        if self.expected < 0 and line.get("kind") != "header":
            raise InvalidField("kind", f"must be 'header' in the first line: this is no exported history; {AGAIN}")
        match line.get("kind"):
            case "header":
                self._begin(line)
            case "change":
                self._change(_link(line), report)
            case "surface":
                self._end_of_surface(line, report)
            case "end":
                self._has_ended = True
            case other:
                raise InvalidField("kind", f"must be header, change, surface or end, not {other!r}")

    def finish(self, report: Report, last_line: int) -> None:
        if not self._has_ended:
            had = f"with {report.changes} of {self.expected} changes"
            report.problems.append(f"it was cut off after line {last_line}, {had}: its last line is missing; {AGAIN}")
        elif report.changes != self.expected:
            report.problems.append(f"the file has {report.changes} changes where it promised {self.expected}")

    def _begin(self, line: Json) -> None:
        if self.expected >= 0:
            raise InvalidField("kind", "there is one header, in the first line")
        if line.get("format") != FORMAT:
            raise InvalidField("format", f"must be {FORMAT!r}, not {line.get('format')!r}")
        self.expected = _whole(line, "changes")

    def _change(self, link: Link, report: Report) -> None:
        if self._chain.last is not None and link.entry.surface != self._surface:
            report.problems.append(f"{self._surface}: what it is now is missing")
            self._chain = Chain()
        self._surface = link.entry.surface
        report.problems += [f"{self._surface}: {problem}" for problem in self._chain.add(link)]
        report.changes += 1

    def _end_of_surface(self, line: Json, report: Report) -> None:
        state = _object(line, "state")
        name = str(state.get("surface"))
        chain = self._chain if name == self._surface else Chain()
        report.problems += [f"{name}: {problem}" for problem in chain.end({"generation": None, **state})]
        if chain.last is not None:
            report.heads[name] = Head(changes=chain.last.seq + 1, hash=chain.last.hash)
        self._chain, self._surface = Chain(), ""


def _told(link: Link, readings_of: ReadingsOf) -> Json:
    entry, evidence = link.entry, link.evidence
    told = {**asdict(entry), "at": entry.at.isoformat(timespec="microseconds")}
    told |= {"before": json.loads(entry.before), "after": json.loads(entry.after), "split": link.split}
    if evidence is None or entry.verdict_id is None:
        return {**told, "evidence": None}
    readings = [dict(reading) for reading in readings_of(entry.verdict_id, evidence.verdict)]
    verdict = json.loads(evidence.verdict)
    return {**told, "evidence": {"inputs_digest": evidence.inputs_digest, "verdict": verdict, "readings": readings}}


def _link(line: Json) -> Link:
    """What was read, with `before`, `after` and the verdict written again as they were: canonical JSON."""
    missing = [name for name in ENTRY_FIELDS if name not in line]
    if missing:
        raise InvalidField(missing[0], "is missing")
    texts = {name: _text(line, name) for name in ("surface", "by", "command", "reason", "code_version", "hash")}
    fields: Json = {**{name: line[name] for name in ENTRY_FIELDS}, **texts}
    fields |= {name: _canonical(line, name) for name in ("before", "after")}
    fields |= {"at": _moment(line), "seq": _whole(line, "seq"), "surface": Surface(texts["surface"])}
    split = None if line.get("split") is None else _object(line, "split")
    return Link(entry=Entry(**fields), split=split, evidence=_evidence(line))


def _evidence(line: Json) -> Evidence | None:
    if line.get("evidence") is None:
        return None
    told = _object(line, "evidence")
    return Evidence(verdict=_canonical(told, "verdict"), inputs_digest=_text(told, "inputs_digest"))


def _read(text: str) -> Json:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        why = "altered, or no exported history" if text.endswith("\n") else "the file was cut off here"
        raise InvalidField("content", f"is no JSON: {why}; {AGAIN}") from None
    if not isinstance(value, dict):
        raise InvalidField("content", f"must be a JSON object; {AGAIN}")
    return value


def _object(line: Json, name: str) -> Json:
    value = line.get(name)
    if not isinstance(value, dict):
        raise InvalidField(name, "must be a JSON object")
    return value


def _canonical(line: Json, name: str) -> str:
    try:
        return canonical_json(_object(line, name))
    except ValueError:
        raise InvalidField(name, "must hold no NaN and no infinity") from None


def _text(line: Json, name: str) -> str:
    value = line.get(name)
    if not isinstance(value, str):
        raise InvalidField(name, "must be text")
    return value


def _whole(line: Json, name: str) -> int:
    value = line.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidField(name, "must be a whole number, 0 or more")
    return value


def _moment(line: Json) -> datetime:
    try:
        at = datetime.fromisoformat(_text(line, "at"))
    except ValueError:
        raise InvalidField("at", "must be a moment in ISO 8601") from None
    if at.tzinfo is None:
        raise InvalidField("at", "must have a time zone")
    return at.astimezone(UTC)


def _line(kind: str, **content: object) -> str:
    return json.dumps({"kind": kind, **content}, separators=(",", ":"), allow_nan=False) + "\n"
