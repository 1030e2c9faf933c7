"""The mailboxes without gRPC: a clock that stands still and a seat for every party."""

from __future__ import annotations

import itertools

import pytest
from exchange_world import PARTIES, RUN, envelope
from hypothesis import given, settings
from hypothesis import strategies as st

from fedshare.errors import ProtocolError, RefusedError, RunFailedError
from fedshare.wire.v1.exchange_pb2 import Ack, Open
from fedshare_server.exchange import Exchange


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def exchange(clock=None, **settings):
    return Exchange(
        lambda run_id: frozenset(PARTIES) if run_id == RUN else frozenset(), clock or Clock(), **settings
    )


def connect(found, party, **fields):
    return found.connect(party, Open(run_id=RUN, instance=party.encode().ljust(16), **fields))


def envelopes_of(connection, count):
    """The next ``count`` envelopes that a connection is told."""
    told = (frame for frame in connection.frames() if frame.HasField("envelope"))
    return [frame.envelope for frame in itertools.islice(told, count)]


def test_what_is_not_acknowledged_is_delivered_again_after_a_reconnection():
    found = exchange()
    bank = connect(found, "bank")
    for sequence in range(4):
        bank.accept(envelope(sequence))
    first = connect(found, "tax")
    assert [item.sequence for item in envelopes_of(first, 4)] == [0, 1, 2, 3]
    first.acknowledge(Ack(peer="bank", next_sequence=1))

    again = connect(found, "tax", received={"bank": 2})
    assert [item.sequence for item in envelopes_of(again, 2)] == [2, 3]


def test_an_envelope_sent_again_is_stored_once():
    seen = []
    found = exchange(tap=seen.append)
    bank = connect(found, "bank")
    bank.accept(envelope(0))
    bank.accept(envelope(0))

    assert len(seen) == 1
    assert found.traffic(RUN)["bank"].sent_envelopes == 1


def test_a_gap_is_refused():
    with pytest.raises(ProtocolError, match="expected envelope 0 of bank to tax, found 2"):
        connect(exchange(), "bank").accept(envelope(2))


def test_a_sender_that_ignores_its_window_is_refused_and_memory_stays_bounded():
    found = exchange(window_bytes=10_000)
    bank = connect(found, "bank")
    bank.accept(envelope(0, size=5_000))

    with pytest.raises(ProtocolError, match="more than the window of 10000 bytes"):
        bank.accept(envelope(1, size=5_000))
    assert found.held_bytes(RUN) <= 10_000


def test_acknowledged_envelopes_are_forgotten():
    found = exchange()
    connect(found, "bank").accept(envelope(0))
    connect(found, "tax").acknowledge(Ack(peer="bank", next_sequence=1))

    assert found.held_bytes(RUN) == 0


def test_acknowledging_what_was_never_sent_is_refused():
    with pytest.raises(ProtocolError, match="only those below 0 exist"):
        connect(exchange(), "tax").acknowledge(Ack(peer="bank", next_sequence=1))


def test_an_envelope_of_another_run_is_refused():
    with pytest.raises(ProtocolError, match="expected an envelope of run 7"):
        connect(exchange(), "bank").accept(envelope(0, run_id=8))


def test_an_envelope_longer_than_a_chunk_is_refused():
    with pytest.raises(ProtocolError, match="at most 1048592 bytes"):
        connect(exchange(), "bank").accept(envelope(0, size=2**20 + 9))


@pytest.mark.parametrize("recipient", ["bank", "stranger", ""])
def test_a_recipient_must_be_another_party_of_the_run(recipient):
    with pytest.raises(RefusedError, match="unknown_recipient"):
        connect(exchange(), "bank").accept(envelope(0, recipient=recipient))


def test_a_run_that_nobody_opened_is_refused():
    with pytest.raises(RefusedError, match="unknown_run"):
        exchange().connect("bank", Open(run_id=8, instance=bytes(16)))


def test_a_party_back_within_the_grace_period_is_not_lost():
    clock = Clock()
    found = exchange(clock, grace_seconds=30.0)
    connect(found, "bank").lost()
    clock.now = 29.0
    found.expire()
    connect(found, "bank")
    clock.now = 100.0
    found.expire()

    assert connect(found, "tax")


def test_the_first_reason_of_an_aborted_run_stays():
    told = []
    found = exchange(on_abort=lambda run_id, reason: told.append((run_id, reason)))
    connect(found, "bank")
    found.abort(RUN, "first")
    found.abort(RUN, "second")

    assert told == [(RUN, "first")]
    with pytest.raises(RunFailedError, match="first"):
        connect(found, "tax")


def test_an_aborted_run_keeps_no_envelope():
    found = exchange()
    connect(found, "bank").accept(envelope(0))
    found.abort(RUN, "over")

    assert found.held_bytes(RUN) == 0


def test_the_end_of_an_older_stream_does_not_count_as_loss():
    clock = Clock()
    found = exchange(clock, grace_seconds=0.0)
    old = connect(found, "bank")
    connect(found, "bank")
    old.lost()
    clock.now = 100.0
    found.expire()

    assert connect(found, "tax")


def test_a_run_is_forgotten_only_when_nobody_is_connected():
    found = exchange()
    bank = connect(found, "bank")

    assert not found.forget(RUN)
    bank.lost()
    assert found.forget(RUN)
    assert found.run_ids() == []


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(["send", "take", "cut bank", "cut tax", "restart"]), max_size=40))
def test_any_mixture_of_cuts_and_restarts_delivers_everything_once_in_order(steps):
    found, sent, taken, arrived = exchange(), 0, 0, []
    bank, tax = connect(found, "bank"), connect(found, "tax")
    for step in [*steps, *["take"] * 40]:
        if step == "send":
            bank.accept(envelope(sent))
            sent += 1
        elif step == "take" and taken < sent:
            tax = connect(found, "tax", received={"bank": taken})
            (item,) = envelopes_of(tax, 1)
            arrived.append(item.sequence)
            taken += 1
            tax.acknowledge(Ack(peer="bank", next_sequence=taken))
        elif step in {"cut bank", "restart"}:
            found = exchange() if step == "restart" else found
            bank = connect(found, "bank", retained={"tax": taken})
            for sequence in range(taken, sent):  # what a client keeps, and so sends again
                bank.accept(envelope(sequence))
        elif step == "cut tax":
            tax = connect(found, "tax", received={"bank": taken})

    assert arrived == list(range(sent))
