"""What a contract says about noise: the section ``privacy``. Without it there is none."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["LabelPrivacy", "Privacy"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LabelPrivacy(_Strict):
    """Randomised response on the banks' outcomes (``fedshare.privacy.randomised_response``).

    Attributes:
        epsilon: of one outcome, whatever leaves the bank, over all runs in one label epoch of the bank.
    """

    epsilon: Annotated[float, Field(ge=0.01, le=20)]


class Privacy(_Strict):
    """Which noise is added where.

    Attributes:
        labels: of the outcomes, against everyone outside their bank.
    """

    labels: LabelPrivacy | None = None
