"""The service answers whatever the coordinator asks, and tells it nothing that it should not know."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from roles_sessions import Pipe

from fedshare.errors import (
    ConfigError,
    DataError,
    FedshareError,
    ProtocolError,
    RefusedError,
    StorageError,
    UnavailableError,
)
from fedshare.identity.keys import IdentityKey
from fedshare.sealed.randomness import Stream
from fedshare_clients.node.service import PHASES, NodeService, _Run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedshare.audit.statements import Statement
    from fedshare.contract.model import Contract
    from fedshare.sealed.randomness import Randomness
    from fedshare_clients.node.data import Table
    from fedshare_clients.node.progress import ProgressSink

SECRET = "91440300MA5DEXAMPL"


class FailingPlatform:
    """A node whose every step fails with one error."""

    def __init__(self, error: Exception) -> None:
        self.party = "tax"
        self.randomness: Randomness = Stream(bytes(32)).read
        self.identity = IdentityKey.generate(self.randomness)
        self.code_digest = "c0" * 32
        self.holdout_seed = bytes(32)
        self.receive_timeout_seconds = 1.0
        self.error = error
        self.failures: list[FedshareError] = []
        self.said: list[Statement] = []

    def now(self) -> datetime:
        return datetime(2026, 6, 1, tzinfo=UTC)

    def approved_contract(self, digest: str) -> tuple[Contract, Mapping[str, bytes]]:
        raise self.error

    def spend(self, contract: Contract, what: str, amount: int, limit: int) -> int:
        raise self.error

    def await_run(self, contract: Contract, run_id: int, model_run: int | None) -> None:
        raise self.error

    def begin_run(self, contract: Contract, run_id: int) -> None:
        raise self.error

    def await_opening(self, contract: Contract, run_id: int, phase: str) -> None:
        raise self.error

    def load_table(self, contract: Contract) -> Table:
        raise self.error

    def open_transport(self, run_id: int, peers: frozenset[str]) -> Pipe:
        raise self.error

    def progress(self, run_id: int, contract: Contract) -> ProgressSink:
        raise self.error

    def save_result(
        self, run_id: int, result: Mapping[str, Any], customers: Mapping[str, Any] | None
    ) -> None:
        raise self.error

    def save_failure(self, run_id: int, phase: str, error: FedshareError) -> None:
        self.failures.append(error)

    def log(self, kind: type[Statement], **fields: Any) -> None:
        self.said.append(kind(issuer=self.party, issued_at=0, **fields))


class LostTransport(Pipe):
    """A transport whose coordinator has gone."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def abort(self, reason: str) -> None:
        self.calls.append(f"abort {reason}")
        raise UnavailableError("the coordinator does not answer")

    def close(self) -> None:
        self.calls.append("close")
        raise UnavailableError("the coordinator does not answer")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (
            RefusedError("contract_unsigned", "this party has not approved it", party="tax"),
            "refused",
            "contract_unsigned",
        ),
        (
            RefusedError("privacy_budget_exceeded", f"it is at {SECRET}", party="tax", private=True),
            "refused",
            "privacy_budget_exceeded",
        ),
        (
            DataError(f"found {SECRET}", party="tax", source=f"/srv/{SECRET}.csv", row=7),
            "failed",
            "DataError",
        ),
        (DataError(f"found {SECRET}"), "failed", "DataError"),
        (StorageError(f"/srv/{SECRET}: no space left"), "failed", "StorageError"),
        (ConfigError(f"/etc/{SECRET}: no such file"), "failed", "ConfigError"),
        (UnavailableError("the coordinator does not answer"), "failed", "UnavailableError"),
        (ProtocolError("expected another phase"), "failed", "ProtocolError"),
        (ValueError(SECRET), "failed", "FedshareError"),
        (KeyError(SECRET), "failed", "FedshareError"),
    ],
)
def test_every_error_becomes_a_reply_without_what_is_private(
    error: Exception, status: str, code: str
) -> None:
    platform = FailingPlatform(error)
    reply = NodeService(platform).handle_phase(1, "hello", {"contract_digest": "ab" * 32})
    assert (reply["status"], reply["code"]) == (status, code)
    assert SECRET not in str(reply)
    assert len(platform.failures) == 1
    assert SECRET not in str(platform.said)
    assert [said.code for said in platform.said] == ([code] if status == "refused" else [])


@pytest.mark.parametrize("phase", [*PHASES[1:5], "nonsense", ""])
def test_a_phase_of_an_unknown_run_fails(phase: str) -> None:
    platform = FailingPlatform(ValueError(SECRET))
    reply = NodeService(platform).handle_phase(1, phase, {"contract_digest": "ab" * 32})
    assert reply["status"] == "failed"
    assert "not known here" in reply["reason"]


def test_the_end_of_an_unknown_run_is_no_error() -> None:
    assert NodeService(FailingPlatform(ValueError())).handle_phase(1, "close", {})["status"] == "ok"


def test_a_request_without_a_contract_fails() -> None:
    assert NodeService(FailingPlatform(ValueError())).handle_phase(1, "hello", {})["status"] == "failed"


def test_a_lost_coordinator_does_not_keep_a_failed_run_alive() -> None:
    service, transport = NodeService(FailingPlatform(ValueError())), LostTransport()
    unused: Any = None
    service._runs[1] = _Run(unused, unused, unused, unused, transport=transport, done=["hello"])
    reply = service.handle_phase(1, "prepare", {"contract_digest": "ab" * 32})
    assert reply["status"] == "failed"
    assert [call.split()[0] for call in transport.calls] == ["abort", "close"]
    assert not service._runs
