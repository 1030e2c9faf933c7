import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sealed_oracles import FixedRandomness

from fedshare.errors import ParameterError, ProtocolError
from fedshare.sealed.oblivious_transfer import ReceiverSetup, SenderSetup, columns_bytes

VECTOR = json.loads(
    (Path(__file__).parents[2] / "vectors/sealed/oblivious_transfer.json").read_text(encoding="utf-8")
)
WORD = st.integers(-(2**63), 2**63 - 1)


def pair(bits, receiver="receiver", sender="sender"):
    """Run the preparation; return both parties."""
    offer, choosing = ReceiverSetup.create(FixedRandomness(receiver))
    points, accepting = SenderSetup.create(offer, FixedRandomness(sender))
    columns, mine = choosing.choose(points, np.array(bits, dtype=np.bool_))
    return mine, accepting.accept(columns, len(bits))


@given(st.lists(st.tuples(st.booleans(), WORD), min_size=1, max_size=40))
@settings(max_examples=15, deadline=None)
def test_the_shares_add_up_to_minus_the_product(rows):
    bits, values = np.array([bit for bit, _ in rows]), np.array([value for _, value in rows], dtype=np.int64)
    receiver, sender = pair(bits)
    for label in (b"one", b"two"):
        message, mine = sender.drop(values, label)
        assert np.array_equal(mine + receiver.drop(message, label), -np.where(bits, values, 0))


def test_the_known_answers_hold():
    bits, values = np.array(VECTOR["bits"]), np.array(VECTOR["values"], dtype=np.int64)
    offer, choosing = ReceiverSetup.create(FixedRandomness("receiver"))
    points, accepting = SenderSetup.create(offer, FixedRandomness("sender"))
    columns, receiver = choosing.choose(points, bits)
    sender = accepting.accept(columns, len(bits))
    assert offer.hex() == VECTOR["offer"]
    assert hashlib.sha256(points).hexdigest() == VECTOR["points"]
    assert hashlib.sha256(columns).hexdigest() == VECTOR["columns"]
    for product in VECTOR["products"]:
        message, mine = sender.drop(values, product["label"].encode())
        assert message.tolist() == product["message"]
        assert mine.tolist() == product["sender"]
        assert receiver.drop(message, product["label"].encode()).tolist() == product["receiver"]


def test_rows_beyond_one_chunk_have_keys_of_their_own():
    rows = 2**15 + 11
    bits = np.random.default_rng(1).random(rows) < 0.5
    values = np.arange(rows, dtype=np.int64) + 1
    receiver, sender = pair(bits)
    message, mine = sender.drop(values, b"label")
    assert np.array_equal(mine + receiver.drop(message, b"label"), -np.where(bits, values, 0))
    assert len(np.unique(mine)) == rows


def test_what_the_receiver_is_sent_says_nothing_where_it_has_no_bit():
    bits = np.arange(4096) % 2 == 0
    receiver, sender = pair(bits)
    message, mine = sender.drop(np.full(len(bits), 7, dtype=np.int64), b"label")
    share = receiver.drop(message, b"label")
    # What it can compute without the bit, the sender's mask, leaves the message uniform, though every value is the same.
    assert np.array_equal(share[~bits], -mine[~bits])
    rest = (message + share)[~bits]
    assert len(np.unique(rest)) == 2048
    assert np.abs(np.mean(np.unpackbits(rest.view(np.uint8))) - 0.5) < 0.01  # 7 deviations of 131,072 bits


def test_the_senders_view_is_the_same_for_all_bits_and_for_none():
    def columns(bits):
        offer, choosing = ReceiverSetup.create(FixedRandomness("receiver"))
        points, _ = SenderSetup.create(offer, FixedRandomness("sender"))
        return np.frombuffer(choosing.choose(points, bits)[0], dtype=np.uint8)

    ones, zeros = columns(np.ones(4096, dtype=np.bool_)), columns(np.zeros(4096, dtype=np.bool_))
    for each in (ones, zeros):
        assert np.abs(np.mean(np.unpackbits(each)) - 0.5) < 0.005  # 7 deviations of 524,288 bits
    assert np.all((ones ^ zeros) == 255)  # under the same pads, of which the sender knows one per column only


def test_a_label_is_used_once_at_either_party():
    receiver, sender = pair([True, False])
    values = np.array([1, 2], dtype=np.int64)
    message, _ = sender.drop(values, b"label")
    receiver.drop(message, b"label")
    for party, words in ((sender, values), (receiver, message)):
        with pytest.raises(ParameterError, match="not used before"):
            party.drop(words, b"label")
        with pytest.raises(ParameterError, match="not used before"):
            party.drop(words, b"")


def test_groups_of_rows_are_the_rows_they_were():
    bits = np.array([True, False, True, True, False])
    values = np.array([5, 6, 7, 8, 9], dtype=np.int64)
    receiver, sender = pair(bits)
    found = []
    for mine, yours, part in zip(
        receiver.split([2, 0, 3]), sender.split([2, 0, 3]), (values[:2], values[:0], values[2:]), strict=True
    ):
        message, share = yours.drop(part, b"label")
        found.append(share + mine.drop(message, b"label"))
    assert np.concatenate(found).tolist() == [-5, 0, -7, -8, 0]
    for party in (receiver, sender):
        with pytest.raises(ParameterError, match="add up to 5 rows"):
            party.split([2, 2])


def test_a_preparation_serves_once():
    offer, choosing = ReceiverSetup.create(FixedRandomness("receiver"))
    points, accepting = SenderSetup.create(offer, FixedRandomness("sender"))
    bits = np.array([True])
    columns, _ = choosing.choose(points, bits)
    accepting.accept(columns, 1)
    with pytest.raises(ParameterError, match="used before"):
        choosing.choose(points, bits)
    with pytest.raises(ParameterError, match="used before"):
        accepting.accept(columns, 1)


def test_messages_of_another_size_are_refused():
    offer, choosing = ReceiverSetup.create(FixedRandomness("receiver"))
    with pytest.raises(ProtocolError, match="one element"):
        SenderSetup.create(offer + offer, FixedRandomness("sender"))
    points, accepting = SenderSetup.create(offer, FixedRandomness("sender"))
    with pytest.raises(ProtocolError, match="128 elements"):
        choosing.choose(points[:-32], np.array([True]))
    with pytest.raises(ParameterError, match="shape"):
        choosing.choose(points, np.array([1]))
    columns, receiver = choosing.choose(points, np.array([True] * 9))
    assert len(columns) == columns_bytes(9) == 256
    with pytest.raises(ProtocolError, match="for 17 rows"):
        accepting.accept(columns, 17)
    sender = accepting.accept(columns, 9)
    with pytest.raises(ParameterError, match="shape"):
        sender.drop(np.zeros(8, dtype=np.int64), b"label")
    with pytest.raises(ProtocolError, match="9 words"):
        receiver.drop(np.zeros(8, dtype=np.int64), b"label")


def test_an_element_that_is_none_is_refused():
    offer, choosing = ReceiverSetup.create(FixedRandomness("receiver"))
    with pytest.raises(ProtocolError, match="canonical"):
        SenderSetup.create(bytes(32), FixedRandomness("sender"))
    points, _ = SenderSetup.create(offer, FixedRandomness("sender"))
    with pytest.raises(ProtocolError, match="canonical"):
        choosing.choose(bytes(32) + points[32:], np.array([True]))


def test_no_secret_stands_in_a_repr():
    receiver, sender = pair([True, False])
    assert (repr(receiver), repr(sender)) == ("Receiver(rows=2)", "Sender(rows=2)")
