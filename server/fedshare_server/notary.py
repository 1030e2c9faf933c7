"""The one writer of the audit log: takes what is said, in order, has it witnessed, and publishes it.

What belongs into the log is stored first, with what it is about (``fedshare_server.storage.log``), by whichever
process of the coordinator hears of it; what is stored is acknowledged. A thread of the serving process moves it
into the log, asks the witnesses that are connected to cosign the new head, and publishes it as soon as they
are a quorum of some contract. Killed at any point, it goes on where the log is: the log counts, not the
database.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self, TypeVar

from fedshare.audit.entries import Entry, EntrySigner
from fedshare.audit.gate import prove_opening
from fedshare.audit.log import AuditLog
from fedshare.audit.policy import any_of
from fedshare.audit.publication import Publisher
from fedshare.audit.receipts import Receipt
from fedshare.audit.statements import COORDINATOR, Enrolment, parse_statement
from fedshare.audit.storage import FolderSource
from fedshare.audit.tiles import TILE_WIDTH, read_bundle
from fedshare.contract.model import parse_contract
from fedshare.errors import FedshareError, ParameterError, ProtocolError, StorageError, UnavailableError
from fedshare.identity.keys import encode_public_key
from fedshare_server.storage.log import open_subject

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from fedshare.audit.gate import Opening
    from fedshare.audit.publication import WitnessClient
    from fedshare_server.log_keys import LogKeys
    from fedshare_server.storage import LogRecord, Store

__all__ = ["Notary"]

# Other processes of the coordinator say something, too; nobody tells this one when.
_LOOK_SECONDS = 0.25
# A head that lacks its quorum is put to the witnesses again; one that has it, to those that have failed.
_ASK_AGAIN_SECONDS = 5.0
_FAILED_WITNESS_SECONDS = 60.0
_BATCH = 1000
_log = logging.getLogger(__name__)
T = TypeVar("T")


class Notary:
    """Keeps the log; see the module. Use as a context manager around the time of serving.

    Args:
        folder: of the log.
        keys: of the log and of the coordinator.
        store: where what is said waits.
        witnesses: those outside the federation, by name.
    """

    def __init__(
        self, folder: Path, keys: LogKeys, store: Store, witnesses: dict[str, WitnessClient] | None = None
    ) -> None:
        self._store = store
        self._signer = EntrySigner(keys.identity)
        self._source = FolderSource(folder)
        self._log = AuditLog.open(folder, keys.signer, any_of(keys.signer.key, []))
        self._places: dict[int, int] = {}  # of what is in the log, to be stored
        self._known_contracts = 0
        self._witnesses = dict(witnesses or {})
        self._publisher: Publisher | None = None
        self._pool = ThreadPoolExecutor(thread_name_prefix="witness")
        self._changed = threading.Condition()
        self._stopping = False
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="notary", daemon=True)
        try:
            self._recover()
            self._introduce(keys)
            self._learn_policies()
        except BaseException:
            self._log.close()
            raise

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End; what is said after this waits for the next start."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._log.close()

    def verify_alive(self) -> None:
        """Return if the log is kept.

        Raises:
            StorageError: the disk refused; nothing is logged any more.
        """
        if self._failure is not None:
            raise StorageError(f"the audit log is not kept any more: {self._failure}") from self._failure

    def connect(self, party: str, ask: WitnessClient) -> None:
        """Take ``ask`` as the way to the witness of ``party``, instead of an earlier one."""
        with self._changed:
            self._witnesses[party] = ask
            self._publisher = None
            self._changed.notify_all()

    def disconnect(self, party: str, ask: WitnessClient) -> None:
        """Forget the way to a witness."""
        with self._changed:
            if self._witnesses.get(party) is ask:
                del self._witnesses[party]
                self._publisher = None

    def await_places(self, numbers: Sequence[int], seconds: float) -> list[int]:
        """Return where in the log the entries of these numbers are, once they are there.

        Raises:
            StorageError: the log is not kept any more; they are stored and will get there after a restart.
            UnavailableError: it takes longer than ``seconds``; they are stored and will get there.
        """

        def look() -> list[int] | None:
            places = self._store.places(numbers)
            found = [place for place in places if place is not None]
            return found if len(found) == len(places) else None

        return self._await(look, seconds, "the entries are stored, and not in the log yet: ask again")

    def opening(self, run_id: int, phase: str, seen_size: int, seconds: float) -> Opening:
        """Return the opening of a phase, or of a run, once the witnesses of its contract have seen it.

        Args:
            run_id: the run.
            phase: the phase; empty for the run itself.
            seen_size: of the tree that the node has seen, which the proof starts from.
            seconds: how long to wait for it.

        Raises:
            UnavailableError: it is not in the log, or not under a checkpoint with the contract's quorum, in
                time.
        """
        run = self._store.find_run(run_id)
        contract = None if run is None else self._store.find_contract(run.digest)
        if contract is None:
            raise UnavailableError(f"there is no run {run_id}")
        policy = parse_contract(contract.canonical).log.policy()

        def look() -> Opening | None:
            place = self._store.place_of(open_subject(run_id, phase))
            if place is None:
                return None
            try:
                opening = prove_opening(self._source, place, seen_size)
                policy.verify(Receipt.parse(opening.receipt).checkpoint)
            except (ParameterError, ProtocolError, UnavailableError):
                return None  # not published yet, or not with this quorum
            return opening

        what = f"phase {phase} of run {run_id}" if phase else f"run {run_id}"
        return self._await(
            look,
            seconds,
            f"the opening of {what} is not in the log under the contract's quorum of witnesses yet: "
            "is every node running?",
        )

    def _await(self, look: Callable[[], T | None], seconds: float, otherwise: str) -> T:
        deadline = time.monotonic() + seconds
        with self._changed:
            self._changed.notify_all()  # the thread need not wait to find what has just been stored
            while True:
                self.verify_alive()
                found = look()
                if found is not None:
                    return found
                left = deadline - time.monotonic()
                if left <= 0 or self._stopping or not self._changed.wait(left):
                    raise UnavailableError(otherwise)

    def _work(self) -> None:
        ask_at = 0.0
        while not self._stopping:
            try:
                if self._append_pending() or self._publisher is None:
                    ask_at = 0.0
                if time.monotonic() >= ask_at:
                    ask_at = time.monotonic() + self._publish()
            except Exception as error:  # noqa: BLE001 - a defect must end the serving, not only this thread
                is_defect = not isinstance(error, FedshareError)
                _log.error("the audit log could not be written: %s", error, exc_info=is_defect)
                if is_defect or not self._log.is_open:
                    with self._changed:
                        self._failure = error
                        self._changed.notify_all()
                    return
            with self._changed:
                self._changed.notify_all()
                self._changed.wait(_LOOK_SECONDS)

    def _append_pending(self) -> bool:
        """Move a batch of what waits into the log; return whether there was any."""
        self._store_places()
        records = self._store.pending_entries(_BATCH)
        if not records:
            return False
        places = self._log.append([self._entry(record) for record in records])
        self._places = {record.number: place for record, place in zip(records, places, strict=True)}
        self._store_places()
        if self._store.contract_count() != self._known_contracts:
            self._learn_policies()
        return True

    def _entry(self, record: LogRecord) -> bytes:
        return record.data if record.is_signed else self._signer.sign(parse_statement(record.data))

    def _store_places(self) -> None:
        if self._places:
            self._store.set_places(self._places)
            self._places = {}

    def _publish(self) -> float:
        """Ask the witnesses, and return after how many seconds to ask again if nothing new is said until then."""
        with self._changed:
            if self._publisher is None:
                self._publisher = Publisher(dict(self._witnesses), self._pool.map)
            publisher = self._publisher
        publication = publisher.publish(self._log)
        for name, failure in publication.failures.items():
            _log.warning("witness %s: %s", name, failure)
        if not publication.is_public:
            return _ASK_AGAIN_SECONDS
        return _FAILED_WITNESS_SECONDS if publication.failures else math.inf

    def _learn_policies(self) -> None:
        """Let the quorum of any contract publish a head; every node asks for its own contract's."""
        contracts = self._store.contracts()
        policies = [parse_contract(contract.canonical).log.policy() for contract in contracts]
        self._log.require(any_of(self._log.key, policies))
        self._known_contracts = len(contracts)

    def _recover(self) -> None:
        """Take note of what is in the log already, after a kill between the log and the database."""
        known, size = self._store.logged_size(), self._log.checkpoint.size
        if known > size:
            raise StorageError(
                f"the audit log has {size} entries and had {known}: it was rolled back; restore the newest copy"
            )
        for at in range(known // TILE_WIDTH, -(-size // TILE_WIDTH)):
            first = at * TILE_WIDTH
            bundle = read_bundle(self._source, at, min(TILE_WIDTH, size - first))
            for place, data in enumerate(bundle, first):
                number = self._store.number_of_statement(Entry.parse(data).statement)
                if place >= known and number is not None:
                    self._places[number] = place
        self._store_places()

    def _introduce(self, keys: LogKeys) -> None:
        """Say in whose name the coordinator speaks, before it says anything."""
        if not self._log.checkpoint.size:
            key = encode_public_key(keys.identity.public_bytes())
            self._store.say(Enrolment, f"enrolment/{COORDINATOR}", role=COORDINATOR, identity_key=key)
