"""A world of users, items and surfaces in which the probability of every click is known.

What a user wants now shows only in the history: mostly items of one topic, and hidden ones of another that the user
is tired of. Items have a quality that all surfaces share and a smaller one of each surface. View types shift and
stretch the log odds, and change some time before the end, as when a layout changes that no feature tells of.

Shapes: Q requests, R rows of each, L history entries, I items, S surfaces, M values of a multi-hot feature.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from control_plane.domain.model_version import Surface, ViewType
from model_runtime.networks.features import UNKNOWN, IntArray

Float64Array = NDArray[np.float64]

NUM_TOPICS = 12
NUM_TAGS, MAX_TAGS, MAX_INTERESTS = 36, 3, 3  # three tags to a topic
NUM_BRANDS, NUM_AGES, NUM_COUNTRIES = 40, 7, 12
SAVED, CLICKED, HIDDEN = 1, 2, 3
ACTIONS = ("saved", "clicked", "hidden")
INTEREST_MS = 2 * 86_400_000  # how long a user wants the same
RECENCY = 8.0  # entries after which a history's entry weighs 1 / e of the latest
NO_HISTORY = 0.1  # share of users' interests that left no trace


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewTypeTruth:
    """`later` is added to the log odds once the layout has changed."""

    share: float
    shift: float
    slope: float
    later: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SurfaceTruth:
    """`base` is in log odds; `own_weight` is that of what the surface alone knows of a candidate."""

    share: float
    base: float
    history_weight: float
    own_weight: float
    view_types: Mapping[ViewType, ViewTypeTruth]


def _view_type(share: float, shift: float, slope: float, later: float) -> ViewTypeTruth:
    return ViewTypeTruth(share=share, shift=shift, slope=slope, later=later)


HOME_FEED, SEARCH, RELATED_PINS = Surface("home_feed"), Surface("search"), Surface("related_pins")
SURFACES: Mapping[Surface, SurfaceTruth] = {
    HOME_FEED: SurfaceTruth(
        share=0.55,
        base=-2.3,
        history_weight=1.0,
        own_weight=0.0,
        view_types={
            ViewType("grid"): _view_type(0.6, 0.0, 1.0, -0.2),
            ViewType("closeup"): _view_type(0.25, 0.6, 0.8, 0.35),
            ViewType("video"): _view_type(0.15, -0.4, 1.2, 0.1),
        },
    ),
    SEARCH: SurfaceTruth(
        share=0.3,
        base=-1.7,
        history_weight=0.7,
        own_weight=0.8,
        view_types={
            ViewType("grid"): _view_type(0.7, 0.0, 1.0, 0.15),
            ViewType("guide"): _view_type(0.3, -0.5, 0.9, -0.35),
        },
    ),
    RELATED_PINS: SurfaceTruth(
        share=0.15,
        base=-2.7,
        history_weight=0.9,
        own_weight=0.6,
        view_types={
            ViewType("grid"): _view_type(0.65, 0.0, 1.0, -0.1),
            ViewType("closeup"): _view_type(0.35, 0.4, 1.1, 0.3),
        },
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Users:
    """Who asks, a row per request; equal for all requests of one user while the user wants the same."""

    age_Q: IntArray
    country_Q: IntArray
    tenure_Q: Float64Array
    interests_QM: IntArray
    history_QL: IntArray
    action_QL: IntArray
    wanted_Q: IntArray  # topic


class World:
    """All that stays the same while rows come and go: items, and the weights of users' and items' features."""

    def __init__(self, *, seed: int, num_items: int, history_length: int) -> None:
        rng = np.random.default_rng([seed, 0])
        self.seed, self.num_items, self.history_length = seed, num_items, history_length
        self.topic_I = rng.integers(1, 1 + NUM_TOPICS, num_items)
        self.topic_I[UNKNOWN] = UNKNOWN
        self.brand_I = rng.integers(1, NUM_BRANDS, num_items)
        self.price_I = rng.exponential(1.0, num_items)
        self.quality_I = rng.normal(0.0, 0.5, num_items)
        self.own_quality_SI = rng.normal(0.0, 0.15, (len(SURFACES), num_items))
        self.tags_IM = 1 + (self.topic_I[:, None] - 1) * MAX_TAGS + np.arange(MAX_TAGS)
        self.tags_IM[rng.random(self.tags_IM.shape) < 0.4] = UNKNOWN
        self.age_effect = rng.normal(0.0, 0.2, NUM_AGES)
        self.country_effect = rng.normal(0.0, 0.2, NUM_COUNTRIES)
        self._by_topic = np.argsort(self.topic_I[1:], kind="stable") + 1
        self._first_T = np.searchsorted(self.topic_I[self._by_topic], np.arange(NUM_TOPICS + 2))

    def items_of(self, topic: IntArray, chance: Float64Array) -> IntArray:
        """An item of each topic, chosen by a number from 0 to 1."""
        first, end = self._first_T[topic], self._first_T[topic + 1]
        place = np.minimum(first + (chance * (end - first)).astype(np.int64), len(self._by_topic) - 1)
        item: IntArray = self._by_topic[place]
        return item

    def users(self, user_Q: IntArray, served_at_ms_Q: IntArray) -> Users:
        """Who these users are, and what they want at that time."""
        wish_Q = served_at_ms_Q // INTEREST_MS
        wanted_Q = 1 + (self._chance(user_Q, wish_Q, 1) * NUM_TOPICS).astype(np.int64)
        tired_Q = 1 + (wanted_Q - 1 + 1 + (self._chance(user_Q, wish_Q, 2) * (NUM_TOPICS - 1)).astype(int)) % NUM_TOPICS
        history_QL, action_QL = self._histories(user_Q, wish_Q, wanted_Q, tired_Q)
        place_M = np.arange(MAX_INTERESTS)
        chance_QM = self._chance(user_Q[:, None], place_M[None], 3)
        interests_QM = 1 + (chance_QM * NUM_TAGS).astype(np.int64)
        return Users(
            age_Q=1 + (self._chance(user_Q, 0, 4) * (NUM_AGES - 1)).astype(np.int64),
            country_Q=1 + (self._chance(user_Q, 0, 5) * (NUM_COUNTRIES - 1)).astype(np.int64),
            tenure_Q=np.floor(1_000 * self._chance(user_Q, 0, 6)),
            interests_QM=interests_QM,
            history_QL=history_QL,
            action_QL=action_QL,
            wanted_Q=wanted_Q,
        )

    def utility(self, users: Users, item_QR: IntArray, history_weight_Q: Float64Array) -> Float64Array:
        """What makes a click likely on any surface, in log odds, shape (Q, R)."""
        shared_QRM = (self.tags_IM[item_QR][..., None] == users.interests_QM[:, None, None, :]).any(-1)
        utility_QR: Float64Array = (
            self.quality_I[item_QR]
            - 0.2 * (self.price_I[item_QR] - 1.0)
            + history_weight_Q[:, None] * self.affinity(users, item_QR)
            + 0.5 * shared_QRM.sum(-1)
            + (self.age_effect[users.age_Q] + self.country_effect[users.country_Q])[:, None]
        )
        return utility_QR

    def affinity(self, users: Users, item_QR: IntArray) -> Float64Array:
        """How much the history speaks for an item's topic, latest entries first, shape (Q, R); 0 without a history."""
        weight_QL = np.exp(-np.arange(self.history_length) / RECENCY) * (users.history_QL != UNKNOWN)
        weight_QL /= np.maximum(weight_QL.sum(1, keepdims=True), 1e-9)
        weight_QL *= np.where(users.action_QL == HIDDEN, -3.0, 2.0)
        is_alike_QRL = self.topic_I[item_QR][..., None] == self.topic_I[users.history_QL][:, None, :]
        affinity_QR: Float64Array = np.einsum("qrl,ql->qr", is_alike_QRL.astype(np.float64), weight_QL)
        return affinity_QR

    def _histories(
        self, user_Q: IntArray, wish_Q: IntArray, wanted_Q: IntArray, tired_Q: IntArray
    ) -> tuple[IntArray, IntArray]:
        place_L = np.arange(self.history_length)
        kind_QL, chance_QL, liking_QL, any_QL = (
            self._chance(user_Q[:, None], wish_Q[:, None] * self.history_length + place_L, stream)
            for stream in (7, 8, 9, 10)
        )
        other_QL = 1 + (any_QL * NUM_TOPICS).astype(np.int64)
        is_wanted_QL, is_tired_QL = kind_QL < 0.45, (kind_QL >= 0.45) & (kind_QL < 0.7)
        topic_QL = np.where(is_wanted_QL, wanted_Q[:, None], np.where(is_tired_QL, tired_Q[:, None], other_QL))
        history_QL = self.items_of(topic_QL, chance_QL)
        length_Q = np.ceil(self._chance(user_Q, wish_Q, 11) * self.history_length)
        length_Q[self._chance(user_Q, wish_Q, 12) < NO_HISTORY] = 0
        is_entry_QL = place_L < length_Q[:, None]
        action_QL = np.where(is_tired_QL, HIDDEN, np.where(liking_QL < 0.3, SAVED, CLICKED))
        return np.where(is_entry_QL, history_QL, UNKNOWN), np.where(is_entry_QL, action_QL, UNKNOWN)

    def _chance(self, user: IntArray, what: IntArray | int, stream: int) -> Float64Array:
        """From 0 to 1, the same whenever it is asked for: nothing of a user has to be kept."""
        bits = mixed(np.asarray(user, np.uint64) + mixed(np.atleast_1d(np.asarray(what, np.uint64))))
        bits = mixed(bits ^ mixed(np.asarray([self.seed * 1_000 + stream], np.uint64)))
        chance: Float64Array = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return chance


def sigmoid(logit: Float64Array) -> Float64Array:
    probability: Float64Array = 1 / (1 + np.exp(-logit))
    return probability


def mixed(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: Steele, Lea & Flood, OOPSLA 2014."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
