import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sealed_oracles import FixedRandomness

from fedshare.errors import ProtocolError
from fedshare.sealed import OprfKey
from fedshare.sealed.intersection import count_common, find_common, raised, raised_again, raised_in_order
from fedshare.sealed.oblivious import evaluate, hash_to_group


def keys():
    return OprfKey.generate(FixedRandomness("first")), OprfKey.generate(FixedRandomness("second"))


def shared(mine, yours):
    """Run the whole protocol; return the count."""
    first, second = keys()
    sent = raised(first, mine, FixedRandomness("a"))
    back = raised_again(second, sent, FixedRandomness("b"))
    own = raised(second, yours, FixedRandomness("c"))
    return count_common(back, raised_again(first, own, FixedRandomness("d")))


@given(st.sets(st.binary(max_size=4), max_size=20), st.sets(st.binary(max_size=4), max_size=20))
@settings(max_examples=5, deadline=None)
def test_the_count_is_that_of_the_intersection(mine, yours):
    assert shared(sorted(mine), sorted(yours)) == len(mine & yours)


def test_lists_are_filled_up_to_a_power_of_two_with_elements_that_nobody_shares():
    assert len(raised(keys()[0], [b"a"], FixedRandomness("a"))) == 32 * 1024
    many = [b"%d" % number for number in range(1025)]
    assert len(raised(keys()[0], many, FixedRandomness("a"))) == 32 * 2048
    assert shared([], []) == 0


def test_the_order_of_the_elements_is_random():
    names = [b"%d" % number for number in range(1024)]
    key, _ = keys()
    straight = evaluate(
        key, b"".join(hash_to_group(b"fedshare shared customers v1|" + name) for name in names)
    )
    sent = raised(key, names, FixedRandomness("a"))
    blocks = [straight[start : start + 32] for start in range(0, len(straight), 32)]
    shuffled = [sent[start : start + 32] for start in range(0, len(sent), 32)]
    assert sorted(blocks) == sorted(shuffled)
    # Fixed points of a random permutation: more than 12 with probability below 1e-9.
    assert sum(one == two for one, two in zip(blocks, shuffled, strict=True)) <= 12


def test_another_run_shows_other_elements_for_the_same_customers():
    names = [b"%d" % number for number in range(1024)]
    first, second = keys()
    one, two = (raised(key, names, FixedRandomness("a")) for key in (first, second))
    assert count_common(one, two) == 0


@pytest.mark.parametrize("size", [0, 31, 32, 32 * 1023, 32 * 1536])
def test_lists_of_other_lengths_are_refused(size):
    with pytest.raises(ProtocolError, match="power of two"):
        raised_again(keys()[0], bytes(size), FixedRandomness("a"))


def test_an_element_that_is_there_twice_is_refused():
    sent = raised(keys()[0], [b"a"], FixedRandomness("a"))
    with pytest.raises(ProtocolError, match="twice"):
        raised_again(keys()[1], sent[:32] + sent[:32] + sent[64:], FixedRandomness("b"))


def test_an_element_that_is_none_is_refused():
    sent = raised(keys()[0], [b"a"], FixedRandomness("a"))
    with pytest.raises(ProtocolError, match="canonical"):
        raised_again(keys()[1], bytes(32) + sent[32:], FixedRandomness("b"))


@given(st.sets(st.binary(max_size=4), max_size=20), st.sets(st.binary(max_size=4), max_size=20))
@settings(max_examples=5, deadline=None)
def test_the_places_in_the_peers_order_that_are_common_are_found(mine, yours):
    first, second = keys()
    order = sorted(yours, reverse=True)
    again = raised_again(second, raised(first, sorted(mine), FixedRandomness("a")), FixedRandomness("b"))
    found = find_common(first, raised_in_order(second, order), again)
    assert found.tolist() == [each in mine for each in order]
