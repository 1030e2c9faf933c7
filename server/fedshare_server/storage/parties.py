"""Parties and the invitations that bring them in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from fedshare.errors import RefusedError
from fedshare_server.storage.log import LogStore
from fedshare_server.storage.records import InvitationRecord, PartyRecord
from fedshare_server.storage.tables import Event, Invitation, Party

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session

__all__ = ["PartyStore"]


class PartyStore(LogStore):
    """Who is enrolled and who is invited."""

    def parties(self) -> list[PartyRecord]:
        """Return the enrolled parties by id."""
        with self.transaction() as session:
            return [_party(row) for row in session.scalars(select(Party).order_by(Party.party))]

    def find_party(self, party: str) -> PartyRecord | None:
        """Return one party, or ``None`` if it is not enrolled."""
        with self.transaction() as session:
            row = session.get(Party, party)
            return None if row is None else _party(row)

    def invitations(self) -> list[InvitationRecord]:
        """Return every invitation, the soonest to expire first."""
        with self.transaction() as session:
            rows = session.scalars(select(Invitation).order_by(Invitation.expires_at, Invitation.party))
            return [_invitation(row) for row in rows]

    def add_invitation(self, invitation: InvitationRecord) -> None:
        """Store an invitation; unused earlier ones for the same party end, so that one is open at a time.

        Raises:
            RefusedError: the party is enrolled already and the invitation does not say that it replaces.
        """
        with self.transaction() as session:
            if session.get(Party, invitation.party) is not None and not invitation.replaces:
                raise RefusedError(
                    "already_enrolled",
                    f"{invitation.party} is enrolled: invite it with --replace if it has to bring new keys",
                )
            open_ones = select(Invitation).where(
                Invitation.party == invitation.party,
                Invitation.used_at.is_(None),
                Invitation.expires_at > self.now(),
            )
            for row in session.scalars(open_ones):
                row.expires_at = self.now()
            session.add(
                Invitation(
                    key_digest=invitation.key_digest,
                    party=invitation.party,
                    role=invitation.role,
                    replaces=invitation.replaces,
                    expires_at=invitation.expires_at,
                    used_at=None,
                )
            )
            self._note(
                session, invitation.party, "invited", f"{invitation.party} is invited as {invitation.role}"
            )

    def open_invitation(self, key_digest: str) -> InvitationRecord:
        """Return the invitation of a connection, which must be unused and in time.

        Raises:
            RefusedError: it is unknown, used or expired.
        """
        with self.transaction() as session:
            return _invitation(_usable(session, key_digest, self.now()))

    def enrol(self, key_digest: str, party: PartyRecord, entry: bytes) -> None:
        """Use up the invitation and store the party it brings and its entry for the log, all or nothing.

        Raises:
            RefusedError: the invitation is unknown, used or expired, or not for this party and role, or
                another party has one of its keys.
        """
        with self.transaction() as session:
            row = _usable(session, key_digest, self.now())
            if (row.party, row.role) != (party.party, party.role):
                raise RefusedError("other_invitation", f"the invitation is for {row.party} as {row.role}")
            taken = select(Party.party).where(
                Party.party != party.party,
                (Party.identity_key == party.identity_key)
                | (Party.flower_key == party.flower_key)
                | (Party.witness_key == party.witness_key)
                | (Party.certificate_digest == party.certificate_digest),
            )
            if session.scalar(taken) is not None:
                raise RefusedError(
                    "key_in_use", "another party is enrolled with one of these keys: make new ones"
                )
            row.used_at = self.now()
            session.merge(
                Party(
                    party=party.party,
                    role=party.role,
                    identity_key=party.identity_key,
                    flower_key=party.flower_key,
                    witness_key=party.witness_key,
                    certificate_digest=party.certificate_digest,
                    enrolled_at=party.enrolled_at,
                )
            )
            self._add_entry(session, entry)
            self._note(session, party.party, "enrolled", f"{party.party} is enrolled as {party.role}")

    def _note(self, session: Session, party: str, kind: str, text: str, run_id: int | None = None) -> None:
        session.add(Event(at=self.now(), run_id=run_id, party=party, kind=kind, text=text))


def _usable(session: Session, key_digest: str, now: datetime) -> Invitation:
    row = session.get(Invitation, key_digest, with_for_update=True)
    if row is None:
        raise RefusedError(
            "unknown_invitation", "this coordinator has issued no such invitation: ask for a new one"
        )
    if row.used_at is not None:
        raise RefusedError(
            "used_invitation", f"the invitation of {row.party} has been used: ask for a new one"
        )
    if row.expires_at <= now:
        raise RefusedError(
            "expired_invitation", f"the invitation of {row.party} has expired: ask for a new one"
        )
    return row


def _party(row: Party) -> PartyRecord:
    return PartyRecord(
        row.party,
        row.role,
        row.identity_key,
        row.flower_key,
        row.witness_key,
        row.certificate_digest,
        row.enrolled_at,
    )


def _invitation(row: Invitation) -> InvitationRecord:
    return InvitationRecord(row.key_digest, row.party, row.role, row.replaces, row.expires_at, row.used_at)
