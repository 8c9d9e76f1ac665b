import json
from pathlib import Path

import pytest

from tests.commands.conftest import Run
from tests.stories.world import World


def test_what_served_is_told_with_who_and_why(surefoot: Run, world: World) -> None:
    told = surefoot("history", "at", "home_feed", "2026-03-02 00:00")

    assert told.exit_code == 0, told.output
    assert (
        f"home_feed at 2026-03-02 00:00:00 UTC (generation 1): stable {world.surface('home_feed').stable}"
        in told.output
    )
    assert "set by ann (adopt): first" in told.output
    assert "and still does" in told.output


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        (["home_feed", "soon"], "at: must be a moment"),
        (["home_feed", "00:00", "--zone", "Mars"], "zone: must be a time zone"),
        (["nowhere", "2026-03-02 00:00"], "no surface 'nowhere'"),
    ],
)
def test_a_moment_that_cannot_be_answered_is_a_plain_sentence(
    surefoot: Run, arguments: list[str], refusal: str
) -> None:
    refused = surefoot("history", "at", *arguments)

    assert refused.exit_code == 1
    assert refusal in refused.stderr


def test_an_export_is_checked_offline(surefoot: Run, tmp_path: Path) -> None:
    file = tmp_path / "export.jsonl"

    exported = surefoot("history", "export", "--file", file)
    checked = surefoot("history", "verify", "--file", file)

    assert exported.exit_code == checked.exit_code == 0, checked.output
    assert "the history holds: 2 changes" in checked.output
    assert "home_feed: 2 changes, the last is sha256:" in checked.output


def test_an_export_without_a_file_goes_to_standard_output(surefoot: Run) -> None:
    kinds = [json.loads(line)["kind"] for line in surefoot("history", "export").stdout.splitlines()]

    assert kinds == ["header", "change", "change", "surface", "end"]


def test_a_running_control_plane_is_verified_from_afar(surefoot: Run) -> None:
    checked = surefoot("history", "verify")

    assert checked.exit_code == 0, checked.output
    assert "the history holds: 2 changes" in checked.output


def test_an_altered_export_is_told_apart_from_one_that_cannot_be_read(surefoot: Run, tmp_path: Path) -> None:
    file = tmp_path / "export.jsonl"
    surefoot("history", "export", "--file", file)
    file.write_text(file.read_text().replace('"by":"ann"', '"by":"eve"'))
    altered = surefoot("history", "verify", "--file", file)
    file.write_text("holiday notes\n")
    unreadable = surefoot("history", "verify", "--file", file)
    file.write_bytes(b"\xff\xff\n")
    binary = surefoot("history", "verify", "--file", file)

    assert (altered.exit_code, unreadable.exit_code, binary.exit_code) == (3, 2, 2)
    assert "home_feed: change 1 was altered" in altered.stderr
    assert "line 1: content: is no JSON: altered, or no exported history" in unreadable.stderr
    assert "is no UTF-8" in binary.stderr


def test_an_export_that_was_cut_says_where_and_what_to_do(surefoot: Run, tmp_path: Path) -> None:
    file = tmp_path / "export.jsonl"
    surefoot("history", "export", "--file", file)
    whole = file.read_bytes()

    file.write_bytes(whole[: len(whole) // 2])
    halved = surefoot("history", "verify", "--file", file)
    file.write_bytes(b"".join(whole.splitlines(keepends=True)[:2]))
    shortened = surefoot("history", "verify", "--file", file)
    file.write_bytes(b"")
    empty = surefoot("history", "verify", "--file", file)

    assert [result.exit_code for result in (halved, shortened, empty)] == [2, 3, 2]
    assert "is no JSON: the file was cut off here; `surefoot history export --file FILE`" in halved.stderr
    assert "it was cut off after line 2, with 1 of 2 changes" in shortened.stderr
    assert "the history: is empty" in empty.stderr


def test_without_a_terminal_nothing_is_said_of_progress(surefoot: Run) -> None:
    assert surefoot("history", "verify").stderr == ""


def test_an_export_that_cannot_be_written_leaves_nothing(surefoot: Run, tmp_path: Path) -> None:
    refused = surefoot("history", "export", "--file", tmp_path / "missing" / "export.jsonl")

    assert refused.exit_code == 2
    assert "nothing was written" in refused.stderr
    assert not (tmp_path / "missing").exists()
