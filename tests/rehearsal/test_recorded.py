from pathlib import Path

import numpy as np
import pytest

from control_plane.domain.events import EventKind, Label
from control_plane.domain.moments import Measure, PairMeasure
from control_plane.domain.split import Arm
from control_plane.evidence.event_log import EventLog
from control_plane.guardrails.sanity import check_moments
from control_plane.rehearsal.audience import DAY_MS, Effects, Faults
from control_plane.rehearsal.recorded_traffic import RecordedTraffic
from control_plane.rehearsal.recording import NoRecording, Recording, read_recording
from control_plane.rehearsal.rehearse import Trial, rehearse
from control_plane.rehearsal.run import Ending
from control_plane.rehearsal.sources import Recorded
from tests.guardrails.builders import sums_of
from tests.rehearsal.builders import EQUAL, a_quick_plan, a_scenario
from tests.rehearsal.logs import MONDAY, write_log

PLAN = a_quick_plan()
WINDOWS = PLAN.windows_ms()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> EventLog:
    return write_log(tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="module")
def recording(log: EventLog) -> Recording:
    return read(log.root)


def read(root: Path, surface: str | None = None, windows_ms: dict[Label, int] = WINDOWS) -> Recording:
    return read_recording(root, surface=surface, windows_ms=windows_ms, revenue_cap=1_000.0, periods_per_day=4)


def served(
    recording: Recording, effects: Effects | None = None, faults: Faults | None = None, *, seed: int = 1
) -> RecordedTraffic:
    traffic = RecordedTraffic(
        PLAN, recording, effects or Effects(), faults or Faults(), seed=np.random.SeedSequence(seed)
    )
    traffic.serve(until_ms=(MONDAY + 1) * DAY_MS, generation=1, candidate_bp=0, shadow_bp=10_000)
    traffic.serve(until_ms=(MONDAY + 7) * DAY_MS, generation=2, candidate_bp=5_000)
    return traffic


def test_a_recording_holds_every_event_of_its_whole_days_once(log: EventLog, recording: Recording) -> None:
    exposures, engagements = log.read(EventKind.EXPOSURE), log.read(EventKind.ENGAGEMENT)
    end_ms = (MONDAY + 7) * DAY_MS
    inside = exposures["served_at_ms"].to_numpy() < end_ms
    labels = engagements["label"].to_numpy()[engagements["served_at_ms"].to_numpy() < end_ms]

    assert (recording.first_day, recording.days, recording.recorded_days) == (MONDAY, 7, 7)
    assert recording.shown_N.sum() == inside.sum()
    assert recording.clicks_N.sum() == (labels == "click").sum()
    assert recording.good_N.sum() == (labels == "good_click").sum()
    assert recording.hides_N.sum() == (labels == "hide").sum()
    assert recording.revenue_N.sum() == 400_000 * (labels == "revenue").sum()
    assert recording.score_N.sum() == pytest.approx(1e6 * exposures["score"].to_numpy()[inside].sum(), rel=1e-5)
    assert recording.view_types == ("closeup", "grid")


def test_an_event_that_was_sent_twice_counts_once(recording: Recording, tmp_path: Path) -> None:
    twice = write_log(tmp_path)
    twice.append({kind: twice.read(kind) for kind in (EventKind.EXPOSURE, EventKind.ENGAGEMENT)})

    again = read(tmp_path)

    np.testing.assert_array_equal(again.shown_N, recording.shown_N)
    np.testing.assert_array_equal(again.revenue_N, recording.revenue_N)


def test_labels_later_than_their_window_do_not_count(log: EventLog) -> None:
    assert read(log.root, windows_ms={**WINDOWS, Label.CLICK: 59_000}).clicks_N.sum() == 0


def test_the_days_left_depend_on_the_longest_window(log: EventLog) -> None:
    assert read(log.root, windows_ms={**WINDOWS, Label.HIDE: 2 * DAY_MS}).recorded_days == 6


def test_served_again_the_recorded_sums_come_back(recording: Recording) -> None:
    moments = served(recording).moments()

    check_moments(moments)
    sums_M = sums_of(moments)[0].sum(axis=(0, 1, 2))
    assert sums_M[Measure.IMPRESSIONS] == recording.shown_N.sum()
    assert sums_M[Measure.CLICK] == recording.clicks_N[: recording.starts_P[27]].sum()  # the last period is too young
    assert moments.users_A[0] > moments.users_A[1] > 0.4 * recording.user_U.size
    (drawn,) = moments.draws
    came = np.unique(recording.user_N[recording.starts_P[4] :])
    assert (drawn.above_bp, drawn.candidate, drawn.stable + drawn.candidate) == (0, moments.users_A[1], came.size)
    pairs_P = moments.pairs_GKP[0].sum(axis=0)
    assert pairs_P[PairMeasure.LOG_LOSS_STABLE] == pairs_P[PairMeasure.LOG_LOSS_CANDIDATE] > 0


