"""The Exchange with real servers and clients on loopback."""

from __future__ import annotations

import threading
import time

import grpc
import pytest
from exchange_world import RUN, Certificates, World, envelope, free_port

from fedshare.errors import PartyLostError, ProtocolError, RefusedError, RunFailedError, UnavailableError
from fedshare.wire.v1 import exchange_pb2 as wire
from fedshare.wire.v1.exchange_pb2_grpc import ExchangeServiceStub
from fedshare_server.exchange import Connection

WAIT = 20.0


def wait_for(condition):
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_envelopes_arrive_in_the_order_of_their_sending(world):
    bank, tax = world.client("bank"), world.client("tax")
    for sequence in range(50):
        bank.send_wire(envelope(sequence))

    assert [tax.receive_wire("bank", WAIT).sequence for _ in range(50)] == list(range(50))


def test_envelopes_wait_for_a_recipient_that_connects_later(world):
    bank = world.client("bank")
    bank.send_wire(envelope(0))
    bank.close()

    assert world.client("tax").receive_wire("bank", WAIT) == envelope(0)


def test_what_is_taken_together_is_acknowledged_together_and_soon(world):
    bank, tax = world.client("bank"), world.client("tax")
    acknowledged = []
    real = Connection.acknowledge

    def counted(connection, ack):
        acknowledged.append(ack.next_sequence)
        real(connection, ack)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Connection, "acknowledge", counted)
        for sequence in range(50):
            bank.send_wire(envelope(sequence))
        for _ in range(50):
            tax.receive_wire("bank", WAIT)
        wait_for(lambda: world.service.exchange.held_bytes(RUN) == 0)

    assert acknowledged[-1] == 50
    assert len(acknowledged) < 50


def test_a_cut_connection_loses_and_repeats_nothing(world):
    proxy, other = world.proxy(), world.proxy()
    bank, tax = world.client("bank", proxy.port), world.client("tax", other.port)
    count, received = 60, []

    def send():
        for sequence in range(count):
            bank.send_wire(envelope(sequence, size=100_000))

    sender = threading.Thread(target=send)
    sender.start()
    for number in range(count):
        if number in {10, 40}:
            proxy.cut()
        if number in {25, 40}:
            other.cut()
        received.append(tax.receive_wire("bank", WAIT).sequence)
    sender.join(WAIT)

    assert received == list(range(count))


def test_a_run_survives_a_restart_of_the_exchange(world):
    bank, tax = world.client("bank"), world.client("tax")
    for sequence in range(5):
        bank.send_wire(envelope(sequence))
    received = [tax.receive_wire("bank", WAIT).sequence for _ in range(3)]
    world.stop()
    world.start()
    bank.send_wire(envelope(5))

    received += [tax.receive_wire("bank", WAIT).sequence for _ in range(3)]
    assert received == list(range(6))


def test_a_slow_recipient_makes_the_sender_wait():
    world = World(window_bytes=300_000)
    with world.stack:
        bank, tax = world.client("bank", send_timeout_seconds=0.3), world.client("tax")
        bank.send_wire(envelope(0, size=100_000))
        bank.send_wire(envelope(1, size=100_000))
        with pytest.raises(UnavailableError, match="tax has taken nothing"):
            bank.send_wire(envelope(2, size=100_000))
        held = world.service.exchange.held_bytes(RUN)
        received = [tax.receive_wire("bank", WAIT).sequence for _ in range(2)]
        bank.send_wire(envelope(2, size=100_000))

        assert held <= 300_000
        assert [*received, tax.receive_wire("bank", WAIT).sequence] == [0, 1, 2]


def test_two_parties_that_fill_each_other_s_mailbox_do_not_deadlock():
    world = World(window_bytes=300_000)
    with world.stack:
        bank, tax = world.client("bank"), world.client("tax")

        def send(client, sender, recipient):
            for sequence in range(20):
                client.send_wire(envelope(sequence, sender, recipient, size=100_000))

        threads = [
            threading.Thread(target=send, args=(bank, "bank", "tax")),
            threading.Thread(target=send, args=(tax, "tax", "bank")),
        ]
        for thread in threads:
            thread.start()
        for sequence in range(20):
            assert tax.receive_wire("bank", WAIT).sequence == sequence
            assert bank.receive_wire("tax", WAIT).sequence == sequence
        for thread in threads:
            thread.join(WAIT)


