import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sealed_oracles import FixedRandomness

from fedshare.errors import ParameterError, ProtocolError
from fedshare.sealed import OprfKey, blind, derive, evaluate, finalize, oblivious

VECTORS = Path(__file__).parents[2] / "vectors/sealed"
RFC = json.loads((VECTORS / "rfc9497_ristretto255_sha512_oprf.json").read_text())
BAD = json.loads((VECTORS / "ristretto255_bad_elements.json").read_text())["elements"]
KEY = OprfKey.generate(FixedRandomness("key"))


def test_the_published_key_derivation_is_reproduced():
    key = OprfKey.from_seed(bytes.fromhex(RFC["seed"]), bytes.fromhex(RFC["key_info"]))
    assert key.to_bytes().hex() == RFC["secret_key"]


@pytest.mark.parametrize("vector", RFC["vectors"], ids=lambda vector: vector["input"])
def test_the_published_vectors_are_reproduced(vector):
    key = OprfKey.from_bytes(bytes.fromhex(RFC["secret_key"]))
    identifier = bytes.fromhex(vector["input"])
    scalar = bytes.fromhex(vector["blind"])
    blinds, blinded = blind([identifier], lambda size: scalar.ljust(size, b"\0"))
    assert blinded.hex() == vector["blinded_element"]
    evaluated = evaluate(key, blinded)
    assert evaluated.hex() == vector["evaluation_element"]
    for keys in (finalize(blinds, evaluated), derive(key, [identifier])):
        assert keys.pad_keys.tobytes().hex() == vector["output"][:32]
        assert keys.tags.tobytes().hex() == vector["output"][32:64]


@given(st.lists(st.binary(max_size=40), max_size=6))
@settings(max_examples=20, deadline=None)
def test_the_bank_obtains_what_the_holder_derives(identifiers):
    blinds, blinded = blind(identifiers, FixedRandomness())
    keys = finalize(blinds, evaluate(KEY, blinded))
    own = derive(KEY, identifiers)
    assert np.array_equal(keys.pad_keys, own.pad_keys)
    assert np.array_equal(keys.tags, own.tags)
    assert len(keys) == len(identifiers)


def test_threads_give_the_same_keys_in_the_same_order():
    identifiers = [b"%d" % row for row in range(600)]
    assert np.array_equal(derive(KEY, identifiers, workers=2).tags, derive(KEY, identifiers).tags)


def test_the_same_identifiers_are_blinded_differently_every_time():
    randomness = FixedRandomness()
    _, first = blind([b"a", b"a"], randomness)
    _, second = blind([b"a", b"a"], randomness)
    assert len({first[:32], first[32:], second[:32], second[32:]}) == 4


def test_another_key_gives_other_row_keys():
    other = OprfKey.generate(FixedRandomness("other"))
    assert not np.array_equal(derive(KEY, [b"a"]).pad_keys, derive(other, [b"a"]).pad_keys)


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad["encoding"][:8] + " " + bad["why"])
def test_an_invalid_element_is_refused(bad):
    element = bytes.fromhex(bad["encoding"])
    with pytest.raises(ProtocolError, match="canonical"):
        evaluate(KEY, element)
    blinds, _ = blind([b"a"], FixedRandomness())
    with pytest.raises(ProtocolError, match="canonical"):
        finalize(blinds, element)


@given(st.binary(min_size=1, max_size=64))
@settings(max_examples=100, deadline=None)
def test_arbitrary_bytes_are_evaluated_or_refused(noise):
    with contextlib.suppress(ProtocolError):
        assert len(evaluate(KEY, noise)) == len(noise)


def test_truncated_elements_are_refused():
    _, blinded = blind([b"a", b"b"], FixedRandomness())
    with pytest.raises(ProtocolError, match="multiple of 32"):
        evaluate(KEY, blinded[:-1])


def test_a_missing_element_is_refused():
    blinds, blinded = blind([b"a", b"b"], FixedRandomness())
    with pytest.raises(ProtocolError, match="expected 2 evaluated elements, got 1"):
        finalize(blinds, evaluate(KEY, blinded)[:32])


@pytest.mark.parametrize("encoded", [bytes(32), b"\xff" * 32, bytes([1]) * 31])
def test_a_scalar_out_of_range_is_refused(encoded):
    with pytest.raises(ParameterError, match="group order"):
        OprfKey.from_bytes(encoded)


def test_a_key_survives_its_encoding():
    assert OprfKey.from_bytes(KEY.to_bytes()) == KEY


def test_an_identifier_too_long_is_refused():
    with pytest.raises(ParameterError, match="65535"):
        blind([bytes(65_536)], FixedRandomness())


@pytest.mark.parametrize("source", [bytes, lambda size: bytes(size - 1)], ids=["zeros", "short"])
def test_a_broken_random_source_is_refused(source):
    with pytest.raises(ParameterError):
        blind([b"a"], source)


def test_secrets_are_hidden():
    blinds, blinded = blind([b"name"], FixedRandomness())
    keys = finalize(blinds, evaluate(KEY, blinded))
    assert repr(KEY) == "OprfKey()"
    assert repr(blinds) == "Blinds()"
    assert repr(keys) == "RowKeys()"


def test_inverses_are_inverses():
    scalars = [3, 5, oblivious._ORDER - 1]
    inverses = oblivious._inverses(scalars)
    assert [a * b % oblivious._ORDER for a, b in zip(scalars, inverses, strict=True)] == [1, 1, 1]
