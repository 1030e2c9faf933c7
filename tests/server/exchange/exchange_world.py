"""A coordinator on loopback with certificates made for the test, and ways to misbehave."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

from cryptography.hazmat.primitives.asymmetric import ec

from fedshare.identity.certificates import (
    create_authority,
    issue_client,
    issue_server,
    key_to_pem,
    public_key_digest,
    to_pem,
)
from fedshare.wire.v1.envelope_pb2 import Envelope
from fedshare.wire.v1.exchange_pb2_grpc import add_ExchangeServiceServicer_to_server
from fedshare_clients.node.exchange import ExchangeClient
from fedshare_server.authority import TlsFiles
from fedshare_server.service import start_grpc
from fedshare_server.service_exchange import ExchangeService

RUN = 7
PARTIES = ("bank", "court", "tax")
_DAY = timedelta(days=1)


def envelope(sequence, sender="bank", recipient="tax", size=10, run_id=RUN):
    return Envelope(
        run_id=run_id,
        phase="train",
        step="SealedColumn/0",
        sender=sender,
        recipient=recipient,
        sequence=sequence,
        last=True,
        ciphertext=sequence.to_bytes(8, "big") + bytes(size),
    )


@dataclass
class Certificates:
    """An authority and what it issued."""

    authority: object = field(
        default_factory=lambda: create_authority(
            ec.generate_private_key(ec.SECP256R1()), "test", datetime.now(UTC), _DAY, os.urandom
        )
    )

    @property
    def ca(self):
        return to_pem(self.authority.certificate)

    def server(self):
        key = ec.generate_private_key(ec.SECP256R1())
        found = issue_server(
            self.authority, key.public_key(), ["127.0.0.1"], datetime.now(UTC), _DAY, os.urandom
        )
        return TlsFiles(self.ca, to_pem(found), key_to_pem(key))

    def client(self, party):
        """Return certificate, key and the key's digest."""
        key = ec.generate_private_key(ec.SECP256R1())
        found = issue_client(
            self.authority, key.public_key(), party, "label_holder", datetime.now(UTC), _DAY, os.urandom
        )
        return to_pem(found), key_to_pem(key), public_key_digest(key.public_key())


class Runs:
    """The coordinator's store, in memory: one run of three parties; a fourth party is enrolled only."""

    def __init__(self):
        self.status, self.reason, self.progress = "running", "", []
        self.digests = {}
        self.lost = []

    def find_party(self, party):
        digest = self.digests.get(party)
        return digest and SimpleNamespace(certificate_digest=digest, role="label_holder")

    def find_run(self, run_id):
        return SimpleNamespace(status=self.status, reason=self.reason) if run_id == RUN else None

    def parties_of_run(self, run_id):
        return PARTIES if run_id == RUN else ()

    def abort(self, run_id, reason, party="", code="aborted"):
        self.status, self.reason = "aborted", self.reason or reason

    def lose(self, run_id, party):
        self.lost.append((run_id, party))

    def add_progress(self, progress):
        self.progress.append(progress)


class World:
    """A server, its certificates, and clients that end with the test."""

    def __init__(self, **settings):
        self.stack = ExitStack()
        self.certificates = Certificates()
        self.runs = Runs()
        self.issued = {party: self.certificates.client(party) for party in (*PARTIES, "stranger")}
        self.runs.digests = {party: issued[2] for party, issued in self.issued.items()}
        self.seen = []
        self.settings = {"tap": self.seen.append, **settings}
        self.port = free_port()
        self.server = None
        self.start()
        self.stack.callback(self.stop)

    def start(self):
        self.service = ExchangeService(self.runs, **self.settings)
        self.server = start_grpc(
            f"127.0.0.1:{self.port}",
            self.certificates.server(),
            self.runs,
            [lambda server: add_ExchangeServiceServicer_to_server(self.service, server)],
        )

    def stop(self):
        self.service.stop()
        self.server.stop(0).wait()

    def client(self, party, port=None, peers=None, issued=None, ca=None, **settings):
        certificate, key, _ = issued or self.issued[party]
        client = ExchangeClient(
            f"127.0.0.1:{port or self.port}",
            ca or self.certificates.ca,
            certificate,
            key,
            RUN,
            party,
            frozenset(PARTIES) - {party} if peers is None else peers,
            **{"connect_timeout_seconds": 10.0, **settings},
        )
        self.stack.callback(quietly, client.close)
        return client

    def proxy(self):
        proxy = Proxy(self.port)
        self.stack.callback(proxy.close)
        return proxy


def quietly(close):
    """Close a client whose run or server may be gone."""
    with suppress(Exception):
        close()


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Proxy:
    """Relays TCP to a port until it is told to cut."""

    def __init__(self, port):
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._pairs = []
        self._refusing = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, refuse=False):
        """Break every connection, and with ``refuse`` all that are tried later."""
        self._refusing = refuse
        for end in self._pairs:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._pairs = []

    def close(self):
        self.cut(refuse=True)
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self):
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self._refusing:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._target))
                self._pairs += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=_pump, args=(source, sink), daemon=True).start()


def _pump(source, sink):
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
