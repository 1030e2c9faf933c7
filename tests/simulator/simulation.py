"""A federation in one process, without sockets, in which a party or the coordinator can misbehave in one line.

Every node is the real ``NodeService`` with the real roles, sessions and sealed primitives; only the Exchange is in memory, and
Flower's part, asking each node for one phase after the other, is a loop. ``tamper`` sees every envelope on its way and says
what is delivered instead of it; ``ask_each`` tells each party something else:

    Simulation(tables, tamper=lambda envelope: [])                     # the coordinator drops everything
    Simulation(tables, tamper=lambda envelope: [envelope, envelope])   # it replays everything
"""

from __future__ import annotations

import hashlib
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from fedshare.audit.notes import COSIGNATURE, NoteSigner
from fedshare.contract.enforcement import verify_not_revoked
from fedshare.contract.model import Contract, parse_contract
from fedshare.contract.signing import Decision, sign_decision
from fedshare.errors import PartyLostError, ProtocolError, RefusedError, RunFailedError, UnavailableError
from fedshare.identity.keys import IdentityKey, encode_public_key
from fedshare.sealed.randomness import Stream
from fedshare_clients.node.bank_portfolio import BankPortfolio, StoredAnswer
from fedshare_clients.node.config import PrivacyConfig
from fedshare_clients.node.data import Table
from fedshare_clients.node.pricing import PortfolioConfig
from fedshare_clients.node.privacy import PrivacyAccount
from fedshare_clients.node.service import PHASES, SERVING_PHASES, NodeService
from fedshare_clients.node.serving import ScoringSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from fedshare.audit.statements import Statement
    from fedshare.errors import FedshareError
    from fedshare.identity.envelope import Envelope
    from fedshare.privacy.bands import Band
    from fedshare.privacy.budget import Spending
    from fedshare.privacy.differences import Marks
    from fedshare_clients.node.progress import Progress

CODE_DIGEST = "c0" * 32
LOG_KEY = IdentityKey.from_raw(bytes([8]) * 32)
NOW = datetime(2026, 6, 1, tzinfo=UTC)


class MemoryExchange:
    """Ordered mailboxes per (sender, recipient); remembers every envelope that crossed it."""

    def __init__(self, tamper: Callable[[Envelope], Iterable[Envelope]]) -> None:
        self._tamper = tamper
        self._mailboxes: dict[tuple[int, str, str], queue.SimpleQueue[Envelope | None]] = {}
        self._lock = threading.Lock()
        self.crossed: list[Envelope] = []
        self.aborted: str | None = None
        self.lost: set[str] = set()

    def mailbox(self, run_id: int, sender: str, recipient: str) -> queue.SimpleQueue[Envelope | None]:
        with self._lock:
            return self._mailboxes.setdefault((run_id, sender, recipient), queue.SimpleQueue())

    def deliver(self, envelope: Envelope) -> None:
        with self._lock:
            self.crossed.append(envelope)
        for each in self._tamper(envelope):
            self.mailbox(each.run_id, each.sender, each.recipient).put(each)

    def lose(self, party: str) -> None:
        """Go on without ``party``; what it sent before is still delivered."""
        with self._lock:
            self.lost.add(party)
            mailboxes = [box for (_, sender, _), box in self._mailboxes.items() if sender == party]
        for mailbox in mailboxes:
            mailbox.put(None)

    def abort(self, reason: str) -> None:
        self.aborted = self.aborted or reason
        for mailbox in list(self._mailboxes.values()):
            mailbox.put(None)

    def leave(self, run_id: int, party: str) -> None:
        """Wake whoever waits in the party's name."""
        for (run, _, recipient), mailbox in list(self._mailboxes.items()):
            if (run, recipient) == (run_id, party):
                mailbox.put(None)


