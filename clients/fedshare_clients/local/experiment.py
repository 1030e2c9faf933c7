"""An experiment: a whole federation on one machine, described in one YAML file.

Paths may use environment variables (``${FEDSHARE_DATA}/heloc``) and are otherwise relative to the file.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fedshare.contract.banks import BetweenBanks
from fedshare.contract.model import Alignment, Column, Outputs, Points, ScorecardModel
from fedshare.contract.network import NetworkModel  # noqa: TC001 - pydantic reads it
from fedshare.contract.portfolio import Portfolio  # noqa: TC001 - pydantic reads it
from fedshare.contract.privacy import Privacy
from fedshare.contract.scoring import Profile, Scoring
from fedshare.errors import ConfigError, DataError
from fedshare.problems import problems
from fedshare.settings import parse_yaml
from fedshare_clients.node.config import BandConfig  # noqa: TC001 - pydantic reads it
from fedshare_clients.node.pricing import PortfolioConfig, PricingConfig  # noqa: TC001 - pydantic reads it

from .terms import verify_terms

__all__ = [
    "Experiment",
    "ExperimentParty",
    "Source",
    "load_experiment",
    "parse_experiment",
    "read_yaml",
    "verify_files",
]


_PARTY_NAME = r"[a-z][a-z0-9-]{0,31}"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Strict):
    """Where a party's rows are.

    Attributes:
        kind: the kind of source; ``query`` is SQL over files, read by DuckDB.
        path: file of a ``csv`` or ``parquet`` source.
        url: connection URL of a ``postgresql`` source.
        table: its table or view.
        query: a SELECT instead of a table, or that of a ``query`` source.
        identifier: the column that names the enterprise.
        label: the 0/1 outcome, at label holders.
    """

    kind: Literal["csv", "parquet", "postgresql", "query"] = "parquet"
    path: str | None = None
    url: str | None = None
    table: str | None = None
    query: str | None = None
    identifier: str = "enterprise_id"
    label: str | None = None


class ExperimentParty(_Strict):
    """One institution: its role, its source and the columns it contributes; a name alone is a numeric column.

    ``pricing`` is what a bank's loans cost, for its report, and ``portfolio`` which columns of its source describe its
    exposures; these need not be among ``columns``. ``bands`` are a bank's decision bands, and ``applicants`` whom it scores
    where the experiment has ``scoring``: without it, its own rows.
    """

    role: Literal["feature_holder", "label_holder"]
    source: Source
    columns: tuple[Column, ...] = ()
    pricing: PricingConfig | None = None
    portfolio: PortfolioConfig | None = None
    bands: tuple[BandConfig, ...] = ()
    applicants: Source | None = None

    @field_validator("columns", mode="before")
    @classmethod
    def _names_are_columns(cls, value: object) -> object:
        if not isinstance(value, list):
            return value
        return [{"name": each} if isinstance(each, str) else each for each in value]

    @field_validator("columns")
    @classmethod
    def _columns_differ(cls, columns: tuple[Column, ...]) -> tuple[Column, ...]:
        names = [column.name for column in columns]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"listed twice: {', '.join(doubled)}; keep one of each")
        return columns

    @model_validator(mode="after")
    def _has_what_its_role_needs(self) -> ExperimentParty:
        if self.role == "label_holder" and self.source.label is None:
            raise ValueError("a label_holder needs source.label, the column with the 0/1 outcome")
        if self.role == "feature_holder" and not self.columns:
            raise ValueError("a feature_holder needs at least one column")
        if self.role == "feature_holder" and (
            self.pricing or self.portfolio or self.bands or self.applicants
        ):
            raise ValueError("pricing, portfolio, bands and applicants belong to a label_holder")
        return self


class _Profile(Profile):
    """As in the contract, or with the party that attests consents in the place of its key, which enrolment supplies."""

    @field_validator("consent_key")
    @classmethod
    def _is_a_key(cls, value: str) -> str:
        return value  # `verify_terms` tells whether it is one, or a party


class _Scoring(Scoring):
    profile: _Profile | None = None


class Experiment(_Strict):
    """A federation to run: parties, model and what the contract between them will say.

    With ``scoring`` the model is served once after training, and every bank scores its applicants.

    ``roster`` is the file with the region's enterprise codes, one a line, for ``missing_enterprises: impute``.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,63}$")]
    purpose: str = "local experiment"
    seed: int = 0
    parties: dict[str, ExperimentParty]
    model: ScorecardModel = ScorecardModel()
    alignment: Alignment
    between_banks: BetweenBanks = BetweenBanks()
    bank_model: NetworkModel | None = None
    roster: str | None = None
    holdout_share: Annotated[float, Field(ge=0.05, le=0.9)] = 0.3
    minimum_cohort: Annotated[int, Field(ge=1)] = 30
    outputs: Outputs = Outputs(coordinator_metrics=True)
    points: Points = Points()
    portfolio: Portfolio | None = None
    privacy: Privacy = Privacy()
    scoring: _Scoring | None = None
    max_runs: Annotated[int, Field(ge=1, le=1000)] = 1

    @field_validator("parties")
    @classmethod
    def _names_are_those_of_a_contract(
        cls, parties: dict[str, ExperimentParty]
    ) -> dict[str, ExperimentParty]:
        for name in parties:
            if not re.fullmatch(_PARTY_NAME, name) or name == "coordinator":
                raise ValueError(
                    f"{name!a} cannot be a party's name: expected a lower-case letter, then up to 31 lower-case "
                    "letters, digits or '-', and not coordinator"
                )
        return parties

    @model_validator(mode="after")
    def _has_both_roles(self) -> Experiment:
        roles = [party.role for party in self.parties.values()]
        if "label_holder" not in roles or ("feature_holder" not in roles and self.bank_model is None):
            raise ValueError(
                "an experiment needs at least one label_holder, and a feature_holder or a bank_model"
            )
        return self

    def spared(self) -> tuple[str, ...]:
        """Return the banks without which a run goes on: all but the first, if the contract says so."""
        if self.between_banks.lost_bank == "end":
            return ()
        return tuple(name for name, party in self.parties.items() if party.role == "label_holder")[1:]

    def contract_draft(self) -> dict[str, Any]:
        """Return the contract as its author would write it, without keys, which enrolment supplies."""
        parties = [
            {"id": name, "role": party.role, "columns": [column.model_dump() for column in party.columns]}
            for name, party in self.parties.items()
        ]
        shared = self.model_dump(
            mode="json",
            include={
                "name",
                "purpose",
                "model",
                "alignment",
                "between_banks",
                "bank_model",
                "holdout_share",
                "minimum_cohort",
                "outputs",
                "points",
                "portfolio",
                "privacy",
                "scoring",
                "max_runs",
            },
        )
        return {**shared, "parties": parties}


