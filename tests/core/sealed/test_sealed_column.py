import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sealed_oracles import FixedRandomness, pad, wrap

from fedshare.errors import ParameterError
from fedshare.sealed import Sealer, Stream, open_sum, pair_row_keys, seal

VECTOR = json.loads((Path(__file__).parents[2] / "vectors/sealed/column.json").read_text())
few = settings(max_examples=30, deadline=None)
words = st.integers(-(2**63), 2**63 - 1)


def keys(name, rows):
    return np.frombuffer(FixedRandomness(name)(16 * rows), dtype=np.uint8).reshape(rows, 16)


def federation(columns):
    """Seal one column per holder with pairwise masks; return sealed columns and pad keys."""
    holders, rows = len(columns), len(columns[0])
    identifiers = [b"%d" % row for row in range(rows)]
    pads = [keys(f"holder {k}", rows) for k in range(holders)]
    sealed = []
    for k in range(holders):
        masks = [
            (1 if k < j else -1, pair_row_keys(bytes([min(j, k), max(j, k)]) * 16, identifiers))
            for j in range(holders)
            if j != k
        ]
        sealed.append(seal(columns[k], pads[k], masks, b"label"))
    return sealed, pads


@given(st.integers(1, 4), st.lists(words, min_size=1, max_size=20))
@few
def test_opening_gives_the_sum_over_holders(holders, values):
    columns = [np.roll(np.array(values, dtype=np.int64), k) for k in range(holders)]
    sealed, pads = federation(columns)
    assert np.array_equal(open_sum(sealed, pads, b"label"), sum(columns))


def test_pads_follow_the_formula_row_by_row():
    rows = 40_000  # more than one chunk
    row_keys = keys("pads", rows)
    sealed = seal(np.zeros(rows, dtype=np.int64), row_keys, [], b"a label")
    for row in (0, 1, 32_767, 32_768, rows - 1):
        assert sealed[row] == pad(row_keys[row].tobytes(), b"a label")


def test_masks_are_pads_with_a_sign():
    row_keys, pair = keys("pads", 3), keys("pair", 3)
    values = np.array([5, -7, 2**62], dtype=np.int64)
    sealed = seal(values, row_keys, [(-1, pair)], b"l")
    for row in range(3):
        expected = int(values[row]) + pad(row_keys[row].tobytes(), b"l") - pad(pair[row].tobytes(), b"l")
        assert sealed[row] == wrap(expected)


def test_the_known_answer_is_reproduced():
    pad_keys = np.frombuffer(bytes.fromhex(VECTOR["pad_keys"]), dtype=np.uint8).reshape(-1, 16)
    identifiers = [name.encode() for name in VECTOR["identifiers"]]
    pair_keys = pair_row_keys(bytes.fromhex(VECTOR["pair_secret"]), identifiers)
    assert pair_keys.tobytes().hex() == VECTOR["pair_row_keys"]
    values = np.array(VECTOR["values"], dtype=np.int64)
    sealed = seal(values, pad_keys, [(VECTOR["sign"], pair_keys)], VECTOR["label"].encode())
    assert sealed.tolist() == VECTOR["sealed"]


def test_one_holder_alone_does_not_open():
    columns = [np.arange(100, dtype=np.int64), np.arange(100, dtype=np.int64)]
    sealed, pads = federation(columns)
    assert not (open_sum(sealed[:1], pads[:1], b"label") == columns[0]).any()


def test_another_label_does_not_open():
    columns = [np.arange(100, dtype=np.int64)]
    sealed, pads = federation(columns)
    assert not (open_sum(sealed, pads, b"other") == columns[0]).any()


def test_a_sealed_column_of_zeros_looks_uniform():
    # 64 * 10^5 bits; a limit of 6 standard deviations: false alarm below 2 * 10^-9.
    sealed = seal(np.zeros(100_000, dtype=np.int64), keys("bits", 100_000), [], b"label")
    weight = int(np.bitwise_count(sealed.view(np.uint64)).sum())
    assert abs(weight - 3_200_000) < 6 * np.sqrt(6_400_000 / 4)


def test_a_sealer_refuses_a_label_twice():
    sealer = Sealer(keys("k", 2), [])
    values = np.zeros(2, dtype=np.int64)
    sealer.seal(values, b"one")
    sealer.seal(values, b"two")
    with pytest.raises(ParameterError, match="used before"):
        sealer.seal(values, b"one")


def test_a_sealer_shows_no_key():
    assert repr(Sealer(keys("k", 2), [])) == "Sealer(rows=2, peers=0, sealed=0)"


@pytest.mark.parametrize(
    ("values", "row_keys", "masks", "label"),
    [
        (np.zeros(2), keys("k", 2), [], b"l"),
        (np.zeros((2, 1), dtype=np.int64), keys("k", 2), [], b"l"),
        (np.zeros(2, dtype=np.int64), keys("k", 3), [], b"l"),
        (np.zeros(2, dtype=np.int64), keys("k", 2).astype(np.int8), [], b"l"),
        (np.zeros(2, dtype=np.int64), keys("k", 2), [(2, keys("p", 2))], b"l"),
        (np.zeros(2, dtype=np.int64), keys("k", 2), [(1, keys("p", 1))], b"l"),
        (np.zeros(2, dtype=np.int64), keys("k", 2), [], b""),
    ],
    ids=["floats", "matrix", "rows of keys", "type of keys", "sign", "rows of a pair", "empty label"],
)
def test_wrong_arguments_of_seal_are_refused(values, row_keys, masks, label):
    with pytest.raises(ParameterError, match="expected"):
        seal(values, row_keys, masks, label)


def test_opening_with_too_few_keys_is_refused():
    with pytest.raises(ParameterError, match="got 0"):
        open_sum([np.zeros(1, dtype=np.int64)], [], b"l")


def test_opening_columns_of_different_lengths_is_refused():
    columns = [np.zeros(2, dtype=np.int64), np.zeros(3, dtype=np.int64)]
    with pytest.raises(ParameterError, match="2 rows each, got 3"):
        open_sum(columns, [keys("k", 2), keys("k", 3)], b"l")


def test_a_short_pair_secret_is_refused():
    with pytest.raises(ParameterError, match="32 bytes"):
        pair_row_keys(Stream(bytes(32)).read(31), [b"id"])