class MemoryTransport:
    def __init__(self, exchange: MemoryExchange, run_id: int, party: str) -> None:
        self._exchange = exchange
        self._run_id = run_id
        self._party = party
        self.bytes_sent = 0
        self.bytes_received = 0

    def send(self, envelope: Envelope) -> None:
        self._verify_present()
        if self._exchange.aborted:
            raise RunFailedError(f"the run was aborted: {self._exchange.aborted}")
        self.bytes_sent += len(envelope.ciphertext)
        self._exchange.deliver(envelope)

    def receive(self, sender: str, timeout_seconds: float) -> Envelope:
        mailbox = self._exchange.mailbox(self._run_id, sender, self._party)
        self._verify_present()
        if self._exchange.aborted:
            raise RunFailedError(f"the run was aborted: {self._exchange.aborted}")
        if self.is_lost(sender) and mailbox.empty():
            raise PartyLostError(sender)
        try:
            envelope = mailbox.get(timeout=timeout_seconds)
        except queue.Empty:
            raise UnavailableError(f"nothing came from {sender} in time") from None
        if envelope is None and self.is_lost(sender) and not self._exchange.aborted:
            raise PartyLostError(sender)
        if envelope is None:
            raise RunFailedError(f"the run was aborted: {self._exchange.aborted}")
        self.bytes_received += len(envelope.ciphertext)
        return envelope

    def is_lost(self, party: str) -> bool:
        return party in self._exchange.lost

    def _verify_present(self) -> None:
        if self.is_lost(self._party):
            raise RunFailedError(f"the run went on without {self._party}")

    def abort(self, reason: str) -> None:
        if not self.is_lost(self._party):
            self._exchange.abort(reason)

    def close(self) -> None:
        self._exchange.leave(self._run_id, self._party)


class MemoryBudget:
    """What a state folder keeps for ``PrivacyAccount``."""

    def __init__(self) -> None:
        self.spendings: list[Spending] = []
        self.pinned: dict[tuple[str, bytes], bytes] = {}

    def label_key(self) -> bytes:
        return bytes(range(32))

    def privacy_spent(self) -> list[Spending]:
        return list(self.spendings)

    def spend_privacy(self, run_id: int, asked: list[Spending], verify: Any, now: datetime) -> None:
        verify(list(self.spendings))
        self.spendings += asked

    def pin_outcomes(self, epoch: str, outcomes: Mapping[bytes, bytes]) -> int:
        changed = sum(self.pinned.get((epoch, each), made) != made for each, made in outcomes.items())
        if not changed:
            self.pinned.update({(epoch, each): made for each, made in outcomes.items()})
        return changed


class BankMemory:
    """What a state folder remembers of the customers in earlier sums, and of those that are shared."""

    def __init__(self) -> None:
        self.stored: list[Marks] = []
        self.bands: dict[tuple[str, str], Band] = {}
        self.fixed: dict[tuple[str, str], tuple[Marks, bytes]] = {}

    def extend_sums(self, choose: Callable[[bytes, list[Marks]], Iterable[Marks]]) -> None:
        self.stored += choose(bytes(range(32)), list(self.stored))

    def shared_band(self, digest: str, peer: str) -> Band | None:
        return self.bands.get((digest, peer))

    def save_shared_band(self, digest: str, peer: str, band: Band) -> None:
        self.bands[digest, peer] = band

    def fixed_customers(self, side: str, peer: str) -> tuple[Marks, bytes] | None:
        return self.fixed.get((side, peer))

    def fix_customers(self, side: str, peer: str, marks: Marks, name: bytes) -> None:
        assert (side, peer) not in self.fixed
        self.fixed[side, peer] = marks, name

    def ever_droppable(self) -> list[Marks]:
        return [marks for (side, _), (marks, _) in self.fixed.items() if side == "drops"]


