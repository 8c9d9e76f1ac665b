import numpy as np

from control_plane.demo.click_model import the_truth
from control_plane.demo.traffic import (
    HOUR_MS,
    NUM_USERS,
    hourly_shape,
    real_hours,
    simulated_clicks,
    simulated_requests,
)
from tests.demo.contexts import VOCABULARIES, some_contexts


def test_the_replay_shows_every_logged_impression_once_in_its_hour() -> None:
    contexts = some_contexts()

    hours = list(real_hours(contexts))

    assert sum(requests.size for requests, _ in hours) == contexts.size
    assert sum(int(clicked_U.sum()) for _, clicked_U in hours) == int(contexts.clicked_P.sum())
    assert [requests.served_at_ms // HOUR_MS for requests, _ in hours] == sorted(
        set(contexts.served_at_ms_P // HOUR_MS)
    )


def test_a_simulated_user_has_the_same_real_context_on_every_visit() -> None:
    contexts = some_contexts()
    requests = simulated_requests(contexts, 400_000, served_at_ms=0, rng=np.random.default_rng(1), candidates=1)

    key_D, first_D, again_U = np.unique(requests.user_key_U, return_index=True, return_inverse=True)

    assert NUM_USERS * 0.8 < key_D.size <= NUM_USERS
    assert (requests.user_categorical_UC == requests.user_categorical_UC[first_D][again_U]).all()


def test_each_simulated_request_has_three_items_in_one_view_type() -> None:
    requests = simulated_requests(some_contexts(), 50, served_at_ms=7, rng=np.random.default_rng(1))

    assert (np.bincount(requests.user_index_N) == 3).all()
    assert (requests.view_type_N.reshape(50, 3) == requests.view_type_N[::3, None]).all()


def test_simulated_clicks_follow_the_stated_probabilities() -> None:
    contexts, truth = some_contexts(), the_truth(VOCABULARIES)
    requests = simulated_requests(contexts, 200_000, served_at_ms=0, rng=np.random.default_rng(1), candidates=1)
    probability_U = truth.probability(
        "search",
        view_type_N=requests.view_type_N,
        user_categorical_NC=requests.user_categorical_UC,
        candidate_categorical_NC=requests.candidate_categorical_NC,
    )

    clicked_U = simulated_clicks(truth, requests, np.arange(200_000), np.random.default_rng(2))

    assert abs(clicked_U.mean() - probability_U.mean()) < 4 * np.sqrt(0.25 / 200_000)


def test_the_truth_is_the_same_in_every_run_and_says_that_it_is_simulated() -> None:
    first, second = the_truth(VOCABULARIES), the_truth(VOCABULARIES)

    assert (first.quality_I == second.quality_I).all()
    assert "SIMULATED" in first.in_words()


def test_the_shape_of_a_day_sums_to_one() -> None:
    shape_H = hourly_shape(some_contexts())

    assert shape_H.shape == (24,)
    assert np.isclose(shape_H.sum(), 1.0)
