from pathlib import Path

import pytest

from control_plane.domain.rollout import Phase
from control_plane.domain.verdict import Rule
from control_plane.rehearsal.journal import Journal, JournalRefused
from control_plane.rehearsal.run import Ending, Run

IDENTITY = {"plan": "standard", "plan_digest": "1", "traffic": "2", "seed": "1", "looks_per_day": "4", "code": "3"}
RUN = Run(
    ending=Ending.ROLLED_BACK,
    phase=Phase.ROLLED_BACK,
    step=1,
    rule=Rule.HARM,
    reason="CTR is 3 % lower",
    culprits=("ctr/*",),
    open_gates=(),
    days=1.5,
    days_of_traffic=1.25,
    candidate_impressions=100,
    harmed_impressions=100.0,
    lost={"clicks": 3.0},
    at_stable={"clicks": 100.0},
    path=((0.0, 0), (0.25, 100), (1.5, 0)),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Journal(tmp_path / "journal", IDENTITY) as journal:
        journal.add(("scenario", 0), RUN)
        journal.add(("scenario", 1), RUN)
    return tmp_path / "journal"


def test_done_runs_are_read_back(path: Path) -> None:
    with Journal(path, IDENTITY) as journal:
        assert journal.done == {("scenario", 0): RUN, ("scenario", 1): RUN}


@pytest.mark.parametrize("torn", range(1, 60, 7))
def test_a_torn_last_line_is_cut_off(path: Path, torn: int) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:-torn])

    with Journal(path, IDENTITY) as journal:
        assert list(journal.done) == [("scenario", 0)]
        journal.add(("scenario", 1), RUN)
    assert path.read_bytes() == whole


def test_a_torn_first_line_is_begun_again(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])

    with Journal(path, IDENTITY) as journal:
        assert journal.done == {}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"plan": "bold"}, "holds runs of the plan 'standard', not of 'bold'"),
        ({"plan_digest": "9"}, "another version of the plan 'standard'"),
        ({"seed": "9"}, "under another seed"),
        ({"traffic": "9", "looks_per_day": "9"}, "under another traffic and looks per day"),
        ({"code": "9"}, "another version of Surefoot"),
    ],
)
def test_the_journal_of_something_else_is_refused_by_name(path: Path, changed: dict[str, str], said: str) -> None:
    before = path.read_bytes()

    with pytest.raises(JournalRefused, match=said):
        Journal(path, {**IDENTITY, **changed})

    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"hello\n", b"[1]\n", b'{"format":"else"}\n', b"\xff\xfe\n", b"no newline"])
def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)

    with pytest.raises(JournalRefused, match="is not one of a rehearsal"):
        Journal(tmp_path / "file", IDENTITY)

    assert (tmp_path / "file").read_bytes() == content


@pytest.mark.parametrize("line", [b"{}", b"null", b'{"scenario":"a","run":"x","result":{}}', b'{"scenario":"a"'])
def test_a_damaged_line_in_the_middle_is_named(path: Path, line: bytes) -> None:
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], line, lines[2], b""]))

    with pytest.raises(JournalRefused, match="line 2 is damaged"):
        Journal(path, IDENTITY)


def test_one_journal_is_written_by_one_rehearsal(path: Path) -> None:
    with Journal(path, IDENTITY), pytest.raises(JournalRefused, match="another rehearsal"):
        Journal(path, IDENTITY)


def test_a_folder_is_no_journal(tmp_path: Path) -> None:
    with pytest.raises(JournalRefused, match="directory"):
        Journal(tmp_path, IDENTITY)
