"""The exception tree, branched by what the caller does next.

::

    FedshareError
    ├── ConfigError          fix a setting, a file or a command line              exit 2
    ├── ParameterError       a cryptographic or statistical parameter is outside
    │                        what its security or exactness argument covers       exit 2
    ├── DataError            fix the data at its source                           exit 3
    ├── RefusedError         a party refuses: the contract does not say this      exit 4
    ├── ProtocolError        bytes from a peer are altered, replayed, reordered
    │                        or malformed: report it as an attack or a defect     exit 5
    ├── UnavailableError     a peer or a service cannot be reached: retry         exit 6
    │   └── PartyLostError   a party that the run can go on without is gone       exit 6
    ├── RunFailedError       the run ended before its model was complete          exit 7
    └── StorageError         the disk or the database refused to store            exit 8

No message carries a data value, a share, a key or a row: identifiers of parties and columns, counts, row
numbers and digests only. The table of exit codes is in ``docs/operating.md``.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "DataError",
    "FedshareError",
    "ParameterError",
    "PartyLostError",
    "ProtocolError",
    "RefusedError",
    "RunFailedError",
    "StorageError",
    "UnavailableError",
]


class FedshareError(Exception):
    """The root. ``exit_code`` is what a command exits with when this ends it."""

    exit_code = 1


class ConfigError(FedshareError):
    """A setting, a file or a command line has to be fixed."""

    exit_code = 2


class ParameterError(FedshareError):
    """A parameter lies outside what the security or exactness argument covers."""

    exit_code = 2


class DataError(FedshareError):
    """The data has to be fixed at its source.

    Attributes:
        party: whose data, as named in the contract or configuration; empty if not known yet.
        source: the file or table.
        row: 1-based number of the first offending row, without the header; ``None`` if it is not about a row.
        field: the column, or empty.
    """

    exit_code = 3

    def __init__(
        self, message: str, *, party: str = "", source: str = "", row: int | None = None, field: str = ""
    ) -> None:
        self.party = party
        self.source = source
        self.row = row
        self.field = field
        place = ", ".join(
            f"{name} {value}"
            for name, value in (("party", party), ("source", source), ("row", row), ("field", field))
            if value not in ("", None)
        )
        super().__init__(f"{place}: {message}" if place else message)


class RefusedError(FedshareError):
    """A party refuses to take part, because the contract it signed does not say this.

    Attributes:
        code: a stable word for the reason, e.g. ``contract_expired``; safe to show to the coordinator.
        party: who refuses.
        reason: the sentence without ``code`` and ``party``.
        private: whether only the code may leave this party, because the sentence tells of other contracts.
    """

    exit_code = 4

    def __init__(self, code: str, message: str, *, party: str = "", private: bool = False) -> None:
        self.code = code
        self.party = party
        self.reason = message
        self.private = private
        super().__init__(f"{party + ' refuses: ' if party else ''}{message} [{code}]")


class ProtocolError(FedshareError):
    """Bytes from a peer are altered, replayed, out of order or malformed."""

    exit_code = 5


class UnavailableError(FedshareError):
    """A peer or a service cannot be reached; trying again later may help."""

    exit_code = 6


class PartyLostError(UnavailableError):
    """A party is gone that the contract lets the run go on without.

    Attributes:
        party: which one.
    """

    def __init__(self, party: str) -> None:
        self.party = party
        super().__init__(f"{party} was lost: its connection ended and did not come back")


class RunFailedError(FedshareError):
    """The run ended before its model was complete; the message carries the first cause."""

    exit_code = 7


class StorageError(FedshareError):
    """The disk or the database refused to store."""

    exit_code = 8