class MemoryWithdrawals:
    """What a state folder remembers of consents that were taken back."""

    def __init__(self) -> None:
        self.taken: dict[str, tuple[str, bytes, datetime]] = {}
        self.restored: set[str] = set()

    def is_withdrawn(self, consent: str) -> bool:
        return consent in self.taken

    def save_withdrawal(self, contract: str, consent: str, enterprise: bytes, withdrawn_at: datetime) -> None:
        self.taken.setdefault(consent, (contract, enterprise, withdrawn_at))

    def restore(self, contract: str, enterprise: bytes, given_at: datetime) -> None:
        self.restored |= {
            consent
            for consent, (of, whose, at) in self.taken.items()
            if (of, whose) == (contract, enterprise) and at < given_at
        }

    def withdrawn_enterprises(self, contract: str) -> set[bytes]:
        return {
            whose
            for consent, (of, whose, _) in self.taken.items()
            if of == contract and consent not in self.restored
        }


@dataclass
class MemoryPlatform:
    """What a node's process would give its service."""

    party: str
    identity: IdentityKey
    table: Table
    exchange: MemoryExchange
    randomness: Callable[[int], bytes]
    contract: Contract | None = None
    decisions: dict[str, bytes] = field(default_factory=dict)
    code_digest: str = CODE_DIGEST
    holdout_seed: bytes = bytes(32)
    receive_timeout_seconds: float = 20.0
    time: datetime = NOW
    has_revoked: bool = False
    scoring: ScoringSettings = field(default_factory=ScoringSettings)
    withdrawals: MemoryWithdrawals = field(default_factory=MemoryWithdrawals)
    result: dict[str, Any] | None = None
    results: dict[int, dict[str, Any]] = field(default_factory=dict)
    customers: dict[str, Any] | None = None
    failure: FedshareError | None = None
    seen: list[Progress] = field(default_factory=list)
    spent: dict[tuple[str, str], int] = field(default_factory=dict)
    said: list[Statement] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)
    logged: dict[int, int | None] = field(default_factory=dict)
    begun: set[int] = field(default_factory=set)
    unseen_phase: str = ""
    budget: MemoryBudget = field(default_factory=MemoryBudget)
    memory: BankMemory = field(default_factory=BankMemory)
    privacy_config: PrivacyConfig = field(default_factory=PrivacyConfig)
    remembered: list[StoredAnswer] = field(default_factory=list)

    @property
    def privacy(self) -> PrivacyAccount:
        return PrivacyAccount(self.party, self.privacy_config, self.budget, self.now)  # type: ignore[arg-type]

    def now(self) -> datetime:
        return self.time

    def approved_contract(self, digest: str) -> tuple[Contract, Mapping[str, bytes]]:
        assert self.contract is not None
        return self.contract, self.decisions

    def spend(self, contract: Contract, what: str, amount: int, limit: int) -> int:
        earlier = self.spent.get((contract.digest(), what), 0)
        if earlier + amount <= limit:
            self.spent[contract.digest(), what] = earlier + amount
        return earlier

    def begin_run(self, contract: Contract, run_id: int) -> None:
        if run_id in self.begun:
            raise ProtocolError(f"run {run_id} has begun already; a run id is used once")
        self.begun.add(run_id)

    def await_run(self, contract: Contract, run_id: int, model_run: int | None) -> None:
        """``logged`` is what the witnessed log says of runs; of those that are not in it, what the coordinator says."""
        if self.logged.get(run_id, model_run) != model_run:
            raise RefusedError(
                "opening_not_witnessed", "the log says otherwise of this run", party=self.party
            )

    def await_opening(self, contract: Contract, run_id: int, phase: str) -> None:
        if phase == self.unseen_phase:
            raise RefusedError("opening_not_witnessed", "the witnesses have not seen it", party=self.party)
        self.opened.append(phase)

    def verify_own_approval(self, contract: Contract) -> None:
        verify_not_revoked(contract, self.party, [self.party] if self.has_revoked else [])

    def load_table(self, contract: Contract) -> Table:
        return self.table.without(self.withdrawals.withdrawn_enterprises(contract.digest()))

    def portfolio(self, contract: Contract) -> BankPortfolio | None:
        if contract.portfolio is None:
            return None
        settings = PortfolioConfig(exposure="exposure", industry="industry", region="region")
        return BankPortfolio(contract.portfolio, settings, 0.4, self)

    def answers(self) -> list[StoredAnswer]:
        return self.remembered

    def remember(self, answer: StoredAnswer) -> None:
        self.remembered = [*self.remembered, answer]

    def open_transport(self, run_id: int, peers: frozenset[str]) -> MemoryTransport:
        return MemoryTransport(self.exchange, run_id, self.party)

    def progress(self, run_id: int, contract: Contract) -> Callable[[Progress], None]:
        return self.seen.append

    def load_result(self, run_id: int) -> dict[str, Any] | None:
        return self.results.get(run_id)

    def save_result(self, run_id: int, result: Any, customers: Any) -> None:
        self.results[run_id] = result
        if "weights" in result:
            self.result, self.customers = result, customers

    def save_failure(self, run_id: int, phase: str, error: FedshareError) -> None:
        self.failure = error

    def log(self, kind: type[Statement], **fields: Any) -> None:
        self.said.append(kind(issuer=self.party, issued_at=int(self.time.timestamp()), **fields))


