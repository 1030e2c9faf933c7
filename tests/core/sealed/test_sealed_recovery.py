import copy
import json
import pickle
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sealed_oracles import FixedRandomness

from fedshare.errors import ParameterError, ProtocolError
from fedshare.sealed.masked_sum import add_up, masked
from fedshare.sealed.recovery import (
    RecoverableMask,
    join,
    missing_masks,
    pair_seed,
    split,
    threshold,
    verify_outcome,
)

VECTOR = json.loads((Path(__file__).parents[2] / "vectors/sealed/shamir.json").read_text())
few = settings(max_examples=25, deadline=None)
secrets = st.binary(min_size=32, max_size=32)
LABEL = b"session and sum"


@given(secrets, st.data())
@few
def test_any_quorum_reconstructs(secret, data):
    count = data.draw(st.integers(1, 10))
    needed = data.draw(st.integers(1, count))
    shares = split(secret, count, needed, FixedRandomness("split"))
    chosen = data.draw(st.permutations(range(count)))[: data.draw(st.integers(needed, count))]
    assert join({x + 1: shares[x] for x in chosen}, needed) == secret


@given(secrets, secrets, st.integers(2, 6))
@few
def test_one_share_fewer_fits_every_secret(secret, other, needed):
    """The shares of t - 1 parties and any other secret lie on a polynomial of degree below t."""
    shares = split(secret, needed, needed, FixedRandomness("split"))
    prime = 2**256 + 297
    points = [(0, int.from_bytes(other, "big"))]
    points += [(x + 1, int.from_bytes(shares[x], "big")) for x in range(needed - 1)]
    value = 0
    for x, y in points:
        term = y
        for also, _ in points:
            if also != x:
                term = term * (needed - also) * pow(x - also, -1, prime) % prime
        value = (value + term) % prime
    completed = {x + 1: shares[x] for x in range(needed - 1)} | {needed: value.to_bytes(33, "big")}
    assert join(completed, needed) == other


@pytest.mark.parametrize("case", VECTOR["cases"])
def test_the_known_answers(case):
    shares = {int(x): bytes.fromhex(share) for x, share in case["shares"].items()}
    assert join(shares, case["needed"]).hex() == case["secret"]


@pytest.mark.parametrize("case", VECTOR["bad"], ids=lambda case: case["why"])
def test_shares_that_must_not_join(case):
    with pytest.raises(ProtocolError):
        join({int(x): bytes.fromhex(share) for x, share in case["shares"].items()}, case["needed"])


@pytest.mark.parametrize(("secret", "count", "needed"), [(31, 3, 2), (32, 3, 0), (32, 3, 4)])
def test_impossible_splits_are_refused(secret, count, needed):
    with pytest.raises(ParameterError):
        split(bytes(secret), count, needed, FixedRandomness("split"))


@pytest.mark.parametrize("parties", range(4, 20))
def test_no_collector_that_tells_each_party_something_else_gets_both_secrets(parties):
    # It has a share of either kind itself; every other party gives one.
    for told_active in range(parties):
        told_lost = parties - 1 - told_active
        assert min(1 + told_active, 1 + told_lost) < threshold(parties)


@pytest.mark.parametrize("parties", [1, 2, 3])
def test_too_few_parties_cannot_survive_a_loss(parties):
    with pytest.raises(ParameterError):
        threshold(parties)


def federation(parties, values):
    """Return each party's mask secrets, its hidden vector, and the shares by giver and receiver."""
    made = {party: RecoverableMask.create(FixedRandomness(party)) for party in parties}
    hidden, shares = {}, {}
    for party in parties:
        pairs = [
            (1 if party < peer else -1, made[party].seed_with(peer, made[peer].public, party, LABEL))
            for peer in parties
            if peer != party
        ]
        hidden[party] = masked(values[party], [*pairs, (1, made[party].self_seed)])
        shares[party] = made[party].shares(len(parties), FixedRandomness(f"shares {party}"))
    return made, hidden, shares


