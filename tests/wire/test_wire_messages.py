"""The committed messages: generated from protos/, and mapped to domain types without loss."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedshare.errors import ProtocolError
from fedshare.identity.envelope import CHUNK_BYTES, Envelope
from fedshare.wire.v1 import contracts_pb2, enrolment_pb2, envelope_pb2, exchange_pb2, payload_pb2

ROOT = Path(__file__).parents[2]
WORDS = st.text("abcdefghijklmnopqrstuvwxyz0123456789-/", min_size=1, max_size=64)
PARTIES = st.from_regex(r"[a-z][a-z0-9-]{0,31}", fullmatch=True)
ENVELOPES = st.builds(
    Envelope,
    run_id=st.integers(0, 2**64 - 1),
    phase=WORDS,
    step=WORDS,
    sender=PARTIES,
    recipient=PARTIES,
    sequence=st.integers(0, 2**64 - 1),
    last=st.booleans(),
    ciphertext=st.binary(min_size=16, max_size=200),
)


@given(ENVELOPES)
def test_an_envelope_comes_back_from_the_wire_as_it_was(envelope):
    parsed = envelope_pb2.Envelope.FromString(envelope.to_wire().SerializeToString())

    assert Envelope.from_wire(parsed) == envelope


@pytest.mark.parametrize("field", ["phase", "step", "sender", "recipient"])
def test_an_envelope_without_a_word_is_refused(field):
    message = envelope_pb2.Envelope(phase="a", step="b", sender="c", recipient="d", ciphertext=bytes(16))
    message.ClearField(field)

    with pytest.raises(ProtocolError, match=field):
        Envelope.from_wire(message)


@pytest.mark.parametrize("size", [0, 15, CHUNK_BYTES + 17])
def test_a_ciphertext_of_impossible_length_is_refused(size):
    message = envelope_pb2.Envelope(phase="a", step="b", sender="c", recipient="d", ciphertext=bytes(size))

    with pytest.raises(ProtocolError, match="bytes of ciphertext"):
        Envelope.from_wire(message)


def test_the_generated_code_is_what_the_protos_give():
    environment = {"PATH": f"{Path(sys.executable).parent}:{Path(shutil.which('bash')).parent}:/usr/bin:/bin"}
    done = subprocess.run(
        [ROOT / "scripts" / "protoc", "--check"], capture_output=True, text=True, check=False, env=environment
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", [contracts_pb2, enrolment_pb2, envelope_pb2, exchange_pb2, payload_pb2])
def test_the_documentation_names_every_method_and_service(module):
    text = (ROOT / "docs" / "wire.md").read_text()
    for service in module.DESCRIPTOR.services_by_name.values():
        assert service.name in text
        for method in service.methods:
            assert method.name in text


def test_the_documentation_names_every_frame():
    text = (ROOT / "docs" / "wire.md").read_text()
    for message in (exchange_pb2.ConnectRequest, exchange_pb2.ConnectResponse):
        for field in message.DESCRIPTOR.oneofs_by_name["frame"].fields:
            assert f"`{field.name}`" in text


def test_only_envelopes_carry_a_payload_across_the_exchange():
    carriers = {
        (message.name, field.name)
        for message in exchange_pb2.DESCRIPTOR.message_types_by_name.values()
        for field in message.fields
        if field.type == field.TYPE_BYTES
    }

    assert carriers == {("Open", "instance")}
