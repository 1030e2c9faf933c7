"""Contracts and the decisions on them, which are only ever added."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, select

from fedshare.audit.statements import ContractPublished
from fedshare.errors import ConfigError, RefusedError
from fedshare_server.storage.log import LogStore
from fedshare_server.storage.records import ContractRecord, DecisionRecord
from fedshare_server.storage.tables import Contract, ContractParty, Decision, Event, Revocation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

__all__ = ["ContractStore"]

_SHORTEST_PREFIX = 8
_SHOWN_DIGITS = 12


class ContractStore(LogStore):
    """What has been drafted and who has signed it."""

    def add_contract(self, digest: str, name: str, canonical: bytes, parties: Sequence[str]) -> None:
        """Store a contract and have it logged; storing the same one again changes nothing.

        Raises:
            ConfigError: it is too long for the audit log.
        """
        with self.transaction() as session:
            if session.scalar(select(Contract).where(Contract.digest == digest)) is not None:
                return
            session.add(Contract(digest=digest, name=name, canonical=canonical, drafted_at=self.now()))
            session.flush()
            self._say(session, ContractPublished, contract_digest=digest, document=canonical.decode())
            session.add_all(ContractParty(digest=digest, party=party) for party in parties)
            text = f"contract {name} ({digest[:12]}) is drafted for {', '.join(sorted(parties))}"
            session.add(Event(at=self.now(), run_id=None, party="", kind="contract_drafted", text=text))

    def contracts(self, party: str | None = None) -> list[ContractRecord]:
        """Return the contracts, newest first; with ``party``, those that name it."""
        query = select(Contract).order_by(Contract.number.desc())
        if party is not None:
            query = query.join(ContractParty, ContractParty.digest == Contract.digest).where(
                ContractParty.party == party
            )
        with self.transaction() as session:
            return [_contract(session, row) for row in session.scalars(query)]

    def contract_count(self) -> int:
        """Return how many contracts there are."""
        with self.transaction() as session:
            return session.scalar(select(func.count()).select_from(Contract)) or 0

    def find_contract(self, digest: str) -> ContractRecord | None:
        """Return the contract with this digest, or ``None``."""
        with self.transaction() as session:
            row = session.scalar(select(Contract).where(Contract.digest == digest))
            return None if row is None else _contract(session, row)

    def resolve_contract(self, word: str) -> ContractRecord:
        """Return the contract that ``word`` means: its digest or 8 digits of it, or its name.

        Raises:
            ConfigError: there is none, or several are called so.
        """
        found = [
            record
            for record in self.contracts()
            if record.name == word or (len(word) >= _SHORTEST_PREFIX and record.digest.startswith(word))
        ]
        if not found:
            raise ConfigError(
                f"no contract has the name or digest {word}: see `fedshare-server contract status`"
            )
        if len(found) > 1:
            # Which of them everybody approved is nothing to guess from: a newer one may be what is meant.
            digests = ", ".join(record.digest[:_SHOWN_DIGITS] for record in found)
            raise ConfigError(
                f"{len(found)} contracts are called {word}: give more of the digest instead ({digests}); "
                "`fedshare-server contract status` says where they stand"
            )
        return found[0]

    def contract_parties(self, digest: str) -> tuple[str, ...]:
        """Return the ids of the parties of a contract, sorted.

        Raises:
            ConfigError: no contract has this digest.
        """
        record = self.find_contract(digest)
        if record is None:
            raise ConfigError(f"no contract has the digest {digest}")
        return record.parties

    def decisions(self, digest: str) -> list[DecisionRecord]:
        """Return the decisions on a contract by party."""
        with self.transaction() as session:
            rows = session.scalars(select(Decision).where(Decision.digest == digest).order_by(Decision.party))
            return [_decision(session, row) for row in rows]

    def add_decision(self, digest: str, party: str, approved: bool, envelope: bytes, entry: bytes) -> None:
        """Store the final word of ``party`` and its entry for the log; the same word again changes nothing.

        Raises:
            RefusedError: the contract does not name the party, or the party has decided before.
        """
        with self.transaction() as session:
            if session.get(ContractParty, (digest, party)) is None:
                raise RefusedError("unknown_contract", f"no contract with digest {digest} names {party}")
            before = session.get(Decision, (digest, party))
            if before is not None:
                if (before.approved, before.envelope) == (approved, envelope):
                    return
                raise RefusedError(
                    "already_decided",
                    f"{party} has {'approved' if before.approved else 'rejected'} this contract and a "
                    "decision is final: ask for a new contract",
                )
            session.add(
                Decision(
                    digest=digest, party=party, approved=approved, envelope=envelope, decided_at=self.now()
                )
            )
            self._add_entry(session, entry)
            verb = "approved" if approved else "rejected"
            text = f"{party} has {verb} contract {digest[:12]}"
            session.add(Event(at=self.now(), run_id=None, party=party, kind=f"contract_{verb}", text=text))

    def revocations(self, digest: str) -> dict[str, bytes]:
        """Return the entries of those who took back their approval of a contract, by party."""
        with self.transaction() as session:
            rows = session.scalars(select(Revocation).where(Revocation.digest == digest))
            return {row.party: row.entry for row in rows}

    def revoke(self, digest: str, party: str, entry: bytes) -> int:
        """Store that ``party`` takes its approval back and return its entry's number; again changes nothing.

        Raises:
            RefusedError: the party has not approved such a contract.
        """
        with self.transaction() as session:
            decision = session.get(Decision, (digest, party))
            if decision is None or not decision.approved:
                raise RefusedError("not_approved", f"{party} has approved no contract {digest[:12]}")
            if session.get(Revocation, (digest, party)) is None:
                session.add(Revocation(digest=digest, party=party, entry=entry))
                text = f"{party} has revoked its approval of contract {digest[:12]}"
                session.add(
                    Event(at=self.now(), run_id=None, party=party, kind="contract_revoked", text=text)
                )
            return self._add_entry(session, entry)


def _contract(session: Session, row: Contract) -> ContractRecord:
    parties = session.scalars(
        select(ContractParty.party).where(ContractParty.digest == row.digest).order_by(ContractParty.party)
    )
    return ContractRecord(row.digest, row.name, row.canonical, tuple(parties), row.drafted_at)


def _decision(session: Session, row: Decision) -> DecisionRecord:
    is_revoked = session.get(Revocation, (row.digest, row.party)) is not None
    return DecisionRecord(row.digest, row.party, row.approved, row.envelope, row.decided_at, is_revoked)
