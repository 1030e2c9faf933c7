"""``node.yaml``: all that an institution decides about its node, in one file that the coordinator never sees.

The coordinator cannot name a table, a path or a query: where the rows are, and which of their columns a
contract may use under which name, is said here and nowhere else. Relative paths are relative to the file.
Unknown fields are refused.

    party: tax-bureau
    role: feature_holder
    coordinator:
      address: coordinator.example:9443
      fleet: coordinator.example:9092
    data:
      source: parquet
      path: filings.parquet
      identifier: credit_code
      columns:
        turnover: {kind: numeric, column: turnover_12m, bins: 10}
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from fedshare.errors import ConfigError
from fedshare.privacy.budget import Amount, Mechanism
from fedshare.problems import problems
from fedshare.scoring.answer import Band, verify_bands
from fedshare.settings import parse_yaml

from .pricing import PortfolioConfig, PricingConfig  # noqa: TC001 - pydantic reads it

__all__ = [
    "BandConfig",
    "ColumnConfig",
    "CoordinatorConfig",
    "DataConfig",
    "LimitsConfig",
    "NodeConfig",
    "PrivacyConfig",
    "ScoringConfig",
    "load_config",
    "parse_config",
]

Name = Annotated[str, Field(min_length=1, max_length=200)]
Address = Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class CoordinatorConfig(_Strict):
    """Where the coordinator is. ``fedshare-node init --invitation`` fills this in from the invitation."""

    address: Address
    """``host:port`` of enrolment, contracts and the exchange (gRPC, mutual TLS)."""

    fleet: Address
    """``host:port`` of Flower's fleet endpoint."""

    ca_certificate: Path = Path("state/coordinator-ca.pem")
    """The coordinator's certificate authority, PEM; written by ``enrol``."""


class ColumnConfig(_Strict):
    """One column that contracts may use, under the name it has there."""

    kind: Literal["numeric", "categorical"]
    """How its cells are read."""

    column: Name | None = None
    """Its name in the source, if it has another one there."""

    bins: Annotated[int, Field(ge=2, le=100)] = 10
    """The largest number of bins it may be cut into."""

    monotone: Literal["none", "increasing", "decreasing"] = "none"
    """The direction in which the score must go along the ordered bins."""


class DataConfig(_Strict):
    """Where the rows are and what they mean."""

    source: Literal["csv", "parquet", "postgresql", "query"]
    """The kind of source; ``query`` is SQL over CSV and Parquet files."""

    path: Path | None = None
    """The file of a ``csv`` or ``parquet`` source."""

    encoding: str = "utf-8"
    """The text encoding of a ``csv`` source, e.g. ``gb18030``."""

    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    """What separates the cells of a ``csv`` source."""

    missing: tuple[str, ...] = ("", "NA", "N/A", "NaN", "nan", "NULL", "null")
    """Text that means a missing cell, in any source."""

    url: SecretStr | None = None
    """``postgresql://`` URL. A URL with a password belongs into ``url_env`` instead."""

    url_env: Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]*$")] | None = None
    """The environment variable that holds the URL."""

    table: Annotated[str, Field(pattern=r"^[^\"\x00]+$")] | None = None
    """The table or view of a ``postgresql`` source, ``schema.name`` or ``name``."""

    query: str | None = None
    """A SELECT: instead of a PostgreSQL table, in a read-only transaction; or over files, by DuckDB."""

    folder: Path = Path()
    """What relative paths in a query over files are relative to."""

    identifier: Name
    """The column that names the enterprise."""

    identifier_kind: Literal["uscc", "opaque"] = "uscc"
    """Unified social credit codes, or any text that the parties agree on."""

    check_digits: bool = True
    """Refuse unified social credit codes whose check digit is wrong."""

    label: Name | None = None
    """The column with the outcome, 0 or 1 (label holders)."""

    weight: Name | None = None
    """The column with positive weights (label holders, optional); every row weighs 1 without it."""

    columns: dict[Name, ColumnConfig] = {}
    """The columns that contracts may use, by their name there."""

    roster: Path | None = None
    """The region's enterprise codes, one a line: a holder adds those it lacks as rows without values."""

    @model_validator(mode="after")
    def _says_where(self) -> Self:
        if self.source == "postgresql":
            if (self.url is None) == (self.url_env is None):
                raise ValueError("a postgresql source needs exactly one of url and url_env")
            if (self.table is None) == (self.query is None):
                raise ValueError("a postgresql source needs exactly one of table and query")
            if self.path is not None:
                raise ValueError("a postgresql source has no path")
        elif self.source == "query":
            if self.query is None or any(
                value is not None for value in (self.path, self.url, self.url_env, self.table)
            ):
                raise ValueError("a query source needs query, and neither path, url nor table")
        elif self.path is None:
            raise ValueError(f"a {self.source} source needs a path")
        elif any(value is not None for value in (self.url, self.url_env, self.table, self.query)):
            raise ValueError(
                f"url, url_env, table and query belong to a postgresql source, not to {self.source}"
            )
        return self._keeps_apart()

    def _keeps_apart(self) -> Self:
        """Refuse a column that is the identifier, label or weight under another name: it would leak it."""
        private = {self.identifier, self.label, self.weight}
        for name, source_name in self.source_columns().items():
            if source_name in private:
                raise ValueError(
                    f"columns.{name}: the identifier, label or weight column cannot be a column of the model"
                )
        return self

    def source_columns(self) -> dict[str, str]:
        """Return the name in the source of every declared column, by its name in contracts."""
        return {name: column.column or name for name, column in self.columns.items()}


