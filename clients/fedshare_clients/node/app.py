"""The ClientApp: one Flower message in, one phase of a run handled, one message out.

``handle`` is what the node's executor calls, in its own process, after its gate has passed the bundle.
``app`` only gives Flower the object that the app table names; run by a stock executor it refuses, because
nothing has checked the bundle then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from fedshare.errors import ProtocolError

if TYPE_CHECKING:
    from flwr.app import Context

__all__ = ["MESSAGE_TYPE", "PHASES", "PhaseHandler", "RunConfig", "app", "handle"]

MESSAGE_TYPE: Final = "query.phase"
PHASES: Final = frozenset({"hello", "align", "prepare", "train", "evaluate", "publish", "serve", "close"})
_RECORD: Final = "fedshare"
_FIELDS: Final = frozenset({"phase", "contract_digest", "hellos", "reason"})


@dataclass(frozen=True, slots=True)
class RunConfig:
    """What a run is configured with.

    Attributes:
        contract_digest: the contract that it is under.
        model_run: the training run whose model it serves; ``None`` if it trains.
    """

    contract_digest: str
    model_run: int | None = None


class PhaseHandler(Protocol):
    """What plays the institution's role in a run; ``fedshare_clients.node.service.NodeService`` does."""

    def handle_phase(self, run_id: int, phase: str, content: dict[str, Any]) -> dict[str, Any]:
        """Return the reply to the coordinator's request; never raises."""


def handle(message: Message, config: RunConfig, service: PhaseHandler) -> Message:
    """Return the reply to one message of the coordinator.

    Args:
        message: of type ``query.phase``, with a record ``fedshare``.
        config: the run's configuration, already checked; the message must name the same contract.
        service: the institution's part.
    """
    try:
        phase, content = _parse(message, config.contract_digest)
    except ProtocolError as error:
        reply: dict[str, Any] = {"status": "failed", "code": "malformed_request", "reason": str(error)}
    else:
        content["model_run"] = config.model_run
        reply = service.handle_phase(message.metadata.run_id, phase, content)
    return Message(RecordDict({_RECORD: ConfigRecord(reply)}), reply_to=message)


def _parse(message: Message, contract_digest: str) -> tuple[str, dict[str, Any]]:
    if message.metadata.message_type != MESSAGE_TYPE or not message.has_content():
        raise ProtocolError(f"expected a message of type {MESSAGE_TYPE} with content: update the coordinator")
    if set(message.content) != {_RECORD} or _RECORD not in message.content.config_records:
        raise ProtocolError(f"expected one configuration record named {_RECORD}: update the coordinator")
    content: dict[str, Any] = dict(message.content.config_records[_RECORD])
    unknown = sorted(content.keys() - _FIELDS)
    if unknown:
        raise ProtocolError(f"unknown fields in the coordinator's request: {', '.join(unknown)[:100]}")
    phase = content.pop("phase", None)
    if phase not in PHASES:
        raise ProtocolError(f"expected one of the phases {', '.join(sorted(PHASES))}, got another")
    if content.get("contract_digest") != contract_digest:
        raise ProtocolError("the request names another contract than the run's configuration")
    hellos = content.get("hellos", [])
    if not isinstance(hellos, list) or not all(isinstance(hello, bytes) for hello in hellos):
        raise ProtocolError("expected hellos to be a list of bytes")
    return str(phase), content


app = ClientApp()


@app.query("phase")
def refuse(message: Message, _context: Context) -> Message:
    """Refuse to run without the executor gate; see docs/adr/0001-executor-gate.md."""
    reply = {
        "status": "refused",
        "code": "executor_gate_missing",
        "reason": "this node does not run the fedshare executor: start it with `fedshare-node run`",
    }
    return Message(RecordDict({_RECORD: ConfigRecord(reply)}), reply_to=message)  # type: ignore[arg-type]
