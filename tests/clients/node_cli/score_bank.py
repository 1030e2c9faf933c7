"""A bank's node with a running score service; the holders' side of its serving run is in the test's hands."""

from __future__ import annotations

import json
import socket
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedshare.contract.model import parse_contract
from fedshare.credit.column import ColumnBins
from fedshare.identity.keys import encode_public_key
from fedshare.scoring.answer import Band
from fedshare.wire.v1 import payload_pb2 as payload
from fedshare_clients.node.config import load_config
from fedshare_clients.node.consents import ConsentDesk
from fedshare_clients.node.data import Table
from fedshare_clients.node.own_part import OwnPart
from fedshare_clients.node.score_service import ScoreServer
from fedshare_clients.node.score_tls import client_identity, open_authority, server_identity
from fedshare_clients.node.scorer import Scorer, ScoringDesk
from fedshare_clients.node.serving_bank import Opened
from fedshare_clients.node.state import NodeState

if TYPE_CHECKING:
    from fedshare_clients.node.enrolment import TlsIdentity

BINS = ColumnBins("usage", "numeric", (0.5,), (), 2)  # below 0.5, from 0.5, missing
RESULT = {
    "bins": {"columns": [BINS.to_dict()], "dropped": []},
    "weights": [-1.0, 1.0, 0.0],
    "neutral": [0.0],
    "intercept": 0.0,
    "own_model": {"weights": [0.0, 0.0, 0.0], "neutral": [0.0], "intercept": 0.0},
}
VECTOR = Path(__file__).parents[2] / "vectors/identity/contract.json"


class Holders:
    """What the bank's part of a serving run knows: some names, and what holders show of them."""

    def __init__(self):
        self.party, self.holders, self.groups, self.closed = "bank", ["tax"], ["sales"], ""
        self.rows = {f"known-{number}".encode(): Opened(0.5, (True,), (-7,)) for number in range(2000)}
        self.told = []

    def age_seconds(self):
        return 1.0

    def known(self, identifier):
        return self.rows.get(identifier, Opened(None, (False,), ()))

    def profile(self, _consent):
        future = Future()
        future.set_result({"tax": payload.Profile(known=True, columns=2, columns_with_value=1, band=3)})
        return future

    def withdraw(self, withdrawal):
        self.told.append(withdrawal)


@dataclass
class Bank:
    folder: Path
    address: str
    tls: TlsIdentity
    holders: Holders
    state: NodeState
    agreed: object


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def contract(consent_key):
    """Return the published test contract, with a section on scoring and identifiers of any form."""
    document = json.loads(VECTOR.read_text(encoding="utf-8"))["document"]
    profile = {"consent_key": encode_public_key(consent_key), "releases": ["coverage", "band"]}
    scoring = {"quota": 10, "profile": profile}
    alignment = {"identifier": "opaque", "quota": 10}
    dates = {"valid_from": "2026-01-01T00:00:00Z", "valid_until": "2100-01-01T00:00:00Z"}
    return parse_contract({**document, **dates, "alignment": alignment, "scoring": scoring})


NODE = """
party: bank
role: label_holder
coordinator: {{address: "127.0.0.1:1", fleet: "127.0.0.1:1"}}
data:
  source: parquet
  path: bank.parquet
  identifier: code
  identifier_kind: opaque
  label: bad
  columns: {{usage: {{kind: numeric, column: usage_rate}}}}
scoring:
  listen: {address}
  bands: [{{name: approve, up_to: 0.5}}, {{name: decline}}]
"""


@contextmanager
def running_bank(folder):
    """Yield a bank whose score service runs."""
    address = f"127.0.0.1:{free_port()}"
    (folder / "node.yaml").write_text(NODE.format(address=address), encoding="utf-8")
    state = NodeState(folder / "state")
    state.create("label_holder", lambda size: bytes(index % 256 for index in range(size)))
    config = load_config(folder / "node.yaml")
    rows = Table("rows", [b"known-0", b"known-1"], {"usage": np.array([0.0, 1.0])})
    agreed, holders, desk = contract(state.identity().public_bytes()), Holders(), ScoringDesk()
    state.save_contract(agreed, datetime.now(UTC))
    state.save_decision(agreed.digest(), "approve", b"signed", b"entry", datetime.now(UTC))
    desk.open(
        Scorer(
            agreed,
            agreed.scoring,
            "model",
            OwnPart(RESULT, lambda: rows),
            holders,
            state.identity(),
            [Band(band.name, band.up_to) for band in config.scoring.bands],
            lambda: datetime.now(UTC),
            lambda: None,
            1.0,
            ConsentDesk(agreed, state, lambda: datetime.now(UTC)),
        )
    )
    now = datetime.now(UTC)
    authority = open_authority(state.folder, now, create=True)
    with ScoreServer(desk, address, server_identity(authority, config.scoring.names, now)):
        yield Bank(folder, address, client_identity(authority, "loans", now), holders, state, agreed)