def test_a_certificate_of_another_authority_is_told_what_to_check(world):
    other = Certificates()

    with pytest.raises(UnavailableError, match="certificate was issued by it"):
        world.client("bank", issued=other.client("bank"), connect_timeout_seconds=1.0)


def test_a_coordinator_of_another_authority_is_not_believed(world):
    with pytest.raises(UnavailableError, match="CA certificate is the one of the invitation"):
        world.client("bank", ca=Certificates().ca, connect_timeout_seconds=1.0)


def test_nobody_at_the_address_is_told_what_to_check(world):
    with pytest.raises(UnavailableError, match="check that it runs"):
        world.client("bank", port=free_port(), connect_timeout_seconds=1.0)


def test_a_replaced_certificate_is_refused(world):
    with pytest.raises(RefusedError, match="unknown_party"):
        world.client("bank", issued=world.certificates.client("bank"))


def test_an_enrolled_party_that_is_not_in_the_run_is_refused(world):
    with pytest.raises(RefusedError, match="not_a_party"):
        world.client("stranger", peers=frozenset())


def test_a_party_that_speaks_in_another_s_name_is_refused(world):
    # The client itself would not send it; one that was told that it is the court does.
    bank = world.client("court", issued=world.issued["bank"], peers=frozenset({"tax"}))
    bank.send_wire(envelope(0, "court"))

    with pytest.raises(RefusedError, match="spoofed_sender"):
        bank.receive_wire("tax", WAIT)


def test_an_envelope_for_a_party_that_is_not_in_the_run_is_refused(world):
    with pytest.raises(RefusedError, match="unknown_recipient"):
        world.client("bank", peers=frozenset({"tax", "stranger"}))


def test_a_client_sends_only_the_next_envelope(world):
    bank = world.client("bank")

    with pytest.raises(ProtocolError, match="expected envelope 0 to tax, found 1"):
        bank.send_wire(envelope(1))


def test_a_lost_party_ends_the_run_for_the_others():
    world = World(grace_seconds=0.2)
    with world.stack:
        proxy = world.proxy()
        bank, _tax = world.client("bank"), world.client("tax", proxy.port, connect_timeout_seconds=2.0)
        proxy.cut(refuse=True)

        with pytest.raises(RunFailedError, match="party tax was lost"):
            bank.receive_wire("tax", WAIT)
        assert world.runs.status == "aborted"


def test_a_run_goes_on_without_a_party_that_its_contract_can_spare():
    world = World(grace_seconds=0.2, expendable=lambda _run: frozenset({"tax"}))
    with world.stack:
        proxy = world.proxy()
        bank, court = world.client("bank"), world.client("court")
        tax = world.client("tax", proxy.port, connect_timeout_seconds=2.0)
        tax.send_wire(envelope(0, "tax", "bank"))
        assert bank.receive_wire("tax", WAIT).sequence == 0
        proxy.cut(refuse=True)

        with pytest.raises(PartyLostError, match="tax was lost"):
            bank.receive_wire("tax", WAIT)
        with pytest.raises(PartyLostError):
            court.receive_wire("tax", WAIT)
        assert (bank.is_lost("tax"), bank.is_lost("court")) == (True, False)
        assert world.runs.lost == [(RUN, "tax")]
        bank.send_wire(envelope(0, "bank", "tax"))
        bank.send_wire(envelope(0, "bank", "court"))
        assert court.receive_wire("bank", WAIT).sequence == 0
        assert world.runs.status == "running"
        with pytest.raises(RunFailedError, match="went on without tax"):
            world.client("tax")
        assert world.runs.status == "running"


