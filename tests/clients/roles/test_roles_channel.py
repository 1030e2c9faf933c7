"""A message is opened as what it was sent as, or not at all."""

from __future__ import annotations

import dataclasses

import pytest
from roles_sessions import Pipe, sessions

from fedshare.errors import ProtocolError, UnavailableError
from fedshare.identity.envelope import CHUNK_BYTES
from fedshare.wire.v1 import payload_pb2 as payload
from fedshare_clients.node.channel import Channel


@pytest.fixture
def ends() -> tuple[Channel, Channel, Pipe]:
    made, pipe = sessions("bank", "tax"), Pipe()
    return Channel(made["bank"], pipe, "align", 1.0), Channel(made["tax"], pipe, "align", 1.0), pipe


Ends = tuple[Channel, Channel, Pipe]


def test_a_message_arrives_as_it_was_sent(ends: Ends) -> None:
    bank, tax, _ = ends
    bank.send("tax", payload.BlindedIdentifiers(elements=b"elements"))
    bank.send("tax", payload.BlindedIdentifiers(elements=b"more"), 1)
    assert tax.receive("bank", payload.BlindedIdentifiers).elements == b"elements"
    assert tax.receive("bank", payload.BlindedIdentifiers, 1).elements == b"more"


@pytest.mark.parametrize("size", [0, CHUNK_BYTES - 6, CHUNK_BYTES, 3 * CHUNK_BYTES + 1])
def test_a_message_of_any_size_arrives_whole(size: int, ends: Ends) -> None:
    bank, tax, pipe = ends
    tax.send("bank", payload.RowTags(tags=bytes(size)))
    assert len(pipe.envelopes) == max(1, -(-(size + 5) // CHUNK_BYTES))
    assert bank.receive("tax", payload.RowTags).tags == bytes(size)


def test_another_type_is_refused(ends: Ends) -> None:
    bank, tax, _ = ends
    tax.send("bank", payload.RowTags(tags=b"t"))
    with pytest.raises(ProtocolError, match="another step"):
        bank.receive("tax", payload.EvaluatedIdentifiers)


def test_another_index_is_refused(ends: Ends) -> None:
    bank, tax, _ = ends
    tax.send("bank", payload.SecretAnswer(answer=b"a"), 2)
    with pytest.raises(ProtocolError, match="another step"):
        bank.receive("tax", payload.SecretAnswer, 1)


def test_a_message_of_another_phase_is_refused(ends: Ends) -> None:
    bank, tax, pipe = ends
    later = Channel(bank.session, pipe, "prepare", 1.0)
    tax.send("bank", payload.RowTags(tags=b"t"))
    with pytest.raises(ProtocolError, match="another step"):
        later.receive("tax", payload.RowTags)


def test_bytes_that_are_no_message_are_refused(ends: Ends) -> None:
    bank, tax, pipe = ends
    pipe.envelopes.extend(tax.session.seal("bank", "align", "RowTags/0", b"\xff" * 9))
    with pytest.raises(ProtocolError, match="RowTags of tax does not parse"):
        bank.receive("tax", payload.RowTags)


def test_a_message_cut_short_is_refused(ends: Ends) -> None:
    bank, tax, pipe = ends
    tax.send("bank", payload.RowTags(tags=bytes(2 * CHUNK_BYTES)))
    pipe.envelopes[0] = dataclasses.replace(pipe.envelopes[0], last=True)
    with pytest.raises(ProtocolError, match="does not authenticate"):
        bank.receive("tax", payload.RowTags)


def test_an_end_that_never_comes_is_unavailable(ends: Ends) -> None:
    bank, tax, pipe = ends
    tax.send("bank", payload.RowTags(tags=bytes(2 * CHUNK_BYTES)))
    pipe.envelopes.pop()
    with pytest.raises(UnavailableError):
        bank.receive("tax", payload.RowTags)


def test_a_reflected_message_is_refused(ends: Ends) -> None:
    bank, _, pipe = ends
    bank.send("tax", payload.RowTags(tags=b"t"))
    sent = pipe.envelopes.popleft()
    pipe.envelopes.append(dataclasses.replace(sent, sender="tax", recipient="bank"))
    with pytest.raises(ProtocolError, match="does not authenticate"):
        bank.receive("tax", payload.RowTags)


def test_both_ends_count_the_same_envelopes_chunk_by_chunk(ends: Ends) -> None:
    bank, tax, _ = ends
    tax.send("bank", payload.RowTags(tags=bytes(3 * CHUNK_BYTES)))
    tax.send("bank", payload.RowTags(tags=b"more"), 1)
    bank.receive("tax", payload.RowTags)
    bank.receive("tax", payload.RowTags, 1)
    (sent,), (received,) = tax.tally.totals(), bank.tally.totals()
    assert (sent.step, sent.peer, sent.direction, sent.count) == ("row_tags", "bank", "sent", 5)
    assert (received.peer, received.direction) == ("tax", "received")
    assert (sent.count, sent.size_bytes, sent.digest) == (
        received.count,
        received.size_bytes,
        received.digest,
    )


def test_an_envelope_that_was_altered_on_the_way_is_counted_as_it_came(ends: Ends) -> None:
    bank, tax, pipe = ends
    tax.send("bank", payload.RowTags(tags=b"t"))
    altered = bytes([pipe.envelopes[0].ciphertext[0] ^ 1]) + pipe.envelopes[0].ciphertext[1:]
    pipe.envelopes[0] = dataclasses.replace(pipe.envelopes[0], ciphertext=altered)
    with pytest.raises(ProtocolError):
        bank.receive("tax", payload.RowTags)
    assert bank.tally.totals()[0].count == tax.tally.totals()[0].count
    assert bank.tally.totals()[0].digest != tax.tally.totals()[0].digest
