"""Masks that cancel in the sum over a group, and in no smaller sum."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from roles_sessions import sessions

from fedshare_clients.node.masks import masked, sign_towards

PARTIES = ("court", "registry", "tax")
COUNT = 2000


@pytest.fixture(scope="module")
def contributions() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {party: rng.integers(-1000, 1000, COUNT) for party in PARTIES}


@pytest.fixture(scope="module")
def hidden(contributions: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    made = sessions(*PARTIES)
    return {party: masked(words, made[party], PARTIES, "test/0") for party, words in contributions.items()}


def looks_uniform(words: np.ndarray) -> bool:
    """The mean of |word| / 2^63 is 1/2, up to 6 deviations: false alarm 2e-9; small words fail by far."""
    size = np.abs(words.astype(np.float64)).mean() * 2.0**-63
    return bool(abs(size - 0.5) < 6 * np.sqrt(1 / 12 / len(words)))


def test_the_sum_over_the_group_is_the_sum_of_the_contributions(
    contributions: dict[str, np.ndarray], hidden: dict[str, np.ndarray]
) -> None:
    with np.errstate(over="ignore"):
        assert np.array_equal(sum(hidden.values()), sum(contributions.values()))


@pytest.mark.parametrize("group", [*combinations(PARTIES, 1), *combinations(PARTIES, 2)])
def test_no_smaller_sum_says_anything(group: tuple[str, ...], hidden: dict[str, np.ndarray]) -> None:
    with np.errstate(over="ignore"):
        assert looks_uniform(np.array(sum(hidden[party] for party in group)))


def test_a_contribution_alone_in_its_group_is_not_masked() -> None:
    words = np.arange(3)
    made = sessions(*PARTIES)
    assert np.array_equal(masked(words, made["tax"], ["tax"], "test"), words)


def test_another_purpose_and_another_session_mask_otherwise() -> None:
    words = np.zeros(COUNT, dtype=np.int64)
    made, again = sessions(*PARTIES), sessions(*PARTIES, seed=1)
    seen = [
        masked(words, made["tax"], PARTIES, "test/0"),
        masked(words, made["tax"], PARTIES, "test/1"),
        masked(words, again["tax"], PARTIES, "test/0"),
    ]
    for first, second in combinations(seen, 2):
        assert np.count_nonzero(first == second) == 0
        with np.errstate(over="ignore"):
            assert looks_uniform(first - second)


def test_no_words_need_no_mask() -> None:
    made = sessions(*PARTIES)
    assert len(masked(np.empty(0, dtype=np.int64), made["tax"], PARTIES, "test")) == 0


def test_two_parties_have_opposite_signs() -> None:
    for first, second in combinations(PARTIES, 2):
        assert sign_towards(first, second) == -sign_towards(second, first) != 0
