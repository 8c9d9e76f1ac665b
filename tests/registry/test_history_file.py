"""An exported history says the same as the registry, and shows what was done to it since."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from control_plane.domain.errors import InvalidField
from control_plane.domain.rollout import Phase
from control_plane.registry import history, history_file
from control_plane.registry.history_file import AGAIN, check
from control_plane.registry.session import Sessions
from tests.builders import HOME_FEED, NOON, a_version
from tests.registry import scene

Lines = list[dict[str, Any]]


@pytest.fixture
def exported(sessions: Sessions) -> list[str]:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        scene.a_serving_surface(session, a_version("a", surface="search"))
        scene.a_rollout_in(session, Phase.RAMPING)
    with sessions.reading() as session:
        return list(history_file.lines(session, surface=None, at=NOON))


def test_an_export_checks_out_without_the_registry(sessions: Sessions, exported: list[str]) -> None:
    report = check(exported)

    with sessions.reading() as session:
        last = history.list_history(session, HOME_FEED, 1)[0]
    assert report.problems == []
    assert report.changes == 8
    assert report.heads["home_feed"].hash == last.hash
    assert set(report.heads) == {"home_feed", "search"}


def test_one_surface_can_be_exported_alone(sessions: Sessions, exported: list[str]) -> None:
    with sessions.reading() as session:
        report = check(history_file.lines(session, surface=scene.SEARCH, at=NOON))

    assert (report.problems, set(report.heads)) == ([], {"search"})


def test_a_change_tells_who_why_before_after_evidence_and_code(exported: list[str]) -> None:
    change = [json.loads(line) for line in exported if '"evidence":{' in line][-1]

    assert (change["by"], change["command"]) == ("ada", "advance")
    assert change["before"]["rollout"]["phase"] == "shadow"
    assert change["after"]["candidate_bp"] == change["split"]["candidate_bp"] == 100
    assert change["evidence"]["verdict"]["outcome"] == "advance"
    assert change["code_version"]


def reason_altered(lines: Lines) -> None:
    lines[3]["reason"] = "nothing to see"


def taken_out(lines: Lines) -> None:
    del lines[3]


def cut_off(lines: Lines) -> None:
    del lines[-1]


def verdict_altered(lines: Lines) -> None:
    next(line for line in lines if line.get("evidence"))["evidence"]["verdict"]["outcome"] = "roll_back"


def split_altered(lines: Lines) -> None:
    lines[3]["split"]["candidate_bp"] = 9


def surface_altered(lines: Lines) -> None:
    next(line for line in lines if line["kind"] == "surface")["state"]["stable"] = "f" * 16


def surface_left_out(lines: Lines) -> None:
    lines.remove(next(line for line in lines if line["kind"] == "surface"))


def whole_surface_left_out(lines: Lines) -> None:
    lines[:] = [line for line in lines if "search" not in (line.get("surface"), line.get("state", {}).get("surface"))]


@pytest.mark.parametrize(
    ("tamper", "problem"),
    [
        (reason_altered, "home_feed: change 2 was altered"),
        (taken_out, "home_feed: changes between 1 and 3 are missing"),
        (cut_off, f"it was cut off after line 11, with 8 of 8 changes: its last line is missing; {AGAIN}"),
        (verdict_altered, "home_feed: verdict 1, on which change 4 was made, was altered"),
        (split_altered, "home_feed: the split of generation 2 is not what its change made"),
        (surface_altered, "home_feed: it is not what change 5 left"),
        (surface_left_out, "home_feed: what it is now is missing"),
        (whole_surface_left_out, "the file has 6 changes where it promised 8"),
    ],
)
def test_an_export_that_was_altered_shows_it(
    exported: list[str], tamper: Callable[[Lines], None], problem: str
) -> None:
    lines = [json.loads(line) for line in exported]

    tamper(lines)

    assert problem in check(json.dumps(line) for line in lines).problems


def a_change(exported: list[str], **fields: object) -> str:
    return json.dumps({**json.loads(exported[1]), **fields})


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        (
            '{"kind":"chan',
            "line 2: content: is no JSON: the file was cut off here; `surefoot history export --file FILE`",
        ),
        ("\n", "line 2: content: is no JSON: altered, or no exported history"),
        ("[]", "line 2: content: must be a JSON object"),
        ('{"kind":"note"}', "line 2: kind: must be header, change, surface or end, not 'note'"),
        ({"seq": "two"}, "line 2: seq: must be a whole number"),
        ({"seq": -1}, "line 2: seq: must be a whole number"),
        ({"at": "noon"}, "line 2: at: must be a moment"),
        ({"at": "2026-03-03T12:00:00"}, "line 2: at: must have a time zone"),
        ({"before": "{}"}, "line 2: before: must be a JSON object"),
        ({"after": {"x": float("nan")}}, "line 2: after: must hold no NaN"),
        ({"evidence": []}, "line 2: evidence: must be a JSON object"),
        ({"hash": None}, "line 2: hash: must be text"),
        ('{"kind":"surface","state":3}', "line 2: state: must be a JSON object"),
        ('{"kind":"change"}', "line 2: surface: is missing"),
    ],
)
def test_a_line_that_no_export_has_is_refused_by_its_number_and_field(
    exported: list[str], line: str | dict[str, object], refusal: str
) -> None:
    text = line if isinstance(line, str) else a_change(exported, **line)

    with pytest.raises(InvalidField) as error:
        check([exported[0], text])

    assert str(error.value).startswith(refusal)


def test_a_file_with_nothing_in_it_says_so() -> None:
    with pytest.raises(InvalidField, match="the history: is empty; `surefoot history export"):
        check([])


@pytest.mark.parametrize("first", ['{"kind":"change"}', '{"kind":"header","format":"else","changes":1}'])
def test_a_file_that_is_no_export_is_refused_in_its_first_line(first: str) -> None:
    with pytest.raises(InvalidField, match=r"^line 1: (kind|format): must be"):
        check([first])