def test_a_party_that_nobody_waits_for_cannot_end_the_run():
    world = World(grace_seconds=0.2, expendable=lambda _run: frozenset({"tax"}))
    with world.stack:
        proxy = world.proxy()
        bank = world.client("bank")
        tax = world.client("tax", proxy.port, connect_timeout_seconds=30.0)
        proxy.cut(refuse=True)
        with pytest.raises(PartyLostError):
            bank.receive_wire("tax", WAIT)
        certificate, key, _ = world.issued["tax"]
        channel = grpc.secure_channel(
            f"127.0.0.1:{world.port}", grpc.ssl_channel_credentials(world.certificates.ca, key, certificate)
        )
        with channel:
            ExchangeServiceStub(channel).ReportFailure(
                wire.ReportFailureRequest(run_id=RUN, code="failed", reason="cut off"), timeout=WAIT
            )
        assert world.runs.status == "running"
        del tax


def test_a_window_full_of_envelopes_to_a_lost_party_opens():
    world = World(grace_seconds=0.2, window_bytes=200_000, expendable=lambda _run: frozenset({"tax"}))
    with world.stack:
        proxy = world.proxy()
        bank = world.client("bank", send_timeout_seconds=WAIT)
        world.client("tax", proxy.port, connect_timeout_seconds=2.0)
        proxy.cut(refuse=True)
        for sequence in range(10):
            bank.send_wire(envelope(sequence, "bank", "tax", size=100_000))
        assert bank.is_lost("tax")


def test_a_party_that_left_in_good_order_is_not_lost():
    world = World(grace_seconds=0.0)
    with world.stack:
        bank, tax = world.client("bank"), world.client("tax")
        tax.send_wire(envelope(0, "tax", "bank"))
        tax.close()
        world.service.exchange.expire()

        assert bank.receive_wire("tax", WAIT).sequence == 0
        assert world.runs.status == "running"


def test_a_restarted_party_ends_the_run(world):
    bank, _tax = world.client("bank"), world.client("tax")

    with pytest.raises(RunFailedError, match="tax was restarted"):
        world.client("tax")
    with pytest.raises(RunFailedError, match="tax was restarted"):
        bank.receive_wire("tax", WAIT)


def test_a_party_s_failure_ends_the_run_with_its_reason(world):
    bank, tax = world.client("bank"), world.client("tax")
    bank.abort("the data changed", "data_changed")

    with pytest.raises(RunFailedError, match=r"party bank ended the run: the data changed \[data_changed\]"):
        tax.receive_wire("bank", WAIT)


def test_a_run_ended_by_the_operator_ends_at_the_parties(world):
    tax = world.client("tax")
    world.runs.abort(RUN, "the operator stopped it")

    with pytest.raises(RunFailedError, match="the operator stopped it"):
        tax.receive_wire("bank", WAIT)


def test_a_run_that_is_over_does_not_open_again(world):
    world.runs.status = "completed"

    with pytest.raises(RunFailedError, match="it is completed"):
        world.client("tax")


def test_progress_is_stored_under_the_certificate_s_name(world):
    world.client("tax").report_progress("train", 3, 1.5, loss=None)

    (progress,) = world.runs.progress
    assert (progress.party, progress.phase, progress.iteration, progress.loss) == ("tax", "train", 3, None)


def test_every_envelope_that_passes_is_shown_to_the_tap(world):
    bank, tax = world.client("bank"), world.client("tax")
    bank.send_wire(envelope(0))
    tax.receive_wire("bank", WAIT)

    assert world.seen == [envelope(0)]


def test_traffic_is_counted_per_party_and_direction(world):
    bank, tax = world.client("bank"), world.client("tax")
    bank.send_wire(envelope(0))
    tax.receive_wire("bank", WAIT)
    tax.close()

    size = envelope(0).ByteSize()
    traffic = world.service.exchange.traffic(RUN)
    assert (traffic["bank"].sent_bytes, traffic["tax"].received_bytes) == (size, size)
    assert (bank.bytes_sent, tax.bytes_received) == (size, size)


def test_receiving_from_a_silent_peer_ends_in_time(world):
    with pytest.raises(UnavailableError, match="nothing came from tax"):
        world.client("bank").receive_wire("tax", 0.05)