def test_each_run_gives_the_users_to_the_arms_anew(recording: Recording) -> None:
    one, again, other = (served(recording, seed=seed).moments() for seed in (1, 1, 2))

    np.testing.assert_array_equal(sums_of(one), sums_of(again))
    assert not np.array_equal(sums_of(one), sums_of(other))


@pytest.mark.parametrize("ctr", [-0.5, 0.5])
def test_conversions_are_thinned_or_added(recording: Recording, ctr: float) -> None:
    effects = Effects(ctr=ctr, good_click_rate=-0.2, hide_rate=1.5, revenue_per_click=0.1)
    moments = served(recording, effects).moments()

    check_moments(moments)
    sums_AM = sums_of(moments)[0, 1:].sum(axis=(0, 2))
    rate_AM = sums_AM / sums_AM[:, [Measure.MATURED_CLICK]]
    ratio_M = rate_AM[Arm.CANDIDATE] / rate_AM[Arm.STABLE]
    assert ratio_M[Measure.CLICK] == pytest.approx(1 + ctr, abs=0.04)
    assert ratio_M[Measure.GOOD_CLICK] / ratio_M[Measure.CLICK] == pytest.approx(0.8, abs=0.06)
    assert ratio_M[Measure.HIDE] == pytest.approx(2.5, abs=0.5)
    assert ratio_M[Measure.REVENUE] == pytest.approx(1.1 * ratio_M[Measure.CLICK], rel=0.08)


def test_a_plan_longer_than_the_recording_goes_round_it(recording: Recording) -> None:
    traffic = RecordedTraffic(PLAN, recording, Effects(), Faults(), seed=np.random.SeedSequence(1))
    traffic.serve(until_ms=(MONDAY + 14) * DAY_MS, generation=1, candidate_bp=0)
    shown_S = traffic.moments().sums_of(Measure.IMPRESSIONS)[0].sum(axis=(1, 2))

    np.testing.assert_array_equal(shown_S[:7], shown_S[7:])


def test_faults_are_the_same_as_on_simulated_traffic(recording: Recording) -> None:
    lost, stopped = (
        served(recording, faults=Faults(lost_users=0.5)),
        served(recording, faults=Faults(feed_stops_at_day=2)),
    )

    assert lost.served(Arm.CANDIDATE) == pytest.approx(0.5 * served(recording).served(Arm.CANDIDATE), rel=0.1)
    whole = served(recording).moments().sums_of(Measure.IMPRESSIONS)[0].sum(axis=(1, 2))
    assert stopped.moments().sums_of(Measure.IMPRESSIONS)[0].sum(axis=(1, 2))[2] == pytest.approx(whole[2] / 2, rel=0.1)


def test_a_plan_is_rehearsed_on_a_recording(recording: Recording) -> None:
    trial = Trial(plan=PLAN, source=Recorded(recording=recording), seed=1, looks_per_day=4)
    harmful = a_scenario(Effects(ctr=-0.4))

    equal, bad = rehearse(trial, [EQUAL, harmful], runs=2, jobs=2)

    assert equal.count(Ending.ROLLED_BACK) == 0
    assert bad.count(Ending.ROLLED_BACK) == 2
    assert bad.lost["clicks"].mean > 0
    assert (equal, bad) == rehearse(trial, [EQUAL, harmful], runs=2)


def test_a_folder_that_is_no_log_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(NoRecording, match="no event log"):
        read(tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_a_log_without_exposures_is_refused(tmp_path: Path) -> None:
    EventLog(tmp_path)

    with pytest.raises(NoRecording, match="no exposures"):
        read(tmp_path)


def test_too_short_and_too_small_recordings_say_so(tmp_path: Path) -> None:
    write_log(tmp_path / "short", days=1)
    write_log(tmp_path / "small", days=3, users=50)

    with pytest.raises(NoRecording, match=r"home_feed was recorded for 24\.0 hours; a whole UTC day and the 1 hours"):
        read(tmp_path / "short")
    with pytest.raises(NoRecording, match="at least 1000 are needed"):
        read(tmp_path / "small")


def test_one_of_several_surfaces_has_to_be_chosen(tmp_path: Path) -> None:
    write_log(tmp_path, days=3, surfaces=("home_feed", "search"))

    with pytest.raises(NoRecording, match="several surfaces; choose one with --surface: home_feed, search"):
        read(tmp_path)
    with pytest.raises(NoRecording, match="nothing that stable served on 'maps'"):
        read(tmp_path, "maps")
    assert read(tmp_path, "search").surface == "search"
