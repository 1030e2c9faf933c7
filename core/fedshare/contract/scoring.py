"""What a contract says about using the model after training: the section ``scoring``.

Without the section nothing is served under the contract: every node refuses a serving run.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from fedshare.errors import ProtocolError
from fedshare.identity.keys import decode_public_key

__all__ = ["Profile", "ReasonGroup", "Scoring"]

_PARTY = r"^[a-z][a-z0-9-]{0,31}$"
_GROUP = r"^[a-z][a-z0-9-]{0,31}$"
# As for the contract's other counts: no region has more enterprises.
_MAX_COUNT = 1_000_000_000
_MAX_SECONDS = 366 * 86_400


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ReasonGroup(_Strict):
    """Columns of one holder whose joint contribution that holder releases, in whole points.

    Attributes:
        name: what the bank tells an applicant, e.g. ``tax-arrears``.
        party: the feature holder.
        columns: names of its columns.
    """

    name: Annotated[str, Field(pattern=_GROUP)]
    party: Annotated[str, Field(pattern=_PARTY)]
    columns: Annotated[tuple[str, ...], Field(min_length=1, max_length=1000)]


class Profile(_Strict):
    """What each holder shows a bank of an enterprise that consented to it by name.

    Attributes:
        consent_key: Ed25519 public key that attests consents, base64 of 32 bytes.
        releases: ``coverage``: how many of its columns have a value; ``band``: in which fifth of its universe the
            enterprise's partial score lies; ``reasons``: which of its reason groups stand below neutral.
    """

    consent_key: str
    releases: Annotated[tuple[Literal["coverage", "band", "reasons"], ...], Field(min_length=1, max_length=3)]

    @field_validator("consent_key")
    @classmethod
    def _is_a_key(cls, value: str) -> str:
        try:
            decode_public_key(value)
        except ProtocolError as error:
            raise ValueError(
                "expected an Ed25519 public key in base64 or, in a draft, the id of one of its parties; found neither"
            ) from error
        return value


class Scoring(_Strict):
    """How the model may be used.

    Attributes:
        quota: identifiers that a bank may ask each holder for to score them, over all serving runs.
        refresh_seconds: how often a holder releases its column of scores anew.
        max_age_seconds: a score from older columns is refused.
        fallback: what a bank answers where it has no shared score: nothing (``withhold``), or the score of its
            own columns alone, marked as such (``own_model``).
        reasons: the feature groups whose contributions holders release; none by default.
        profile: what holders show of an enterprise that consented; nothing by default.
    """

    quota: Annotated[int, Field(ge=1, le=_MAX_COUNT)]
    refresh_seconds: Annotated[int, Field(ge=1, le=_MAX_SECONDS)] = 86_400
    max_age_seconds: Annotated[int, Field(ge=1, le=_MAX_SECONDS)] = 2 * 86_400
    fallback: Literal["withhold", "own_model"] = "withhold"
    reasons: Annotated[tuple[ReasonGroup, ...], Field(max_length=100)] = ()
    profile: Profile | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Scoring:
        if self.max_age_seconds < self.refresh_seconds:
            raise ValueError("max_age_seconds must be at least refresh_seconds, or every score goes stale")
        names = [group.name for group in self.reasons]
        if len(set(names)) < len(names):
            raise ValueError("two reason groups have the same name")
        placed = [(group.party, column) for group in self.reasons for column in group.columns]
        if len(set(placed)) < len(placed):
            # Prevent overlapping groups from showing a single column by their difference.
            raise ValueError("a column is in two reason groups")
        return self
