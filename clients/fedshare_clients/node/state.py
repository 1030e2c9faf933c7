"""The node's state folder: keys, contracts, decisions and what is kept of each run.

The folder has mode 0700 and every file in it 0600. A file is either there in full or not at all: it is
written beside its place, flushed to the disk, and moved. What belongs together is in SQLite. Nothing of a
run's one-time secrets is ever stored here: they live in memory and end with the process.

    identity.pem          signs contracts and hellos (Ed25519); never leaves the folder
    tls-key.pem           the TLS client key (ECDSA P-256), and tls-certificate.pem from enrolment
    flower-key            the Flower node's key (ECDSA P-384, OpenSSH)
    witness-key.pem       cosigns the coordinator's audit log (Ed25519)
    private-log-key.pem   signs this institution's own audit log (Ed25519)
    holdout-seed          decides which customers are held out (label holders)
    label-key             decides which outcomes are flipped where a contract asks for noise, and hides the customers whom
                          this node remembers (label holders)
    coordinator-ca.pem    the coordinator's authority, from enrolment
    log-trust.json        the keys of the coordinator's audit log, from enrolment
    seen.checkpoint       the last tree of that log on which this node acted
    witness/              the last tree of that log that this node cosigned; never restore it from a backup
    node.sqlite           contracts seen, own decisions, what was spent of each contract's limits, runs,
                          over whom their sums were, about how many customers other banks share, who is counted once
    private-log/          this institution's own audit log, see docs/audit-log.md
    runs/RUN/             result.json, failure.json and files of one run
    portfolios/BANKS/     what earlier portfolios showed, and the own holdings at that time
    flower/               the SuperNode's own files
"""

from __future__ import annotations

import hmac
import json
import os
import sqlite3
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from fedshare.audit.checkpoint import Checkpoint
from fedshare.audit.entries import Entry
from fedshare.audit.notes import COSIGNATURE, NoteSigner
from fedshare.contract.model import parse_contract
from fedshare.errors import ConfigError, ProtocolError, StorageError
from fedshare.identity.certificates import key_to_pem, read_key
from fedshare.identity.keys import IdentityKey
from fedshare.privacy.bands import Band
from fedshare.privacy.budget import Spending
from fedshare.privacy.differences import Marks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from fedshare.contract.model import Contract

__all__ = ["LogTrust", "NodeState", "OwnDecision", "RunRecord", "write_private"]