class BandConfig(_Strict):
    """One decision band of a bank."""

    name: Name
    """What answers call it."""

    up_to: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The highest probability of default in it; the last band ends with 1."""


class ScoringConfig(_Strict):
    """How a bank's own systems ask for scores; without this section nothing listens."""

    listen: Address = "127.0.0.1:9444"
    """Where the service for the bank's systems listens (gRPC, mutual TLS with certificates of the bank's own)."""

    names: Annotated[tuple[Name, ...], Field(min_length=1)] = ("localhost", "127.0.0.1")
    """Host names and addresses by which the bank's systems reach it; they stand in its certificate."""

    bands: tuple[BandConfig, ...] = ()
    """Decision bands in ascending order of their limits; none by default."""

    answer_timeout_seconds: Annotated[float, Field(gt=0, le=600)] = 5.0
    """How long holders may take to answer for an enterprise that is asked for the first time."""

    @model_validator(mode="after")
    def _bands_are_in_order(self) -> Self:
        try:
            verify_bands([Band(band.name, band.up_to) for band in self.bands])
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self


class LimitsConfig(_Strict):
    """Bounds of what the node does, whatever a contract or the coordinator asks for."""

    receive_timeout_seconds: Annotated[float, Field(gt=0, le=86_400)] = 600.0
    """How long to wait for another party's message within a phase."""

    connect_timeout_seconds: Annotated[float, Field(gt=0, le=3_600)] = 60.0
    """How long to try to reach the coordinator before a command gives up."""

    rows: Annotated[int, Field(ge=1)] = 50_000_000
    """More rows than this are refused."""


class PrivacyConfig(_Strict):
    """Label holders: what all runs of all contracts together may take of its customers' privacy."""

    label_epoch: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")] = "1"
    """Which outcome ``data.label`` is. The noise on an outcome is drawn once per epoch: name a new one when outcomes are
    determined anew, a year later for example."""

    label_epsilon: Annotated[float, Field(ge=0, le=1000)] = 5.0
    """Most epsilon that one customer's outcomes may lose, over all epochs."""

    network_epsilon: Annotated[float, Field(ge=0, le=1000)] = 10.0
    """Most epsilon that noisy networks may take of one customer's presence, over all runs."""

    network_delta: Annotated[float, Field(ge=0, lt=1)] = 1e-4
    """The same of delta."""

    without_noise: tuple[Mechanism, ...] = ()
    """What contracts may use without noise although it is protected, because a limit above is set or a run has taken from it:
    ``labels`` (outcomes) or ``network`` (customers). A run without noise undoes what the noise of others hides."""

    def limited(self) -> set[Mechanism]:
        """Return the mechanisms whose limits this file sets."""
        found: set[Mechanism] = set()
        if "label_epsilon" in self.model_fields_set:
            found.add("labels")
        if {"network_epsilon", "network_delta"} & self.model_fields_set:
            found.add("network")
        return found

    def limits(self) -> dict[Mechanism, Amount]:
        """Return the limit of each mechanism."""
        return {
            "labels": Amount(self.label_epsilon, 0.0),
            "network": Amount(self.network_epsilon, self.network_delta),
        }


