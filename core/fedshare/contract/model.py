"""The contract: everything that a party agrees to, in one document that every party signs.

Two documents are the same contract if their canonical form (RFC 8785) is the same bytes; its SHA-256 is the
contract's digest. Unknown fields are refused, so a contract holds nothing that this version does not
understand. Text is one line of printable characters, so nothing in it can pass for another part of the page
that people read before they sign.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import rfc8785
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from fedshare.errors import ConfigError, ProtocolError
from fedshare.identity.keys import decode_public_key
from fedshare.problems import problems

from .banks import FEWEST_LEFT, FEWEST_TO_RECOVER, BetweenBanks, verify_banks, verify_dropping
from .log import LogTerms  # noqa: TC001  pydantic reads it
from .network import NetworkModel, verify_network_terms
from .portfolio import Portfolio  # noqa: TC001  pydantic reads it
from .privacy import Privacy
from .scoring import Scoring  # noqa: TC001  pydantic reads it

__all__ = [
    "Alignment",
    "Column",
    "Contract",
    "Outputs",
    "Party",
    "Points",
    "Role",
    "ScorecardModel",
    "parse_contract",
]

Role = Literal["feature_holder", "label_holder"]
PartyId = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

# Integers above 2^53 have no canonical form (RFC 7493 section 2.2); no region has more enterprises.
_MAX_COUNT = 1_000_000_000
_MAX_COLUMNS = 1000
_MAX_CATEGORIES = 1000
# In the audit log this name is the coordinator's.
_RESERVED_ID = "coordinator"


def _is_plain(value: str) -> str:
    # Prevent terminal controls and writing-direction marks from changing what a reader sees.
    if not value.isprintable() or value != value.strip():
        raise ValueError("expected printable characters on one line, without spaces around them")
    return value


def _one_line(value: str) -> str:
    joined = " ".join(value.split())
    if value and not joined:
        raise ValueError("expected text, found white space only")
    return _is_plain(joined)


Name = Annotated[str, AfterValidator(_is_plain)]
#: Text for people; white space, line ends included, becomes single spaces.
Sentence = Annotated[str, AfterValidator(_one_line)]


Category = Annotated[Name, Field(min_length=1, max_length=200)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Column(_Strict):
    """One column that a party contributes.

    Attributes:
        name: as the node's configuration names it.
        kind: how it is cut into bins.
        bins: at most this many, besides the one for missing values.
        monotone: the direction in which points must go along a numeric column's bins.
        categories: of a categorical column that several banks have: which ones are told apart. Others share a bin.
        classification: the institution's own word for how sensitive it is.
    """

    name: Annotated[Name, Field(min_length=1, max_length=200)]
    kind: Literal["numeric", "categorical"] = "numeric"
    bins: Annotated[int, Field(ge=2, le=100)] = 10
    monotone: Literal["none", "increasing", "decreasing"] = "none"
    categories: Annotated[tuple[Category, ...], Field(max_length=_MAX_CATEGORIES)] = ()
    classification: Annotated[Name, Field(max_length=100)] = "internal"

    @model_validator(mode="after")
    def _is_ordered_if_monotone(self) -> Column:
        if self.kind == "categorical" and self.monotone != "none":
            raise ValueError("a categorical column has no order to be monotone along")
        return self

    @model_validator(mode="after")
    def _lists_categories_once(self) -> Column:
        if self.categories and self.kind != "categorical":
            raise ValueError("a numeric column has no categories")
        if len(set(self.categories)) < len(self.categories):
            raise ValueError("a category is listed twice")
        return self


class Party(_Strict):
    """One institution.

    Attributes:
        id: its name in messages, files and logs.
        role: what it brings.
        identity_key: its Ed25519 public key, base64 of 32 bytes.
        flower_key: SHA-256 of the public key of its Flower node, hexadecimal.
        columns: what it contributes.
    """

    id: PartyId
    role: Role
    identity_key: str
    flower_key: Digest
    columns: Annotated[tuple[Column, ...], Field(max_length=_MAX_COLUMNS)] = ()

    @field_validator("identity_key")
    @classmethod
    def _is_a_key(cls, value: str) -> str:
        try:
            decode_public_key(value)
        except (ConfigError, ProtocolError) as error:
            raise ValueError(str(error)) from error
        return value

    @model_validator(mode="after")
    def _columns_make_sense(self) -> Party:
        if self.id == _RESERVED_ID:
            raise ValueError(f"{_RESERVED_ID} is the coordinator's name: no party has it")
        names = [column.name for column in self.columns]
        if len(set(names)) < len(names):
            raise ValueError("two columns have the same name")
        if self.role == "feature_holder" and not names:
            raise ValueError("a feature_holder contributes at least one column")
        return self

    def identity_key_bytes(self) -> bytes:
        """Return the identity key, 32 bytes."""
        return decode_public_key(self.identity_key)


class ScorecardModel(_Strict):
    """The shared scorecard and how it is trained.

    Attributes:
        kind: the only kind so far.
        ridge: weight of the squared weights, in units of one customer's loss.
        smoothness: weight of the squared differences between neighbouring bins.
        max_iterations: the most rounds of sealed products; one-time secrets are prepared for this many.
        tolerance: training stops when the objective falls by less than this, in nats per customer.
        patience: early stopping: after this many iterations without a lower held-out loss training goes back to
            the lowest and stops; 0 trains to the optimum.
    """

    kind: Literal["scorecard"] = "scorecard"
    ridge: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    smoothness: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    max_iterations: Annotated[int, Field(ge=1, le=200)] = 30
    tolerance: Annotated[float, Field(gt=0, le=0.1)] = 1e-5
    patience: Annotated[int, Field(ge=0, le=200)] = 0


class Alignment(_Strict):
    """How customers are found at the holders.

    Attributes:
        identifier: unified social credit codes, or any text that the parties agree on.
        check_digits: whether a wrong check digit is refused.
        quota: identifiers that a bank may ask each holder for, over all runs of the contract.
        missing_enterprises: ``inner``: customers that some holder does not know are left out;
            ``impute``: every holder extends its universe to the public roster, with rows without values.
        roster_digest: SHA-256 of the roster file; needed by ``impute``.
    """

    identifier: Literal["uscc", "opaque"] = "uscc"
    check_digits: bool = True
    quota: Annotated[int, Field(ge=1, le=_MAX_COUNT)]
    missing_enterprises: Literal["inner", "impute"] = "inner"
    roster_digest: Digest | None = None

    @model_validator(mode="after")
    def _names_its_roster(self) -> Alignment:
        if (self.missing_enterprises == "impute") != (self.roster_digest is not None):
            raise ValueError("roster_digest goes with missing_enterprises: impute, and only with it")
        return self


class Points(_Strict):
    """The scale on which scores are read; every party shows the same points for the same odds.

    Attributes:
        pdo: points that double the odds of a good outcome.
        base_points: points at ``base_odds``.
        base_odds: odds of a good outcome, to 1.
    """

    pdo: Annotated[float, Field(gt=0, le=1000)] = 20.0
    base_points: Annotated[float, Field(ge=0, le=10_000)] = 600.0
    base_odds: Annotated[float, Field(gt=0, le=1e6)] = 50.0


class Outputs(_Strict):
    """What leaves the run besides each party's own part.

    Attributes:
        coordinator_metrics: whether the coordinator is shown loss, AUC and KS.
    """

    coordinator_metrics: bool = False


class Contract(_Strict):
    """See the module; ``docs/contract.md`` explains every field."""

    version: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,63}$")]
    purpose: Annotated[Sentence, Field(min_length=1, max_length=2000)]
    parties: Annotated[tuple[Party, ...], Field(min_length=2, max_length=64)]
    model: ScorecardModel = ScorecardModel()
    alignment: Alignment
    between_banks: BetweenBanks = BetweenBanks()
    bank_model: NetworkModel | None = None
    holdout_share: Annotated[float, Field(ge=0.05, le=0.9)] = 0.3
    minimum_cohort: Annotated[int, Field(ge=1, le=_MAX_COUNT)] = 30
    outputs: Outputs = Outputs()
    points: Points = Points()
    max_runs: Annotated[int, Field(ge=1, le=1000)] = 3
    scoring: Scoring | None = None
    portfolio: Portfolio | None = None
    privacy: Privacy = Privacy()
    log: LogTerms
    valid_from: datetime
    valid_until: datetime
    retention_days: Annotated[int, Field(ge=0, le=36_500)] = 365
    code_digest: Digest
    nonce: Digest

    @field_validator("valid_from", "valid_until")
    @classmethod
    def _has_a_zone(cls, value: datetime) -> datetime:
        if value.tzinfo is None:
            raise ValueError("needs a time zone, e.g. 2026-01-31T00:00:00Z")
        if value.microsecond:
            # Prevent two contracts that end at different instants from having one digest.
            raise ValueError("expected whole seconds")
        try:
            return value.astimezone(UTC)
        except OverflowError as error:
            raise ValueError("lies outside the years 1 to 9999 in UTC") from error

    @field_serializer("valid_from", "valid_until", when_used="json")
    def _as_utc(self, value: datetime) -> str:
        return value.replace(tzinfo=None).isoformat(timespec="seconds") + "Z"

    @model_validator(mode="after")
    def _is_consistent(self) -> Contract:
        for what in ("id", "identity_key", "flower_key"):
            values = [getattr(party, what) for party in self.parties]
            if len(set(values)) < len(values):
                raise ValueError(f"two parties have the same {what}")
        verify_banks(self.banks(), self.between_banks)
        self._verify_loss()
        verify_network_terms(self)
        verify_dropping(self)
        if self.valid_until <= self.valid_from:
            raise ValueError("valid_until must be after valid_from")
        if self.scoring is not None and not self.holders():
            raise ValueError(
                "scoring needs a feature_holder: without one each bank has the whole model and its rows"
            )
        self._verify_reason_groups()
        if self.privacy.labels and self.outputs.coordinator_metrics:
            raise ValueError(
                "coordinator_metrics come from the outcomes themselves, which privacy.labels protects: choose one"
            )
        if self.portfolio and self.privacy.network:
            raise ValueError(
                "a portfolio has no noise, so it breaks the promise of privacy.network: choose one"
            )
        return self

    def _verify_loss(self) -> None:
        """Check that what is promised of sums over banks holds for those without a lost bank, too."""
        chosen = self.between_banks.lost_bank
        if chosen == "end":
            return
        if self.holders():
            raise ValueError(
                f"lost_bank: {chosen} goes without feature holders: their sums are made for all banks"
            )
        if self.portfolio:
            raise ValueError(
                f"lost_bank: {chosen} goes without a portfolio: its cells are chosen with the counts of all banks"
            )
        if chosen == "repeat" and self.privacy.network:
            raise ValueError(
                "lost_bank: repeat goes without privacy.network: a vector that is sent anew has the same noise; choose recover"
            )
        if chosen == "recover" and len(self.banks()) < FEWEST_TO_RECOVER:
            raise ValueError(
                f"lost_bank: recover needs {FEWEST_TO_RECOVER} label_holders, found {len(self.banks())}: among fewer, one that "
                "is lost takes with it what the others need"
            )

    def _verify_reason_groups(self) -> None:
        columns = {holder.id: {column.name for column in holder.columns} for holder in self.holders()}
        for group in self.scoring.reasons if self.scoring else ():
            if not set(group.columns) <= columns.get(group.party, set()):
                raise ValueError(
                    f"reason group {group.name}: {group.party} is no feature_holder with these columns"
                )

    def holders(self) -> tuple[Party, ...]:
        """Return the feature holders, in the contract's order."""
        return tuple(party for party in self.parties if party.role == "feature_holder")

    def banks(self) -> tuple[Party, ...]:
        """Return the label holders, in the contract's order."""
        return tuple(party for party in self.parties if party.role == "label_holder")

    def expendable(self) -> frozenset[str]:
        """Return the parties without which a run goes on: banks other than the first, if the contract says so."""
        if self.between_banks.lost_bank == "end":
            return frozenset()
        return frozenset(bank.id for bank in self.banks()[1:])

    def expendable_in_serving(self) -> frozenset[str]:
        """Return the parties without which a serving run goes on: banks, if there are several; no sum is over them."""
        banks = self.banks()
        return frozenset(bank.id for bank in banks) if len(banks) > 1 else frozenset()

    def fewest_banks(self) -> int:
        """Return how many banks take part in every sum, at least, of a run that is not ended for a loss."""
        if self.between_banks.lost_bank == "end":
            return len(self.banks())
        # The shares of noise are made for one loss: docs/adr/0008.
        return len(self.banks()) - 1 if self.privacy.network else FEWEST_LEFT

    def party(self, party_id: str) -> Party:
        """Return one party.

        Raises:
            ConfigError: the contract has no such party.
        """
        for party in self.parties:
            if party.id == party_id:
                return party
        raise ConfigError(f"contract {self.name} has no party {party_id!r}")

    def is_monotone(self) -> bool:
        """Whether any party's column has to be monotone."""
        return any(column.monotone != "none" for party in self.parties for column in party.columns)

    def label_epsilon(self) -> float | None:
        """Return the privacy of one outcome; ``None`` if outcomes get no noise."""
        return self.privacy.labels.epsilon if self.privacy.labels else None

    def canonical(self) -> bytes:
        """Return the canonical form, RFC 8785 JSON."""
        return rfc8785.dumps(self.model_dump(mode="json"))

    def digest(self) -> str:
        """Return the SHA-256 of the canonical form, hexadecimal."""
        return hashlib.sha256(self.canonical()).hexdigest()

    def ring_seed(self) -> bytes:
        """Return the seed of the public ring elements, 32 bytes.

        It follows from the digest, which covers every party's keys and a nonce: nobody chooses it.
        """
        kdf = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"fedshare ring seed v1")
        return kdf.derive(bytes.fromhex(self.digest()))


def parse_contract(document: bytes | dict[str, Any]) -> Contract:
    """Return the contract in JSON bytes or in an already parsed document.

    Raises:
        ConfigError: it is not a contract; the message names the wrong fields, the first 20 of them.
    """
    try:
        parsed = json.loads(document) if isinstance(document, bytes) else document
        return Contract.model_validate(parsed)
    except ValidationError as error:
        raise ConfigError(f"contract: {problems(error, Contract)}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError("contract: expected JSON, found something else") from error
