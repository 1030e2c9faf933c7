"""The gate before a run and every phase: each begins only once its opening is in a log that the contract's witnesses saw."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedshare.audit.gate import verify_opening
from fedshare.audit.statements import PhaseOpened, RunOpened
from fedshare.contract.enforcement import verify_not_revoked
from fedshare.errors import ProtocolError, RefusedError

from .state import write_private

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedshare.audit.checkpoint import Checkpoint
    from fedshare.contract.model import Contract

    from .audit_client import AuditClient
    from .state import NodeState

__all__ = ["PhaseGate"]


class PhaseGate:
    """Knows the last tree that this node accepted, in its state, and accepts only trees that continue it."""

    def __init__(self, client: AuditClient, state: NodeState, party: str) -> None:
        self._client = client
        self._state = state
        self._party = party

    def await_run(self, contract: Contract, run_id: int, model_run: int | None) -> None:
        """Return once the run may begin: the log says that it serves the model of ``model_run``, or trains if ``None``.

        Raises: as ``await_opening``.
        """
        model = "" if model_run is None else str(model_run)

        def verify(said: RunOpened | PhaseOpened) -> None:
            expected = (str(run_id), contract.digest(), contract.code_digest, model)
            if (
                not isinstance(said, RunOpened)
                or (said.run_id, said.contract_digest, said.code_digest, said.model_run) != expected
            ):
                raise ProtocolError(
                    f"expected the opening of run {run_id} {f'with the model of {model}' if model else 'to train'}, "
                    "found another entry"
                )

        self._await(contract, run_id, "", verify)

    def await_opening(self, contract: Contract, run_id: int, phase: str) -> Checkpoint:
        """Return the tree that this node acts on, once the phase may begin.

        Raises:
            RefusedError: this party took its approval back, or what the coordinator shows is not the opening
                of this phase in a log that continues what this node has seen; it is kept as evidence.
            UnavailableError: the witnesses have not seen the opening in time.
        """

        def verify(said: RunOpened | PhaseOpened) -> None:
            expected = (str(run_id), contract.digest(), phase)
            if (
                not isinstance(said, PhaseOpened)
                or (said.run_id, said.contract_digest, said.phase) != expected
            ):
                raise ProtocolError(
                    f"expected the opening of phase {phase} of run {run_id}, found another entry"
                )

        return self._await(contract, run_id, phase, verify)

    def _await(
        self, contract: Contract, run_id: int, phase: str, verify: Callable[[RunOpened | PhaseOpened], None]
    ) -> Checkpoint:
        """Return the tree in which the opening of a phase, or of the run if it is empty, passes ``verify``."""
        own = [self._party] if self._state.revocation(contract.digest()) is not None else []
        verify_not_revoked(contract, self._party, own)
        seen = self._state.seen_checkpoint()
        opening = self._client.opening(run_id, phase, seen.size if seen else 0)
        try:
            checkpoint, said = verify_opening(
                opening, contract.log.policy(), contract.log.coordinator_key_bytes(), seen
            )
            verify(said)
        except ProtocolError as error:
            what = phase or "run"
            evidence = self._state.run_folder(run_id) / f"refused-{what}.tlog-proof"
            write_private(evidence, opening.receipt)
            raise RefusedError(
                "opening_not_witnessed",
                f"what the coordinator shows as the opening of {what} does not count: {error}",
                party=self._party,
            ) from error
        self._state.save_seen_checkpoint(checkpoint)
        return checkpoint