class NodeConfig(_Strict):
    """One institution's node."""

    party: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
    """The party's id in contracts."""

    role: Literal["feature_holder", "label_holder"]
    """What the institution brings: columns about a region's enterprises, or customers and their outcome."""

    state: Path = Path("state")
    """The folder of keys, contracts and results; made by ``init`` with mode 0700."""

    coordinator: CoordinatorConfig

    data: DataConfig

    holdout_seed: Annotated[SecretStr, Field(min_length=64, max_length=64)] | None = None
    """Label holders: 32 bytes in hexadecimal that decide which customers are held out. Private: who knows it
    and a customer's code knows whether the customer was trained on. Without it, the one that ``init`` made in
    the state folder counts."""

    limits: LimitsConfig = LimitsConfig()

    scoring: ScoringConfig | None = None
    """Label holders: the service that answers the bank's own systems."""

    privacy: PrivacyConfig = PrivacyConfig()

    pricing: PricingConfig | None = None
    """Label holders: what loans cost, for the report's triangle; left out, the report has none."""

    portfolio: PortfolioConfig | None = None
    """Label holders: where exposure, industry and region are, for contracts with a portfolio."""

    @model_validator(mode="after")
    def _fits_its_role(self) -> Self:
        if self.role == "label_holder" and self.data.label is None:
            raise ValueError("a label_holder needs data.label, the column with the 0/1 outcome")
        if self.role == "feature_holder":
            if self.data.label is not None or self.data.weight is not None or self.holdout_seed is not None:
                raise ValueError("data.label, data.weight and holdout_seed belong to a label_holder")
            if self.scoring is not None:
                raise ValueError("scoring belongs to a label_holder")
            if not self.data.columns:
                raise ValueError("a feature_holder needs at least one column in data.columns")
        elif self.data.roster is not None:
            raise ValueError("data.roster belongs to a feature_holder")
        if self.holdout_seed is not None and not re.fullmatch(
            "[0-9a-f]{64}", self.holdout_seed.get_secret_value()
        ):
            raise ValueError("holdout_seed must be 32 bytes as 64 lower-case hexadecimal digits")
        return self

    @model_validator(mode="after")
    def _describes_its_portfolio(self) -> Self:
        if self.role == "feature_holder" and (self.pricing is not None or self.portfolio is not None):
            raise ValueError("pricing and portfolio belong to a label_holder")
        if self.portfolio is not None and self.pricing is None:
            raise ValueError("portfolio needs pricing, for its loss_given_default")
        for name in self.portfolio.model_dump().values() if self.portfolio else ():
            if name not in self.data.columns:
                raise ValueError(f"portfolio: there is no column {name} in data.columns")
        return self

    def database_url(self) -> str:
        """Return the URL of the PostgreSQL source.

        Raises:
            ConfigError: the environment variable that should hold it is not set.
        """
        if self.data.url is not None:
            return self.data.url.get_secret_value()
        name = self.data.url_env or ""
        url = os.environ.get(name)
        if not url:
            raise ConfigError(f"data.url_env: set the environment variable {name} to the postgresql:// URL")
        return url


def load_config(path: Path) -> NodeConfig:
    """Return the configuration in the file at ``path``, its paths resolved against the file's folder.

    Raises:
        ConfigError: the file cannot be read or is not a configuration; the message names every wrong field.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected UTF-8 text; save the file as UTF-8") from error
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); copy one from deploy/node, or name yours with --config"
        ) from error
    return parse_config(text, path)


def parse_config(text: str, path: Path) -> NodeConfig:
    """Return the configuration in ``text``, as if it were in the file at ``path``.

    Raises:
        ConfigError: as ``load_config``.
    """
    try:
        config = NodeConfig.model_validate(parse_yaml(text, path))
    except ValidationError as error:
        raise ConfigError(f"{path}: {problems(error, NodeConfig, 'node.yaml')}") from error
    return _resolved(config, path.resolve().parent)


def _resolved(config: NodeConfig, folder: Path) -> NodeConfig:
    """Return ``config`` with every relative path made absolute from ``folder``."""
    data, coordinator = config.data, config.coordinator
    return config.model_copy(
        update={
            "state": folder / config.state,
            "coordinator": coordinator.model_copy(
                update={"ca_certificate": folder / coordinator.ca_certificate}
            ),
            "data": data.model_copy(
                update={
                    "path": None if data.path is None else folder / data.path,
                    "folder": folder / data.folder,
                    "roster": None if data.roster is None else folder / data.roster,
                }
            ),
        }
    )