@given(st.integers(4, 7), st.data())
@few
def test_the_sum_of_the_active_survives_the_loss_of_the_others(count, data):
    parties = [f"bank-{number}" for number in range(count)]
    values = {party: np.arange(50) * (number + 1) for number, party in enumerate(parties)}
    made, hidden, shares = federation(parties, values)
    active = sorted(data.draw(st.permutations(parties))[: data.draw(st.integers(threshold(count), count))])
    lost = [party for party in parties if party not in active]
    verify_outcome(active, lost, parties)
    needed = threshold(count)
    corrections = []
    for owner in parties:
        kind = 0 if owner in lost else 1
        given_back = {parties.index(giver) + 1: shares[owner][parties.index(giver)][kind] for giver in active}
        secret = join(given_back, needed)
        if owner in lost:
            publics = {party: made[party].public for party in parties}
            corrections += missing_masks(owner, secret, publics, active, LABEL)
        else:
            corrections.append((-1, secret))
    total = masked(add_up([hidden[party] for party in active]), corrections)
    assert np.array_equal(total, sum(values[party] for party in active))


def test_a_late_vector_of_a_party_called_lost_stays_hidden():
    parties = [f"bank-{number}" for number in range(4)]
    values = {party: np.zeros(20_000, dtype=np.int64) for party in parties}
    made, hidden, _ = federation(parties, values)
    late = parties[3]
    others = [party for party in parties if party != late]
    publics = {party: made[party].public for party in parties}
    corrections = missing_masks(late, made[late]._private, publics, others, LABEL)
    uncovered = masked(hidden[late], [(-sign, seed) for sign, seed in corrections])
    mean = np.abs(uncovered.astype(np.float64)).mean() * 2.0**-63
    assert abs(mean - 0.5) < 6 * np.sqrt(1 / 12 / len(uncovered))  # false alarm 2e-9


@pytest.mark.parametrize(
    ("active", "lost", "cause"),
    [
        ("abcd", "d", "both active and lost"),
        ("abc", "", "every party once"),
        ("abc", "de", "every party once"),
        ("aabc", "d", "every party once"),
        ("ab", "cd", "at least 3"),
    ],
)
def test_what_a_collector_may_not_say(active, lost, cause):
    with pytest.raises(ProtocolError, match=cause):
        verify_outcome(list(active), list(lost), list("abcd"))


def test_the_key_of_another_party_is_noticed():
    made = {party: RecoverableMask.create(FixedRandomness(party)) for party in "abcd"}
    publics = {party: mask.public for party, mask in made.items()}
    with pytest.raises(ProtocolError, match="announced"):
        missing_masks("a", made["b"]._private, publics, ["c", "d"], LABEL)


def test_seeds_differ_by_pair_and_label_and_agree_within_a_pair():
    made = {party: RecoverableMask.create(FixedRandomness(party)) for party in "abc"}
    seen = {
        (pair, label): made[pair[0]].seed_with(pair[1], made[pair[1]].public, pair[0], label)
        for pair in combinations("abc", 2)
        for label in (b"1", b"2")
    }
    assert len(set(seen.values())) == len(seen)
    for first, second in combinations("abc", 2):
        there = made[second].seed_with(first, made[first].public, second, b"1")
        assert there == seen[(first, second), b"1"]


def test_a_key_of_small_order_is_refused():
    with pytest.raises(ProtocolError):
        pair_seed(FixedRandomness("x")(32), bytes(32), ("a", "b"), LABEL)


@pytest.mark.parametrize("duplicate", [copy.copy, pickle.dumps])
def test_secrets_are_not_copied_or_shown(duplicate):
    mask = RecoverableMask.create(FixedRandomness("one"))
    with pytest.raises(ParameterError):
        duplicate(mask)
    assert mask._private.hex() not in repr(mask)
    assert repr(mask._private) not in repr(mask)
