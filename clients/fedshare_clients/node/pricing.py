"""The sections ``pricing`` and ``portfolio`` of ``node.yaml``: a bank's costs and caps, and where its exposures are.

The first stands in no contract and reaches no other party: prices are each bank's own affair.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from fedshare.credit.pricing import Terms

__all__ = ["GuaranteeConfig", "PortfolioConfig", "PricingConfig"]

Name = Annotated[str, Field(min_length=1, max_length=200)]
Rate = Annotated[float, Field(ge=0, le=10)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GuaranteeConfig(_Strict):
    """A guarantor's offer for loans whose break-even rate is above the cap."""

    cover: Share
    """The share of the loss that the guarantor bears."""

    fee: Rate
    """What the lender pays for it, per unit lent and year."""


class PricingConfig(_Strict):
    """What this bank's loans cost, per unit lent and year (``fedshare.credit.pricing``)."""

    funding: Rate
    """The rate at which the bank borrows."""

    operation: Rate
    """The cost of handling a loan."""

    acquisition: Rate = 0.0
    """The cost of winning a customer, spread over the loan."""

    loss_given_default: Share
    """The share of a loan that a default loses."""

    capital: Share = 0.0
    """The share of a loan that is backed by own capital."""

    capital_return: Rate = 0.0
    """What that capital must earn beyond the funding rate."""

    guarantee: GuaranteeConfig | None = None
    """Offered above the cap; without one the answer there is to decline."""

    bands: Annotated[dict[Name, Annotated[float, Field(gt=0, le=10)]], Field(min_length=1)]
    """The highest rate that a kind of lender may charge, by its name."""

    cutoffs: Annotated[tuple[Share, ...], Field(min_length=1, max_length=50)] = (0.02, 0.05, 0.1, 0.2, 1.0)
    """The default probabilities above which nobody is served, for the table of the report."""

    def terms(self) -> Terms:
        """Return the costs as ``fedshare.credit.pricing`` takes them."""
        # Imported here: numpy is not needed to read a configuration.
        from fedshare.credit.pricing import Guarantee, Terms  # noqa: PLC0415

        guarantee = None if self.guarantee is None else Guarantee(self.guarantee.cover, self.guarantee.fee)
        return Terms(
            self.funding,
            self.operation,
            self.acquisition,
            self.loss_given_default,
            self.capital,
            self.capital_return,
            guarantee,
        )


class PortfolioConfig(_Strict):
    """Which of ``data.columns`` describe the portfolio; they need not be in a model."""

    exposure: Name
    """The amount outstanding: a numeric column, from 0 to 10^12 in the unit that the banks agreed on."""

    industry: Name
    """A categorical column, spelt as in the contract."""

    region: Name
    """A categorical column, spelt as in the contract."""
