"""The answer about one enterprise: what a bank's system is told, and the receipt by which it is proved later.

A receipt is the bank's signature (Ed25519, under the DSSE encoding with a type of its own) of everything else in the
answer, so that an answer found in a file can be shown to be what this institution's node said, and when.
"""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from fedshare.errors import ConfigError, ProtocolError
from fedshare.identity.dsse import pre_authentication_encoding
from fedshare.identity.keys import verify_signature

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedshare.identity.keys import IdentityKey

__all__ = ["Answer", "Band", "band_of", "probability_of", "signed", "verify_bands", "verify_receipt"]

_RECEIPT_TYPE = "application/vnd.fedshare.score.v1+json"

Status = Literal["scored", "fallback", "withheld"]
OwnColumns = Literal["table", "given", "missing", "none"]


@dataclass(frozen=True, slots=True)
class Answer:
    """See the module.

    Attributes:
        enterprise: identifier in its one spelling.
        status: ``scored`` by the shared model, ``fallback`` to the bank's own, or ``withheld``.
        reason: why it is not scored by the shared model, a stable word; empty if it is.
        probability: of default, ``None`` if withheld.
        points: whole points on the contract's scale, ``None`` if withheld.
        band: the bank's decision band, empty if it has none or the score is withheld.
        reasons: feature groups that cost most points, the costliest first.
        coverage: whether each holder knows the enterprise, by holder; empty if that is not known.
        own_columns: where the bank's own columns came from: its ``table``, the request (``given``), nowhere (``missing``),
            or the bank contributes ``none``.
        model: digest of the contract, the training run and the bank's commitment to its part, joined by ``/``.
        age_seconds: of the holders' columns, ``None`` if they were not used.
        scored_at: ISO 8601, UTC.
        receipt: base64; see the module.
    """

    enterprise: str
    status: Status
    reason: str
    probability: float | None
    points: int | None
    band: str
    reasons: tuple[str, ...]
    coverage: dict[str, bool]
    own_columns: OwnColumns
    model: str
    age_seconds: float | None
    scored_at: str
    receipt: str = field(default="", compare=False)

    def message(self) -> bytes:
        """Return what the receipt signs: everything else, as JSON in one spelling."""
        document: dict[str, Any] = {name: getattr(self, name) for name in _SIGNED}
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


_SIGNED = tuple(each.name for each in fields(Answer) if each.name != "receipt")


@dataclass(frozen=True, slots=True)
class Band:
    """A decision band.

    Attributes:
        name: what the bank calls it.
        up_to: the highest probability of default in it; 1 in the last band.
    """

    name: str
    up_to: float


def signed(answer: Answer, key: IdentityKey) -> Answer:
    """Return ``answer`` with its receipt."""
    signature = key.sign(pre_authentication_encoding(_RECEIPT_TYPE, answer.message()))
    return replace(answer, receipt=base64.b64encode(signature).decode())


def verify_receipt(answer: Answer, public_key: bytes) -> None:
    """Check that ``answer`` is what the owner of ``public_key`` said.

    Raises:
        ProtocolError: it is not.
    """
    try:
        signature = base64.b64decode(answer.receipt, validate=True)
    except ValueError as error:
        raise ProtocolError("expected a receipt in base64, found something else") from error
    verify_signature(public_key, signature, pre_authentication_encoding(_RECEIPT_TYPE, answer.message()))


def probability_of(log_odds: float) -> float:
    """Return the probability of default of log-odds, without overflow."""
    if log_odds >= 0:
        return 1.0 / (1.0 + math.exp(-log_odds))
    odds = math.exp(log_odds)
    return odds / (1.0 + odds)


def verify_bands(bands: Sequence[Band]) -> None:
    """Check that every probability falls into exactly one band, or that there are none.

    Raises:
        ConfigError: the limits do not ascend above 0, or the last is not 1, or two bands have one name.
    """
    limits = [band.up_to for band in bands]
    ascending = all(low < high for low, high in zip([0.0, *limits], limits, strict=False))
    if bands and not (ascending and limits[-1] == 1.0):
        raise ConfigError("decision bands: expected limits that ascend above 0 and end with 1")
    if len({band.name for band in bands}) < len(bands):
        raise ConfigError("decision bands: two bands have the same name")


def band_of(bands: Sequence[Band], probability: float) -> str:
    """Return the name of the band of a probability, empty if there are no bands."""
    return next((band.name for band in bands if probability <= band.up_to), "")
