"""The model that a run gave, pinned down: each party commits to what it keeps, and all announce the same whole.

A commitment is over the canonical JSON of a party's ``result.json`` without the field ``commitment``, which
holds what opens it. The parties send theirs to one another, so that every manifest lists all of them: two
models shown to two parties would show in the log as two manifests. What a manifest says is kept beside the commitment:
parties that serve a model say its digest to one another first.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from fedshare.audit.commitments import commit, verify_commitment
from fedshare.audit.statements import ModelManifest
from fedshare.errors import PartyLostError, ProtocolError
from fedshare.wire.v1 import payload_pb2 as payload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedshare.contract.model import Contract
    from fedshare.sealed.randomness import Randomness

    from .channel import Channel

__all__ = ["announce", "commit_result", "public_metrics", "served_model", "verify_result", "with_manifest"]

_COMMITMENT_BYTES = 32
_MAX_METRICS = 32
_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")
_VALUE = re.compile(r"-?[0-9]{1,6}\.[0-9]{6}")


def commit_result(result: Mapping[str, Any], randomness: Randomness) -> dict[str, Any]:
    """Return ``result`` with a commitment to it, and the nonce that opens that, to be kept private."""
    commitment, nonce = commit(_canonical(result), randomness)
    return {**result, "commitment": {"digest": commitment, "nonce": nonce.hex()}}


def verify_result(result: Mapping[str, Any]) -> str:
    """Return the commitment in a kept result, after checking that it opens to the rest.

    Raises:
        ProtocolError: it does not: the file was altered.
    """
    try:
        digest, nonce = str(result["commitment"]["digest"]), bytes.fromhex(result["commitment"]["nonce"])
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError("expected a result with its commitment, found none") from error
    verify_commitment(digest, _canonical(result), nonce)
    return digest


def with_manifest(result: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a committed result that also keeps what the manifest of its model says besides run and contract."""
    return {**result, "commitment": {**result["commitment"], "manifest": dict(manifest)}}


def served_model(result: Mapping[str, Any], party: str, run_id: int) -> tuple[str, bytes]:
    """Return the commitment to a kept result of training run ``run_id``, and the digest of the manifest that lists it.

    Raises:
        ProtocolError: the file was altered, or its manifest does not list it as the part of ``party``.
    """
    digest = verify_result(result)
    try:
        manifest = ModelManifest(
            issuer=party,
            issued_at=0,
            run_id=str(run_id),
            contract_digest=result["contract_digest"],
            **result["commitment"]["manifest"],
        )
    except (KeyError, TypeError, ValidationError) as error:
        raise ProtocolError("expected a result with the manifest of its model, found none") from error
    if manifest.components.get(party) != digest:
        raise ProtocolError("the manifest of the model does not list what this party kept of it")
    return digest, manifest.digest()


def _canonical(result: Mapping[str, Any]) -> bytes:
    kept = {name: value for name, value in result.items() if name != "commitment"}
    return json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()


def public_metrics(contract: Contract, result: Mapping[str, Any]) -> dict[str, str]:
    """Return the metrics of ``result`` that the contract lets out, as decimals; none at a feature holder."""
    if not contract.outputs.coordinator_metrics:
        return {}
    return {
        f"{group}_{name}": f"{value:.6f}"
        for group in ("federated", "bank_only")
        for name, value in result.get(group, {}).items()
        if isinstance(value, float)
    }


def announce(
    channel: Channel, contract: Contract, party: str, commitment: str, metrics: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Tell every other party of this one's part, and return all parts and metrics, named by party.

    Raises:
        ProtocolError: what another party sent is no commitment, or metrics that the contract does not let out.
    """
    own = payload.ModelCommitment(commitment=bytes.fromhex(commitment), metrics=metrics)
    parts = {party: own}
    others = [each.id for each in contract.parties if each.id != party]
    for other in others:
        channel.send(other, own)
    for other in others:
        try:
            parts[other] = channel.receive(other, payload.ModelCommitment)
        except PartyLostError:
            continue  # the model is of those who are left
        _verify(other, parts[other], contract)
    return (
        {name: part.commitment.hex() for name, part in parts.items()},
        {f"{name}.{key}": value for name, part in parts.items() for key, value in part.metrics.items()},
    )


def _verify(party: str, part: payload.ModelCommitment, contract: Contract) -> None:
    if len(part.commitment) != _COMMITMENT_BYTES:
        raise ProtocolError(f"expected a commitment of {_COMMITMENT_BYTES} bytes from {party}, found another")
    is_shown = contract.outputs.coordinator_metrics and contract.party(party).role == "label_holder"
    if part.metrics and not is_shown:
        raise ProtocolError(f"{party} sent metrics, which the contract does not let it show")
    if len(part.metrics) > _MAX_METRICS or not all(
        _NAME.fullmatch(name) and _VALUE.fullmatch(value) for name, value in part.metrics.items()
    ):
        raise ProtocolError(f"expected metrics with six decimals from {party}, found something else")