_MIN_DIGEST_DIGITS = 8
_SCHEMA = """
CREATE TABLE IF NOT EXISTS contracts (
    digest TEXT PRIMARY KEY, canonical BLOB NOT NULL, seen_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS decisions (
    digest TEXT PRIMARY KEY REFERENCES contracts (digest), verdict TEXT NOT NULL, envelope BLOB NOT NULL,
    entry BLOB NOT NULL, decided_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS revocations (digest TEXT PRIMARY KEY, entry BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS spent (
    digest TEXT NOT NULL, what TEXT NOT NULL, amount INTEGER NOT NULL, PRIMARY KEY (digest, what));
CREATE TABLE IF NOT EXISTS privacy (
    run_id TEXT NOT NULL, mechanism TEXT NOT NULL, scope TEXT NOT NULL, epsilon REAL NOT NULL, delta REAL NOT NULL,
    spent_at TEXT NOT NULL);
CREATE TRIGGER IF NOT EXISTS privacy_is_not_returned BEFORE DELETE ON privacy
    BEGIN SELECT RAISE(ABORT, 'privacy that was spent is spent'); END;
CREATE TRIGGER IF NOT EXISTS privacy_is_not_changed BEFORE UPDATE ON privacy
    BEGIN SELECT RAISE(ABORT, 'privacy that was spent is spent'); END;
CREATE TABLE IF NOT EXISTS outcomes (
    epoch TEXT NOT NULL, customer BLOB NOT NULL, outcome BLOB NOT NULL, PRIMARY KEY (epoch, customer)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS withdrawals (
    consent TEXT PRIMARY KEY, contract TEXT NOT NULL, enterprise BLOB NOT NULL, withdrawn_at TEXT NOT NULL,
    restored INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS summed (customers BLOB NOT NULL, outcomes BLOB NOT NULL, unweighted BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS shared (
    digest TEXT NOT NULL, peer TEXT NOT NULL, at_least INTEGER NOT NULL, below INTEGER NOT NULL,
    PRIMARY KEY (digest, peer));
CREATE TABLE IF NOT EXISTS fixed_customers (
    side TEXT NOT NULL, peer TEXT NOT NULL, customers BLOB NOT NULL, outcomes BLOB NOT NULL, unweighted BLOB NOT NULL,
    name BLOB NOT NULL, PRIMARY KEY (side, peer));
CREATE TABLE IF NOT EXISTS runs (
    run_id TEXT PRIMARY KEY, digest TEXT NOT NULL, status TEXT NOT NULL, phase TEXT NOT NULL,
    message TEXT NOT NULL, changed_at TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class LogTrust:
    """The keys of the coordinator's audit log, as this node first heard of them.

    Attributes:
        log_key: verifier key of the log.
        coordinator_key: of what the coordinator states, base64 of 32 bytes.
    """

    log_key: str
    coordinator_key: str


@dataclass(frozen=True, slots=True)
class OwnDecision:
    """What this party said to a contract; it is final.

    Attributes:
        verdict: ``approve`` or ``reject``.
        envelope: the signed statement.
        entry: the same for the audit log.
        decided_at: when, ISO 8601.
    """

    verdict: str
    envelope: bytes
    entry: bytes
    decided_at: str


@dataclass(frozen=True, slots=True)
class RunRecord:
    """Where a run stands at this node.

    Attributes:
        run_id: the run.
        contract_digest: the contract that it is under.
        status: ``running``, ``completed`` or ``failed``.
        phase: the last phase.
        message: progress or the cause of the end, without data values.
        changed_at: when, ISO 8601.
    """

    run_id: int
    contract_digest: str
    status: str
    phase: str
    message: str
    changed_at: str


def write_private(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` with mode 0600, in full or not at all.

    Raises:
        StorageError: the disk refused; an earlier file at ``path`` is as it was.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)  # noqa: PTH105 - the call that the tests make fail
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise StorageError(
            f"{path}: cannot be written ({error.strerror}); free some space or correct the permissions"
        ) from error


@dataclass(frozen=True, slots=True)
class NodeState:
    """The state folder of one node."""

    folder: Path

    def create(self, role: str, randomness: Callable[[int], bytes]) -> None:
        """Make the folder and every key that is not there yet.

        Raises:
            StorageError: the disk refused.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.chmod(0o700)
            for name in ("runs", "flower"):
                (self.folder / name).mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{self.folder}: cannot be made ({error.strerror})") from error
        self._write_once("identity.pem", lambda: IdentityKey.generate(randomness).to_pem())
        for name in ("witness-key.pem", "private-log-key.pem"):
            self._write_once(name, lambda: IdentityKey.generate(randomness).to_pem())
        self._write_once("tls-key.pem", lambda: key_to_pem(ec.generate_private_key(ec.SECP256R1())))
        self._write_once("flower-key", _new_flower_key)
        if role == "label_holder":
            for name in ("holdout-seed", "label-key"):
                self._write_once(name, lambda: randomness(32).hex().encode() + b"\n")
        with self._database():
            pass

    def verify_private(self) -> None:
        """Check that nobody else on this machine can read the folder.

        Raises:
            ConfigError: it is not there, or its mode is not 0700.
        """
        try:
            mode = self.folder.stat().st_mode & 0o777
        except OSError as error:
            raise ConfigError(
                f"{self.folder}: there is no state folder; run 'fedshare-node init' first"
            ) from error
        if mode & 0o077:
            raise ConfigError(
                f"{self.folder}: expected mode 0700, found {mode:04o}: others can read its keys; correct it"
            )

    @property
    def flower_key_path(self) -> Path:
        """Return the file for ``flower-supernode --auth-supernode-private-key``."""
        return self.folder / "flower-key"

    @property
    def flower_folder(self) -> Path:
        """Return the folder of the SuperNode."""
        return self.folder / "flower"

    @property
    def is_enrolled(self) -> bool:
        """Whether the coordinator has issued this node's certificate."""
        return (self.folder / "tls-certificate.pem").exists()

    def identity(self) -> IdentityKey:
        """Return the identity key.

        Raises:
            ConfigError: it is missing or damaged.
        """
        return IdentityKey.from_pem(self._read("identity.pem"))

    def private_log_signer(self, party: str) -> NoteSigner:
        """Return the key that signs this institution's own audit log. Raises as ``identity``."""
        key = IdentityKey.from_pem(self._read("private-log-key.pem"))
        return NoteSigner(f"{party}/private-log", key.signing_key)

    def witness_signer(self, party: str) -> NoteSigner:
        """Return the key that cosigns the coordinator's log. Raises as ``identity``."""
        key = IdentityKey.from_pem(self._read("witness-key.pem"))
        return NoteSigner(f"{party}/witness", key.signing_key, COSIGNATURE)

    @property
    def witness_folder(self) -> Path:
        """Return the memory of the witness."""
        return self.folder / "witness"

    def log_trust(self) -> LogTrust:
        """Return the keys that enrolment brought. Raises as ``identity``."""
        try:
            return LogTrust(**json.loads(self._read("log-trust.json")))
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"{self.folder / 'log-trust.json'}: expected the log's keys; restore it"
            ) from error

    def seen_checkpoint(self) -> Checkpoint | None:
        """Return the last tree of the coordinator's log on which this node acted, or None.

        Raises:
            StorageError: there is one and it cannot be read: the node must not forget it.
        """
        path = self.folder / "seen.checkpoint"
        try:
            return Checkpoint.parse(path.read_bytes().decode()) if path.exists() else None
        except (OSError, ProtocolError, UnicodeDecodeError) as error:
            raise StorageError(f"{path}: cannot be read; compare the log with another institution") from error

    def save_seen_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Remember the tree on which this node acts now, before it does."""
        write_private(self.folder / "seen.checkpoint", checkpoint.text.encode())

    @property
    def private_log_folder(self) -> Path:
        """Return the folder of this institution's own audit log."""
        return self.folder / "private-log"

    def tls_key(self) -> ec.EllipticCurvePrivateKey:
        """Return the TLS client key. Raises as ``identity``."""
        return read_key(self._read("tls-key.pem"))

    def tls_key_pem(self) -> bytes:
        """Return the TLS client key as PEM. Raises as ``identity``."""
        return self._read("tls-key.pem")

    def certificate_pem(self) -> bytes:
        """Return the client certificate that the coordinator issued.

        Raises:
            ConfigError: the node is not enrolled.
        """
        if not self.is_enrolled:
            raise ConfigError("this node is not enrolled; run 'fedshare-node enrol INVITATION' first")
        return self._read("tls-certificate.pem")

    def flower_public_key(self) -> ec.EllipticCurvePublicKey:
        """Return the Flower node's public key. Raises as ``identity``."""
        key = load_ssh_private_key(self._read("flower-key"), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigError(f"{self.flower_key_path}: expected an ECDSA key, found another kind")
        return key.public_key()

    def flower_public_text(self) -> bytes:
        """Return the Flower node's public key as OpenSSH text. Raises as ``identity``."""
        return self.flower_public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)

    def holdout_seed(self) -> bytes:
        """Return the 32 bytes that ``create`` drew. Raises as ``identity``."""
        return self._seed("holdout-seed")

    def label_key(self) -> bytes:
        """Return the 32 bytes that ``create`` drew for the noise on outcomes. Raises as ``identity``."""
        return self._seed("label-key")

    def _seed(self, name: str) -> bytes:
        try:
            return bytes.fromhex(self._read(name).decode())
        except ValueError as error:
            raise ConfigError(f"{self.folder / name}: expected 64 hexadecimal digits") from error

    def save_enrolment(
        self, certificate: bytes, authority: bytes, authority_path: Path, log_trust: LogTrust
    ) -> None:
        """Store what enrolment brought; the certificate last, because it is what counts as enrolled."""
        write_private(authority_path, authority)
        write_private(self.folder / "log-trust.json", json.dumps(asdict(log_trust)).encode() + b"\n")
        write_private(self.folder / "tls-certificate.pem", certificate)

    def save_contract(self, contract: Contract, now: datetime) -> None:
        """Remember a contract that this node was shown."""
        with self._database() as database:
            database.execute(
                "INSERT OR IGNORE INTO contracts VALUES (?, ?, ?)",
                (contract.digest(), contract.canonical(), now.isoformat(timespec="seconds")),
            )

    def save_decision(self, digest: str, verdict: str, envelope: bytes, entry: bytes, now: datetime) -> None:
        """Store this party's signed decision before it is handed in; a second one for a contract is refused.

        Raises:
            ConfigError: this party has decided otherwise.
            StorageError: the disk refused.
        """
        earlier = self.decision(digest)
        if earlier is not None and earlier.verdict != verdict:
            raise ConfigError(
                f"contract {digest[:12]}: this party has decided to {earlier.verdict} it, which is final"
            )
        with self._database() as database:
            database.execute(
                "INSERT OR IGNORE INTO decisions VALUES (?, ?, ?, ?, ?)",
                (digest, verdict, envelope, entry, now.isoformat(timespec="seconds")),
            )

    def decision(self, digest: str) -> OwnDecision | None:
        """Return what this party said to a contract, or None."""
        with self._database() as database:
            row = database.execute(
                "SELECT verdict, envelope, entry, decided_at FROM decisions WHERE digest = ?", (digest,)
            ).fetchone()
        return None if row is None else OwnDecision(*row)

    def decisions(self) -> list[dict[str, Any]]:
        """Return every decision of this party with the contract's name and the runs begun, the latest first."""
        with self._database() as database:
            rows = database.execute(
                "SELECT decisions.digest, verdict, decided_at, canonical, coalesce(amount, 0), revocations.entry "
                "FROM decisions JOIN contracts USING (digest) "
                "LEFT JOIN revocations ON revocations.digest = decisions.digest "
                "LEFT JOIN spent ON spent.digest = decisions.digest AND what = 'runs' "
                "ORDER BY decided_at DESC, decisions.rowid DESC"
            ).fetchall()
            scored = database.execute(
                "SELECT digest, substr(what, 8), amount FROM spent WHERE what LIKE 'scored/%' ORDER BY what"
            ).fetchall()
        contracts = [parse_contract(bytes(row[3])) for row in rows]
        found = [
            {
                "digest": digest,
                "name": contract.name,
                "verdict": "revoke" if revocation else verdict,
                "decided_at": _time_stated(revocation) if revocation else decided_at,
                "runs_begun": begun,
                "max_runs": contract.max_runs,
                "scored": {bank: amount for of, bank, amount in scored if of == digest},
                "scoring_quota": contract.scoring.quota if contract.scoring else 0,
            }
            for contract, (digest, verdict, decided_at, _, begun, revocation) in zip(
                contracts, rows, strict=True
            )
        ]
        return sorted(found, key=lambda each: each["decided_at"], reverse=True)

    def approved_contract(self, digest: str) -> Contract | None:
        """Return the contract if this party approved it, as this party saw it, or None."""
        with self._database() as database:
            row = database.execute(
                "SELECT canonical FROM contracts JOIN decisions USING (digest) "
                "WHERE digest = ? AND verdict = 'approve'",
                (digest,),
            ).fetchone()
        return None if row is None else parse_contract(bytes(row[0]))

    def find_approved(self, word: str) -> Contract:
        """Return the contract that ``word`` means, its name or 8 digits or more of its digest, as approved here.

        Raises:
            ConfigError: this party has approved none or several that it may mean.
        """
        with self._database() as database:
            rows = database.execute(
                "SELECT canonical FROM contracts JOIN decisions USING (digest) WHERE verdict = 'approve'"
            ).fetchall()
        contracts = [parse_contract(bytes(row[0])) for row in rows]
        found = [
            each
            for each in contracts
            if word == each.name or (len(word) >= _MIN_DIGEST_DIGITS and each.digest().startswith(word))
        ]
        if not found:
            raise ConfigError(
                f"this party has approved no contract called {word}: `fedshare-node status` lists those that it has"
            )
        if len(found) > 1:
            digests = ", ".join(each.digest()[:12] for each in found)
            raise ConfigError(
                f"{len(found)} contracts that this party has approved are called {word}: give the digest instead ({digests})"
            )
        return found[0]

    def save_revocation(self, digest: str, entry: bytes) -> bytes:
        """Store that this party takes its approval back, and return the entry that counts: the first one."""
        with self._database() as database:
            database.execute("INSERT OR IGNORE INTO revocations VALUES (?, ?)", (digest, entry))
        stored = self.revocation(digest)
        return entry if stored is None else stored

    def revocation(self, digest: str) -> bytes | None:
        """Return the entry by which this party took its approval of a contract back, or None."""
        with self._database() as database:
            row = database.execute("SELECT entry FROM revocations WHERE digest = ?", (digest,)).fetchone()
        return None if row is None else bytes(row[0])

    def spend(self, digest: str, what: str, amount: int, limit: int) -> int:
        """Return what had been spent of one of a contract's limits, and add ``amount`` to it unless that exceeds ``limit``.

        It is on the disk when this returns, so that a node that is killed has still spent it.

        Args:
            digest: of the contract.
            what: ``runs``, ``identifiers/BANK`` or ``scored/BANK``.
            amount: negative to give back what was added and not used.
            limit: as the contract has it.
        """
        with self._database() as database:
            database.execute("BEGIN IMMEDIATE")
            row = database.execute(
                "SELECT amount FROM spent WHERE digest = ? AND what = ?", (digest, what)
            ).fetchone()
            earlier = int(row[0]) if row else 0
            if earlier + amount <= limit:
                database.execute(
                    "INSERT OR REPLACE INTO spent VALUES (?, ?, ?)", (digest, what, earlier + amount)
                )
        return earlier

    def privacy_spent(self) -> list[Spending]:
        """Return everything that runs have taken of the privacy budget, in order."""
        with self._database() as database:
            return _spendings(database)

    def spend_privacy(
        self, run_id: int, asked: Iterable[Spending], verify: Callable[[list[Spending]], None], now: datetime
    ) -> None:
        """Add what a run takes, if ``verify`` lets it pass after what was spent before; on the disk when this returns.

        Raises:
            RefusedError: of ``verify``; nothing is spent then.
            StorageError: the disk refused; nothing may be released then.
        """
        with self._database() as database:
            database.execute("BEGIN IMMEDIATE")
            verify(_spendings(database))
            database.executemany(
                "INSERT INTO privacy VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (
                        str(run_id),
                        each.mechanism,
                        each.scope,
                        each.epsilon,
                        each.delta,
                        now.isoformat(timespec="seconds"),
                    )
                    for each in asked
                ],
            )

    def pin_outcomes(self, epoch: str, outcomes: Mapping[bytes, bytes]) -> int:
        """Return how many customers' outcomes differ from those pinned down earlier; none is pinned then, else all are.

        Args:
            epoch: the label epoch.
            outcomes: by a keyed hash of the customer, a keyed hash of the outcome.
        """
        with self._database() as database:
            database.execute("BEGIN IMMEDIATE")
            pinned = database.execute("SELECT customer, outcome FROM outcomes WHERE epoch = ?", (epoch,))
            changed: int = sum(outcomes.get(customer, outcome) != outcome for customer, outcome in pinned)
            if not changed:
                rows = ((epoch, customer, outcome) for customer, outcome in outcomes.items())
                database.executemany("INSERT OR IGNORE INTO outcomes VALUES (?, ?, ?)", rows)
        return changed

    def extend_sums(self, choose: Callable[[bytes, list[Marks]], Sequence[Marks]]) -> None:
        """Remember over whom the sums of a run are; see ``held_back.SumMemory``."""
        with self._database() as database:
            database.execute("BEGIN IMMEDIATE")
            rows = database.execute(
                "SELECT customers, outcomes, unweighted FROM summed ORDER BY rowid"
            ).fetchall()
            earlier = [_marks(row) for row in rows]
            for marks in choose(hmac.digest(self.label_key(), b"fedshare sums", "sha256"), earlier):
                stored = _stored(marks)
                if stored not in rows:
                    database.execute("INSERT INTO summed VALUES (?, ?, ?)", stored)

    def shared_band(self, digest: str, peer: str) -> Band | None:
        """Return about how many customers another bank shares; see ``shared_customers.BandMemory``."""
        with self._database() as database:
            row = database.execute(
                "SELECT at_least, below FROM shared WHERE digest = ? AND peer = ?", (digest, peer)
            ).fetchone()
        return None if row is None else Band(*row)

    def save_shared_band(self, digest: str, peer: str, band: Band) -> None:
        """Store about how many customers another bank shares, under a contract."""
        with self._database() as database:
            database.execute(
                "INSERT OR REPLACE INTO shared VALUES (?, ?, ?, ?)", (digest, peer, band.at_least, band.below)
            )

    def fixed_customers(self, side: str, peer: str) -> tuple[Marks, bytes] | None:
        """Return who is counted together with another bank; see ``distinct_customers.DropMemory``."""
        with self._database() as database:
            row = database.execute(
                "SELECT customers, outcomes, unweighted, name FROM fixed_customers WHERE side = ? AND peer = ?",
                (side, peer),
            ).fetchone()
        return None if row is None else (_marks(row[:-1]), bytes(row[-1]))

    def fix_customers(self, side: str, peer: str, marks: Marks, name: bytes) -> None:
        """Store who is counted together with another bank; an error if that is stored already."""
        with self._database() as database:
            database.execute(
                "INSERT INTO fixed_customers VALUES (?, ?, ?, ?, ?, ?)", (side, peer, *_stored(marks), name)
            )

    def ever_droppable(self) -> list[Marks]:
        """Return who might have been dropped; see ``held_back.SumMemory``."""
        with self._database() as database:
            rows = database.execute(
                "SELECT customers, outcomes, unweighted FROM fixed_customers WHERE side = 'drops'"
            ).fetchall()
        return [_marks(row) for row in rows]

    def save_withdrawal(self, contract: str, consent: str, enterprise: bytes, withdrawn_at: datetime) -> None:
        """Remember that a consent was taken back; see ``consents.Withdrawals``. The same one again changes nothing."""
        with self._database() as database:
            database.execute(
                "INSERT OR IGNORE INTO withdrawals (consent, contract, enterprise, withdrawn_at) VALUES (?, ?, ?, ?)",
                (consent, contract, enterprise, _instant(withdrawn_at)),
            )

    def restore(self, contract: str, enterprise: bytes, given_at: datetime) -> None:
        """Let an enterprise that consented anew enter training again; the consents that it took back stay so."""
        with self._database() as database:
            database.execute(
                "UPDATE withdrawals SET restored = 1 WHERE contract = ? AND enterprise = ? AND withdrawn_at < ?",
                (contract, enterprise, _instant(given_at)),
            )

    def is_withdrawn(self, consent: str) -> bool:
        """Return whether the consent of this digest was taken back."""
        with self._database() as database:
            row = database.execute("SELECT 1 FROM withdrawals WHERE consent = ?", (consent,)).fetchone()
        return row is not None

    def withdrawn_enterprises(self, contract: str) -> set[bytes]:
        """Return the enterprises that have taken a consent under a contract back, and given none since."""
        with self._database() as database:
            rows = database.execute(
                "SELECT DISTINCT enterprise FROM withdrawals WHERE contract = ? AND NOT restored", (contract,)
            ).fetchall()
        return {bytes(row[0]) for row in rows}

    def begin_run(self, run_id: int, digest: str, now: datetime) -> None:
        """Remember that a run of the contract with this digest begins, on the disk when this returns.

        Raises:
            ProtocolError: the run is known here.
            StorageError: the disk refused.
        """
        fields = (str(run_id), digest, "running", "hello", "begun", now.isoformat(timespec="seconds"))
        with self._database() as database:
            added = database.execute("INSERT OR IGNORE INTO runs VALUES (?, ?, ?, ?, ?, ?)", fields).rowcount
        if not added:
            raise ProtocolError(f"run {run_id} has begun already; a run id is used once")

    def save_run(self, record: RunRecord) -> None:
        """Store where a run stands; the first end of a run stays."""
        with self._database() as database:
            database.execute(
                "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (run_id) DO UPDATE SET "
                "digest = excluded.digest, status = excluded.status, phase = excluded.phase, "
                "message = excluded.message, changed_at = excluded.changed_at WHERE runs.status = 'running'",
                (
                    # Text: a run id may exceed SQLite's signed 64 bits.
                    str(record.run_id),
                    record.contract_digest,
                    record.status,
                    record.phase,
                    record.message,
                    record.changed_at,
                ),
            )

    def fail_interrupted_runs(self, now: datetime) -> None:
        """Record that runs which an earlier process of this node was in have ended: their secrets ended with it."""
        message = "the node ended during the run, whose secrets were in its memory only"
        with self._database() as database:
            database.execute(
                "UPDATE runs SET status = 'failed', message = ?, changed_at = ? WHERE status = 'running'",
                (message, now.isoformat(timespec="seconds")),
            )

    def runs(self) -> list[RunRecord]:
        """Return every run, the latest first."""
        with self._database() as database:
            rows = database.execute("SELECT * FROM runs ORDER BY changed_at DESC, rowid DESC").fetchall()
        return [RunRecord(int(row[0]), *row[1:]) for row in rows]

    def run_folder(self, run_id: int) -> Path:
        """Return the folder of one run, made if need be."""
        folder = self.folder / "runs" / str(run_id)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{folder}: cannot be made ({error.strerror})") from error
        return folder

    def write_run_json(self, run_id: int, name: str, document: Mapping[str, Any]) -> Path:
        """Write ``document`` as ``runs/RUN/NAME`` and return the path."""
        path = self.run_folder(run_id) / name
        write_private(path, json.dumps(document, indent=2).encode() + b"\n")
        return path

    def read_run_json(self, run_id: int, name: str) -> dict[str, Any] | None:
        """Return the document ``runs/RUN/NAME``, or ``None`` if there is none.

        Raises:
            ConfigError: it cannot be read or is damaged.
        """
        path = self.folder / "runs" / str(run_id) / name
        if not path.exists():
            return None
        try:
            document: dict[str, Any] = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: cannot be read or is damaged; restore it from a backup") from error
        return document

    def portfolio_answers(self, banks: str) -> list[dict[str, Any]]:
        """Return what was remembered of every portfolio of the same banks, the first one first.

        Raises:
            ConfigError: a file is damaged.
        """
        paths = sorted((self.folder / "portfolios" / banks).glob("*.json"))
        try:
            return [json.loads(path.read_bytes()) for path in paths]
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{self.folder / 'portfolios' / banks}: cannot be read or is damaged; restore it from a backup"
            ) from error

    def add_portfolio_answer(self, banks: str, document: Mapping[str, Any]) -> None:
        """Remember another portfolio of the same banks, durably.

        Raises:
            StorageError: the disk refused.
        """
        folder = self.folder / "portfolios" / banks
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{folder}: cannot be made ({error.strerror})") from error
        number = len(list(folder.glob("*.json")))
        write_private(folder / f"{number:06d}.json", json.dumps(document).encode())

    def _write_once(self, name: str, make: Callable[[], bytes]) -> None:
        if not (self.folder / name).exists():
            write_private(self.folder / name, make())

    def _read(self, name: str) -> bytes:
        path = self.folder / name
        try:
            return path.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be read ({error.strerror}); run 'fedshare-node init' first"
            ) from error

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection in one transaction: all of it is stored, on the disk, or nothing."""
        path = self.folder / "node.sqlite"
        try:
            # SQLite gives its journal the mode of the database.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            with closing(sqlite3.connect(path, timeout=30.0)) as database:
                database.execute("PRAGMA synchronous = FULL")
                database.executescript(_SCHEMA)
                with database:
                    yield database
        except (sqlite3.Error, OSError) as error:
            raise StorageError(
                f"{path}: the database refused ({error}); free some space or restore it"
            ) from error


def _spendings(database: sqlite3.Connection) -> list[Spending]:
    rows = database.execute("SELECT mechanism, scope, epsilon, delta FROM privacy ORDER BY rowid")
    return [Spending(*row) for row in rows]


def _marks(row: tuple[bytes, ...]) -> Marks:
    return Marks(*(np.frombuffer(each, dtype="<u8") for each in row))


def _stored(marks: Marks) -> tuple[bytes, ...]:
    return tuple(each.astype("<u8").tobytes() for each in marks.kinds())


def _instant(time: datetime) -> str:
    """Return ``time`` as text that sorts like time."""
    return time.astimezone(UTC).isoformat(timespec="microseconds")


def _new_flower_key() -> bytes:
    """Return a key as flwr's SuperNode reads it: OpenSSH, on a NIST curve."""
    key = ec.generate_private_key(ec.SECP384R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def _time_stated(entry: bytes) -> str:
    issued_at = Entry.parse(entry).statement.issued_at
    return datetime.fromtimestamp(issued_at, UTC).isoformat(timespec="seconds")