def load_experiment(path: Path) -> Experiment:
    """Return the experiment in the YAML file at ``path``, its paths resolved.

    Raises:
        ConfigError: the file cannot be read or does not describe an experiment; the message names the field.
    """
    return parse_experiment(read_yaml(path), path)


def read_yaml(path: Path) -> Any:  # noqa: ANN401 - whatever YAML can say
    """Return what is in the YAML file at ``path``, environment variables put in.

    Raises:
        ConfigError: it cannot be read, is not YAML with unique keys, or a variable is not set.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected UTF-8 text; save the file as UTF-8") from error
    return parse_yaml(_expand(text, path), path)


def parse_experiment(document: Any, path: Path) -> Experiment:  # noqa: ANN401 - as ``read_yaml``
    """Return the experiment in ``document``, as if it stood in the file at ``path``.

    Raises:
        ConfigError: it does not describe an experiment whose parties could sign its contract; the message names the field.
    """
    try:
        if isinstance(document, dict) and document.get("roster"):
            document = _with_roster(document, path.parent)
        experiment = Experiment.model_validate(document)
    except OSError as error:
        raise ConfigError(f"{path}: the roster cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {problems(error, Experiment, 'experiment')}") from error
    try:
        verify_terms(experiment.contract_draft())
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    parties = {
        name: party.model_copy(
            update={
                "source": _resolved(party.source, path.parent),
                "applicants": party.applicants and _resolved(party.applicants, path.parent),
            }
        )
        for name, party in experiment.parties.items()
    }
    return experiment.model_copy(update={"parties": parties})


def verify_files(experiment: Experiment) -> None:
    """Check that every file that the experiment names is there.

    Raises:
        DataError: one is not.
    """
    for name, party in experiment.parties.items():
        for source in filter(None, (party.source, party.applicants)):
            if source.path is not None and not Path(source.path).is_file():
                raise DataError("there is no such file; correct the path", party=name, source=source.path)


def _with_roster(document: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the document with the roster's path resolved, and its digest where the contract has it."""
    roster = (folder / str(document["roster"])).resolve()
    document = {**document, "roster": str(roster)}
    if isinstance(document.get("alignment"), dict):
        digest = hashlib.sha256(roster.read_bytes()).hexdigest()
        document["alignment"] = {**document["alignment"], "roster_digest": digest}
    return document


def _expand(text: str, path: Path) -> str:
    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if not os.environ.get(name):
            raise ConfigError(
                f"{path}: needs the environment variable {name}, which is not set or empty; set it to the folder of the data"
            )
        return os.environ[name]

    return re.sub(r"\$\{([A-Z][A-Z0-9_]*)\}", value, text)


def _resolved(source: Source, folder: Path) -> Source:
    if source.path is None:
        return source
    return source.model_copy(update={"path": str((folder / source.path).resolve())})
