"""What a contract says about a network that the banks train on their own columns: the section ``bank_model``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from .model import Contract

__all__ = ["NetworkModel", "Setting", "verify_network_terms"]

Setting: TypeAlias = bool | int | float | str
_KIND = r"^[a-z][a-z0-9-]{0,31}$"
_SETTING = r"^[a-z][a-z0-9_]{0,31}$"


class NetworkModel(BaseModel):
    """A network and how the banks train it together.

    Attributes:
        kind: a registered network: ``logistic``, ``mlp``, ``resnet``, or one of an institution's own.
        settings: of that kind; left out ones have its defaults.
        code_digest: SHA-256 of the file that defines a network which is not one of fedshare's.
        algorithm: how the banks' updates are combined: ``fedavg`` (McMahan et al. 2017), ``fedprox`` (Li et al.
            2020) or ``fedadam`` (Reddi et al. 2021).
        rounds: sums over banks, at most.
        rounds_per_iteration: beside feature holders: sums over banks after each of their directions.
        local_epochs: passes over a bank's own training customers between two sums.
        batch_size: customers per step of a pass.
        learning_rate: of those steps.
        momentum: of those steps.
        weight_decay: pull of those steps towards zero.
        proximal: ``fedprox``: pull towards the common network.
        server_learning_rate: ``fedadam``: step along the mean update.
        patience: rounds without a lower held-out loss over all banks after which training goes back to the
            lowest and stops; 0: never.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Annotated[str, Field(pattern=_KIND)]
    settings: Annotated[dict[Annotated[str, Field(pattern=_SETTING)], Setting], Field(max_length=50)] = {}
    code_digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    algorithm: Literal["fedavg", "fedprox", "fedadam"] = "fedavg"
    rounds: Annotated[int, Field(ge=1, le=10_000)] = 50
    rounds_per_iteration: Annotated[int, Field(ge=1, le=100)] = 1
    local_epochs: Annotated[int, Field(ge=1, le=100)] = 1
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 1e-4
    proximal: Annotated[float, Field(ge=0, le=1000)] = 0.0
    server_learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.01
    patience: Annotated[int, Field(ge=0, le=10_000)] = 0

    @model_validator(mode="after")
    def _pulls_if_fedprox(self) -> NetworkModel:
        if (self.algorithm == "fedprox") != (self.proximal > 0):
            raise ValueError("proximal above 0 goes with algorithm: fedprox, and only with it")
        return self


def verify_network_terms(contract: Contract) -> None:
    """Check that what a contract says about networks goes together.

    Raises:
        ValueError: it does not; the message says what.
    """
    if contract.bank_model is None:
        if not contract.holders():
            raise ValueError("a contract without a feature_holder needs a bank_model")
        if contract.privacy.network:
            raise ValueError("privacy.network needs a bank_model")
        return
    if not contract.holders() and len(contract.banks()) < 2:
        raise ValueError("a bank_model without a feature_holder needs at least two label_holders")
    columns = contract.banks()[0].columns
    if not columns:
        raise ValueError("a bank_model needs columns of the label_holders")
    if any(column.monotone != "none" for column in columns):
        raise ValueError("a bank_model cannot keep a column of the label_holders monotone")
    if contract.privacy.network:
        _verify_private(contract, contract.bank_model)


def _verify_private(contract: Contract, model: NetworkModel) -> None:
    """Check that nothing leaves a bank beside noisy gradients."""
    private = contract.privacy.network
    unprotected = {
        "a feature_holder": bool(contract.holders()),
        "between_banks.personal_intercepts": contract.between_banks.personal_intercepts,
        "between_banks.count_shared_customers": contract.between_banks.count_shared_customers,
        "portfolio": contract.portfolio is not None,
        "outputs.coordinator_metrics": contract.outputs.coordinator_metrics,
        "bank_model.patience": model.patience > 0,
        "algorithm: fedprox": model.algorithm == "fedprox",
    }
    if found := [name for name, is_there in unprotected.items() if is_there]:
        raise ValueError(f"privacy.network does not go with {', '.join(found)}")
    numeric = {column.name for column in contract.banks()[0].columns if column.kind == "numeric"}
    if private is not None and numeric != private.ranges.keys():
        wrong = ", ".join(sorted(numeric ^ private.ranges.keys()))
        raise ValueError(
            f"privacy.network.ranges must name every numeric column of the label_holders: see {wrong}"
        )