class Simulation:
    """A federation ready to run; change a platform or the contract before ``run`` to make a party differ."""

    def __init__(
        self,
        tables: Mapping[str, Table],
        *,
        seed: int = 1,
        tamper: Callable[[Envelope], Iterable[Envelope]] = lambda envelope: [envelope],
        receive_timeout_seconds: float = 20.0,
        columns: Mapping[str, Mapping[str, Any]] | None = None,
        **contract: Any,
    ) -> None:
        """Let the parties of ``tables`` sign a contract.

        Args:
            tables: by party; who has labels is the bank.
            seed: of every party's randomness.
            tamper: see the module.
            receive_timeout_seconds: how long a party waits for another.
            columns: by name, what the contract says of a column besides its kind.
            contract: fields of the contract that differ from ``draft``.
        """
        self._columns = columns or {}
        self.exchange = MemoryExchange(tamper)
        self.platforms = {}
        for party, table in tables.items():
            stream = Stream(hashlib.sha256(f"{seed}|{party}".encode()).digest())
            identity = IdentityKey.generate(stream.read)
            self.platforms[party] = MemoryPlatform(
                party,
                identity,
                table,
                self.exchange,
                stream.read,
                receive_timeout_seconds=receive_timeout_seconds,
            )
        self.contract = parse_contract(self.draft(**contract))
        self.sign(self.contract)
        self.replies: list[dict[str, dict[str, Any]]] = []
        # mypy takes a field that holds a function for a method, which cannot be set.
        self.services = {
            party: NodeService(platform)  # type: ignore[arg-type]
            for party, platform in self.platforms.items()
        }

    def draft(self, **changes: Any) -> dict[str, Any]:
        """Return a contract between the parties of this simulation as a document."""
        parties = []
        for party, platform in self.platforms.items():
            is_bank = not np.isnan(platform.table.label).any()
            parties.append(
                {
                    "id": party,
                    "role": "label_holder" if is_bank else "feature_holder",
                    "identity_key": encode_public_key(platform.identity.public_bytes()),
                    "flower_key": hashlib.sha256(party.encode()).hexdigest(),
                    "columns": [
                        {
                            "name": name,
                            "kind": "categorical" if cells.dtype == object else "numeric",
                            **self._columns.get(name, {}),
                        }
                        for name, cells in platform.table.columns.items()
                    ],
                }
            )
        return {
            "name": "simulated",
            "purpose": "a test",
            "parties": parties,
            "alignment": {"identifier": "opaque", "quota": 100_000},
            "minimum_cohort": 10,
            "outputs": {"coordinator_metrics": True},
            "valid_from": "2026-01-01T00:00:00Z",
            "valid_until": "2027-01-01T00:00:00Z",
            "code_digest": CODE_DIGEST,
            "log": {
                "key": NoteSigner("simulated/log", LOG_KEY.signing_key).key.vkey,
                "coordinator_key": encode_public_key(LOG_KEY.public_bytes()),
                "witnesses": {
                    party: NoteSigner(f"{party}/w", platform.identity.signing_key, COSIGNATURE).key.vkey
                    for party, platform in self.platforms.items()
                },
                "quorum": len(self.platforms),
            },
            "nonce": "11" * 32,
            **changes,
        }

    def sign(self, contract: Contract) -> None:
        """Give every party ``contract`` and everybody's approval of it."""
        decisions = {
            party: sign_decision(
                Decision(contract_digest=contract.digest(), party=party, verdict="approve", time=NOW),
                platform.identity,
            )
            for party, platform in self.platforms.items()
        }
        for platform in self.platforms.values():
            platform.contract, platform.decisions = contract, dict(decisions)

    def ask(self, phase: str, run_id: int = 1, **content: Any) -> dict[str, dict[str, Any]]:
        """Return every node's reply to one phase, as the coordinator would ask for it."""
        return self.ask_each(phase, run_id, dict.fromkeys(self.services, content))

    def ask_each(
        self, phase: str, run_id: int, contents: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """Return the replies of the parties in ``contents``, each of which is told its own."""
        digest = {"contract_digest": self.contract.digest()}
        with ThreadPoolExecutor(len(contents)) as pool:
            futures = {
                party: pool.submit(self.services[party].handle_phase, run_id, phase, {**digest, **content})
                for party, content in contents.items()
            }
            replies = {party: future.result() for party, future in futures.items()}
        self.replies.append(replies)
        return replies

    def run(self, run_id: int = 1, *, until: str = "close") -> dict[str, dict[str, Any]]:
        """Take a run through its phases; return the replies of the last one, or of the first that is not all ok.

        Args:
            run_id: as Flower would number it.
            until: the last phase to ask for, if all goes well.
        """
        hellos: list[bytes] = []
        replies: dict[str, dict[str, Any]] = {}
        for phase in PHASES[: PHASES.index(until) + 1]:
            replies = self.ask(phase, run_id, **({"hellos": hellos} if phase == "align" else {}))
            if any(reply["status"] != "ok" for reply in replies.values()):
                self.ask("close", run_id)
                return replies
            if phase == "hello":
                hellos = [reply["hello"] for reply in replies.values()]
        return replies

    def serve(self, run_id: int = 2, *, model_run: int = 1) -> dict[str, dict[str, Any]]:
        """Take a serving run to where it is held; return the replies of ``serve``, or of what failed before."""
        hellos: list[bytes] = []
        replies: dict[str, dict[str, Any]] = {}
        for phase in SERVING_PHASES[:-1]:
            replies = self.ask(phase, run_id, hellos=hellos, model_run=model_run)
            if any(reply["status"] != "ok" for reply in replies.values()):
                self.ask("close", run_id, reason="a party failed")
                return replies
            if phase == "hello":
                hellos = [reply["hello"] for reply in replies.values()]
        return replies

    def results(self) -> list[str]:
        """Return the parties that have saved a result."""
        return [party for party, platform in self.platforms.items() if platform.result is not None]


def small_economy(customers: int = 1200, universe: int = 2000, seed: int = 3) -> dict[str, Table]:
    """Return tables of a tax bureau, a registry and a bank whose customers are part of the others' universe."""
    rng = np.random.default_rng(seed)
    identifiers = [
        f"enterprise {number:05d}".encode() for number in rng.permutation(10 * universe)[:universe]
    ]
    turnover = rng.normal(size=universe)
    turnover[rng.random(universe) < 0.1] = np.nan
    margin = rng.normal(size=universe)
    age = rng.gamma(2.0, 3.0, universe)
    industry = np.array(["retail", "transport", "food", None], dtype=object)[rng.integers(0, 4, universe)]
    own = rng.normal(size=universe)
    logit = -1.0 + np.nan_to_num(turnover) - 0.7 * margin - 0.1 * age + 0.8 * own
    label = (rng.random(universe) < 1.0 / (1.0 + np.exp(-logit))).astype(np.float64)
    order = rng.permutation(universe)
    bank = order[:customers]
    return {
        "bank": Table("bank", [identifiers[row] for row in bank], {"utilisation": own[bank]}, label[bank]),
        "registry": Table(
            "registry",
            [identifiers[row] for row in order[10:]],
            {"age": age[order[10:]], "industry": industry[order[10:]]},
        ),
        "tax": Table("tax", identifiers, {"turnover": turnover, "margin": margin}),
    }


def split_holders(tables: Mapping[str, Table]) -> dict[str, Table]:
    """Return the same economy with the court as a third holder: it has the tax bureau's margin."""
    tax = tables["tax"]
    return {
        **tables,
        "court": Table("court", tax.identifiers[::-1], {"margin": tax.columns["margin"][::-1].copy()}),
        "tax": Table("tax", tax.identifiers, {"turnover": tax.columns["turnover"]}),
    }


def split_banks(tables: Mapping[str, Table], shares: Iterable[float], seed: int = 0) -> dict[str, Table]:
    """Return the same economy with the bank's customers at banks ``bank-a``, ``bank-b`` and so on, defaults unevenly."""
    bank = tables["bank"]
    rng = np.random.default_rng(seed)
    weights = np.array(list(shares))
    tilted = np.stack([weights, weights * np.linspace(0.5, 1.5, len(weights))])
    tilted /= tilted.sum(axis=1, keepdims=True)
    draws = rng.random(len(bank))[:, None] > np.cumsum(tilted, axis=1)[bank.label.astype(int)]
    place = np.minimum(draws.sum(axis=1), len(weights) - 1)
    rest = {name: table for name, table in tables.items() if name != "bank"}
    parts = {f"bank-{'abcdefgh'[number]}": bank.take(place == number) for number in range(len(weights))}
    return {**parts, **rest}


def overlapping_banks(shared: int, customers: int = 1200, universe: int = 2000) -> dict[str, Table]:
    """Return two banks of which the second has ``shared`` customers of the first, whose outcome and values are its own."""
    tables = split_banks(small_economy(customers, universe), (0.6, 0.4))
    first, second = tables["bank-a"], tables["bank-b"]
    rng = np.random.default_rng(5)
    again = rng.permutation(len(first))[:shared]
    tables["bank-b"] = Table(
        "bank-b",
        [*second.identifiers, *(first.identifiers[row] for row in again.tolist())],
        {"utilisation": np.append(second.columns["utilisation"], rng.normal(size=shared) + 1.0)},
        np.append(second.label, np.arange(shared) % 2),
    )
    return tables


def tiny(seed: int = 3, **settings: Any) -> Simulation:
    """Return a federation whose run takes a fraction of a second."""
    changes: dict[str, Any] = {"minimum_cohort": 5, "model": {"max_iterations": 2, "tolerance": 1e-9}}
    return Simulation(small_economy(200, 260, seed), **(changes | settings))


def assert_ended(simulation: Simulation, replies: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Check that the run ended with a clear cause and left nothing; return the reason of each party that gave one."""
    reasons = {party: reply["reason"] for party, reply in replies.items() if reply["status"] != "ok"}
    assert reasons, "nobody noticed"
    assert all(len(reason) > 20 and "unexpectedly" not in reason for reason in reasons.values())
    assert all(simulation.platforms[party].failure is not None for party in reasons)
    assert simulation.results() == []
    assert all(not service._runs for service in simulation.services.values())
    return reasons
