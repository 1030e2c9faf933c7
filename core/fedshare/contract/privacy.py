"""What a contract says about noise: the section ``privacy``. Without it there is none."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_validator

__all__ = ["LabelPrivacy", "NetworkPrivacy", "Privacy"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LabelPrivacy(_Strict):
    """Randomised response on the banks' outcomes (``fedshare.privacy.randomised_response``).

    Attributes:
        epsilon: of one outcome, whatever leaves the bank, over all runs in one label epoch of the bank.
    """

    epsilon: Annotated[float, Field(ge=0.01, le=20)]


class NetworkPrivacy(_Strict):
    """Noise on the banks' network (``fedshare.training.network.private``), for the presence of each customer.

    Attributes:
        epsilon: of one run.
        delta: of one run.
        clip_norm: what the gradient of one customer is clipped to.
        sample_rate: chance of a customer to be in a round.
        lot_size: what a round's sum is divided by, about ``sample_rate`` times the training customers of all banks; it
            is fixed here because their number is private.
        ranges: numeric column to the least and largest value that is told apart: bins from the data would not be
            private.
    """

    epsilon: Annotated[float, Field(ge=0.01, le=100)]
    delta: Annotated[float, Field(gt=0, le=0.01)]
    clip_norm: Annotated[float, Field(ge=1e-4, le=1e4)] = 1.0
    sample_rate: Annotated[float, Field(gt=0, le=1)]
    lot_size: Annotated[int, Field(ge=1, le=1_000_000_000)]
    ranges: dict[str, tuple[FiniteFloat, FiniteFloat]] = {}

    @field_validator("ranges")
    @classmethod
    def _ascend(cls, value: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for name, (low, high) in value.items():
            if not low < high:
                raise ValueError(f"the range of {name} must ascend")
        return value


class Privacy(_Strict):
    """Which noise is added where.

    Attributes:
        labels: on the outcomes, against everyone outside their bank.
        network: on the gradients of the banks' network, against everyone outside a customer's bank.
    """

    labels: LabelPrivacy | None = None
    network: NetworkPrivacy | None = None
