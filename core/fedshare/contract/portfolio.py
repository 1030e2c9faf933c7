"""What a contract says about the portfolio of all banks: the section ``portfolio``. Without it none is added up."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

__all__ = ["DIMENSIONS", "OTHER", "Portfolio"]

DIMENSIONS = ("industry", "region")
"""The tables of a portfolio."""

OTHER = "other"
"""The cell of customers whose industry or region is not listed, or not known."""

Cell = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]


class Portfolio(BaseModel):
    """The tables of exposure and expected loss that the banks add up in every run.

    Attributes:
        industries: the cells of the table by industry, as every bank's data spells them; ``other`` is added.
        regions: the same by region.
        single_name_limit: of a name above this share of the exposure of all banks its own bank learns, and nobody else.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    industries: Annotated[tuple[Cell, ...], Field(min_length=1, max_length=200)]
    regions: Annotated[tuple[Cell, ...], Field(min_length=1, max_length=1000)]
    single_name_limit: Annotated[float, Field(gt=0, le=1)] = 0.05

    @field_validator("industries", "regions")
    @classmethod
    def _are_distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value) or OTHER in value:
            raise ValueError(f"expected distinct names; {OTHER!r} is always there")
        return value

    def cells(self, dimension: str) -> tuple[str, ...]:
        """Return the names of the cells of one of ``DIMENSIONS``, ``other`` last."""
        return (*(self.industries if dimension == "industry" else self.regions), OTHER)
