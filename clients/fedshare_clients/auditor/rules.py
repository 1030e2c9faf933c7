"""The rules that the statements of a log have to keep, as one pass over them in order.

Contract, approvals by all its parties, run opened, phases opened and closed in the protocol's order, what
parties sent and received, the model that each announces, run closed. `Rules.read` takes one authentic
statement after the other and yields what is wrong with it; `Rules.finish` says what is still missing. Memory
grows with open runs, contracts and parties, not with entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import singledispatchmethod
from typing import NamedTuple

from fedshare.audit.statements import (
    COORDINATOR,
    Approval,
    ContractPublished,
    Enrolment,
    Envelopes,
    ModelManifest,
    PhaseClosed,
    PhaseOpened,
    PrivacySpent,
    PrivateEvent,
    PrivateHead,
    Refusal,
    Rejection,
    Revocation,
    RunClosed,
    RunOpened,
    Scoring,
    Statement,
)
from fedshare.errors import ProtocolError
from fedshare_clients.auditor.findings import Finding, FindingClass
from fedshare_clients.auditor.terms import Terms

__all__ = ["PHASES", "SERVING_PHASES", "Rules"]

# The order in which a run goes through its phases; each at most once.
PHASES = ("hello", "align", "prepare", "train", "evaluate", "close")
SERVING_PHASES = ("hello", "publish", "serve", "close")
# By now every party has counted the run.
_COUNTED = "prepare"


@dataclass(slots=True)
class _Contract:
    terms: Terms
    parties: frozenset[str]
    approved: set[str] = field(default_factory=set)
    withdrawn: set[str] = field(default_factory=set)
    begun: int = 0
    # Serving runs under way that were opened in force, and the parties that may still count what such a run scored.
    serving: set[str] = field(default_factory=set)
    counting: set[str] = field(default_factory=set)

    def in_force(self, seconds: int) -> bool:
        return self.terms.covers(seconds) and not self.withdrawn


class _Account(NamedTuple):
    envelopes: int
    size_bytes: int
    digest: str
    entry: int


@dataclass(slots=True)
class _Run:
    contract: _Contract
    contract_digest: str
    index: int
    phases: tuple[str, ...]
    opened: list[str] = field(default_factory=list)
    closed: set[str] = field(default_factory=set)
    # (phase, step, sender, recipient) to the two accounts of it, the sender's first.
    accounts: dict[tuple[str, str, str, str], list[_Account | None]] = field(default_factory=dict)
    models: dict[str, bytes] = field(default_factory=dict)


class Rules:
    """Reads the statements of a log in order; see the module."""

    def __init__(self) -> None:
        self._contracts: dict[str, _Contract] = {}
        self._keys: dict[str, str] = {}
        self._witnesses: dict[str, str] = {}
        self._runs: dict[str, _Run] = {}
        self._closed: set[int] = set()
        self._trained: dict[int, str] = {}  # completed training run to its contract
        self._latest: dict[tuple[str, str, str], int] = {}
        self.counts: dict[str, int] = {}
        self._dispatch = self._read  # bound once: binding costs more than most rules

    def read(self, index: int, statement: Statement) -> Iterator[Finding]:
        """Yield what is wrong with the statement of entry ``index``, which its issuer has signed."""
        self.counts[statement.kind] = self.counts.get(statement.kind, 0) + 1
        yield from self._dispatch(statement, index)

    def finish(self) -> Iterator[Finding]:
        """Yield what is missing at the end of the log."""
        for run_id, run in self._runs.items():
            yield Finding(
                FindingClass.COMPLETENESS,
                "run_not_closed",
                f"run {run_id} was opened and not closed; if it is not going on now, its end was not logged",
                run.index,
            )

    @singledispatchmethod
    def _read(self, statement: Statement, index: int) -> Iterator[Finding]:
        raise NotImplementedError(type(statement).__name__)

    @_read.register
    def _(self, statement: Enrolment, index: int) -> Iterator[Finding]:
        yield from self._fresh(statement, "", index)
        if (statement.role == COORDINATOR) != (statement.issuer == COORDINATOR):
            yield _bounds("role_taken", f"{statement.issuer} enrols as {statement.role}", index)
        self._keys[statement.issuer] = statement.identity_key
        self._witnesses[statement.issuer] = statement.witness_key

    @_read.register
    def _(self, statement: ContractPublished, index: int) -> Iterator[Finding]:
        digest = statement.contract_digest
        if digest in self._contracts:
            return
        try:
            terms = Terms.parse(statement.document, digest)
        except ProtocolError as error:
            yield _bounds("contract_unreadable", str(error), index)
            return
        self._contracts[digest] = _Contract(terms, frozenset(party.id for party in terms.parties))
        for what, key, enrolled in self._keys_named_by(terms):
            if key != enrolled:
                about = f"the contract names another {what} than the enrolled one"
                yield Finding(FindingClass.AUTHORSHIP, "contract_key", about, index)

    def _keys_named_by(self, terms: Terms) -> Iterator[tuple[str, str, str | None]]:
        """Yield every key that a contract names: what it is, the key, and the one that was enrolled."""
        for party in terms.parties:
            yield f"identity key of {party.id}", party.identity_key, self._keys.get(party.id)
        if terms.log is not None:
            yield "key of the coordinator", terms.log.coordinator_key, self._keys.get(COORDINATOR)
            for party in terms.parties:
                if party.id in terms.log.witnesses:
                    key = terms.log.witnesses[party.id]
                    yield f"witness key of {party.id}", key, self._witnesses.get(party.id)

    @_read.register
    def _(self, statement: Approval, index: int) -> Iterator[Finding]:
        yield from self._fresh(statement, statement.contract_digest, index)
        contract, finding = self._party_of(statement, statement.contract_digest, index)
        if contract is None:
            yield from finding
            return
        contract.approved.add(statement.issuer)
        contract.withdrawn.discard(statement.issuer)

    @_read.register(Rejection)
    @_read.register(Revocation)
    def _(self, statement: Rejection | Revocation, index: int) -> Iterator[Finding]:
        yield from self._fresh(statement, statement.contract_digest, index)
        contract, finding = self._party_of(statement, statement.contract_digest, index)
        if contract is None:
            yield from finding
            return
        contract.approved.discard(statement.issuer)
        contract.withdrawn.add(statement.issuer)

    @_read.register
    def _(self, statement: RunOpened, index: int) -> Iterator[Finding]:
        yield from _by_coordinator(statement, index)
        run_id, contract = statement.run_id, self._contracts.get(statement.contract_digest)
        if run_id in self._runs or int(run_id) in self._closed:
            yield _order("run_reopened", f"run {run_id} is opened a second time", index)
            return
        if contract is None:
            yield _order("run_without_contract", f"run {run_id} is opened under an unlogged contract", index)
            self._closed.add(int(run_id))
            return
        phases = SERVING_PHASES if statement.model_run else PHASES
        self._runs[run_id] = _Run(contract, statement.contract_digest, index, phases)
        if statement.model_run:
            yield from self._serves(statement, contract, index)
            if contract.in_force(statement.issued_at):
                contract.serving.add(run_id)
        if missing := sorted(contract.parties - contract.approved):
            yield _order(
                "run_without_approval",
                f"run {run_id} is opened without the approval of {', '.join(missing)}",
                index,
            )
        if not contract.terms.covers(statement.issued_at):
            yield _bounds(
                "contract_not_valid", f"run {run_id} is opened outside its contract's validity", index
            )
        if contract.terms.code_digest != statement.code_digest:
            yield _bounds("other_code", f"run {run_id} is opened with other code than the contract's", index)

    @_read.register
    def _(self, statement: PhaseOpened, index: int) -> Iterator[Finding]:
        yield from _by_coordinator(statement, index)
        run, findings = self._run_of(statement, index)
        yield from findings
        if run is None:
            return
        if statement.phase not in run.phases:
            yield _bounds("unknown_phase", f"a run of this kind has no phase {statement.phase}", index)
        elif run.opened and run.phases.index(statement.phase) <= run.phases.index(run.opened[-1]):
            yield _order("phase_order", f"phase {statement.phase} is opened after {run.opened[-1]}", index)
        else:
            if run.opened and run.opened[-1] not in run.closed:
                yield _order(
                    "phase_order", f"{statement.phase} is opened before {run.opened[-1]} is closed", index
                )
            run.opened.append(statement.phase)
            if statement.phase == _COUNTED:
                yield from _count_run(run.contract, index)

    @_read.register
    def _(self, statement: PhaseClosed, index: int) -> Iterator[Finding]:
        yield from _by_coordinator(statement, index)
        run, findings = self._run_of(statement, index)
        yield from findings
        if run is None:
            return
        if statement.phase not in run.opened or statement.phase in run.closed:
            yield _order("phase_not_open", f"phase {statement.phase} is closed and was not open", index)
        run.closed.add(statement.phase)

    @_read.register
    def _(self, statement: Envelopes, index: int) -> Iterator[Finding]:
        run, findings = self._run_of(statement, index)
        yield from findings
        if run is None:
            return
        if statement.phase not in run.opened:
            yield _order(
                "phase_not_open",
                f"{statement.issuer} exchanged envelopes in {statement.phase}, not open",
                index,
            )
        for total in statement.totals:
            sent = total.direction == "sent"
            pair = (statement.issuer, total.peer) if sent else (total.peer, statement.issuer)
            if total.peer == statement.issuer or total.peer not in run.contract.parties:
                yield _bounds("stranger", f"{statement.issuer} exchanged envelopes with {total.peer}", index)
                continue
            accounts = run.accounts.setdefault((statement.phase, total.step, *pair), [None, None])
            if accounts[not sent] is not None:
                yield Finding(
                    FindingClass.AGREEMENT,
                    "told_twice",
                    f"{statement.issuer} accounts twice for {total.step} with {total.peer}",
                    index,
                )
            accounts[not sent] = _Account(total.count, total.size_bytes, total.digest, index)

    @_read.register
    def _(self, statement: ModelManifest, index: int) -> Iterator[Finding]:
        run, findings = self._run_of(statement, index)
        yield from findings
        if run is None:
            return
        model = statement.model()
        if model != next(iter(run.models.values()), model):
            yield Finding(
                FindingClass.AGREEMENT,
                "models_differ",
                f"{statement.issuer} announces another model of run {statement.run_id} than"
                f" {next(iter(run.models))} does",
                index,
            )
        run.models.setdefault(statement.issuer, model)
        if statement.metrics and not run.contract.terms.outputs.coordinator_metrics:
            yield _bounds(
                "metrics_shown", "the model's metrics are in the log, which the contract forbids", index
            )

    @_read.register
    def _(self, statement: PrivacySpent, index: int) -> Iterator[Finding]:
        yield from self._fresh(statement, f"{statement.run_id}/{statement.mechanism}", index)
        run, findings = self._run_of(statement, index)
        yield from findings
        mechanism, epsilon, delta = statement.mechanism, float(statement.epsilon), float(statement.delta)
        if run is not None and not run.contract.terms.allows(mechanism, epsilon, delta):
            about = f"{statement.issuer} spent more of its {mechanism} budget than the contract allows"
            yield _bounds("privacy_exceeded", about, index)

    @_read.register
    def _(self, statement: RunClosed, index: int) -> Iterator[Finding]:
        yield from _by_coordinator(statement, index)
        run, findings = self._run_of(statement, index)
        yield from findings
        if run is None:
            return
        completed, trains = statement.outcome == "completed", run.phases is PHASES
        missing = run.contract.parties - run.models.keys()
        # Without these the run went on; a run that goes on without all of them would have no bank.
        lost = missing & run.contract.terms.expendable() if completed and trains else frozenset()
        # A run that serves ends at any moment, with envelopes under way.
        yield from _compare(run, completed and trains, lost)
        if completed:
            if trains:
                self._trained[int(statement.run_id)] = run.contract_digest
            silent = sorted(missing - lost)
            if trains and silent:
                yield Finding(
                    FindingClass.COMPLETENESS,
                    "model_not_announced",
                    f"run {statement.run_id} is completed and {', '.join(silent)} announced no model",
                    index,
                )
            if open_phases := [phase for phase in run.opened if phase not in run.closed]:
                yield _order(
                    "phase_not_closed", f"the run is completed with {open_phases[-1]} still open", index
                )
        if statement.run_id in run.contract.serving:
            run.contract.serving.remove(statement.run_id)
            # A bank hears of the end together with the coordinator, and its last count may come second.
            run.contract.counting |= run.contract.parties
        del self._runs[statement.run_id]
        self._closed.add(int(statement.run_id))

    @_read.register
    def _(self, statement: Scoring, index: int) -> Iterator[Finding]:
        yield from self._fresh(statement, statement.contract_digest, index)
        contract, findings = self._party_of(statement, statement.contract_digest, index)
        if contract is None:
            yield from findings
            return
        if contract.terms.role(statement.issuer) != "label_holder":
            yield _bounds("scoring_role", f"{statement.issuer} scores and is no label holder", index)
        # What a run scored while the contract was in force is counted at its end, which a revocation may have brought.
        counts = bool(contract.serving) or statement.issuer in contract.counting
        contract.counting.discard(statement.issuer)
        if not counts and not contract.in_force(statement.issued_at):
            yield _bounds(
                "scoring_not_valid", f"{statement.issuer} scores under a contract not in force", index
            )

    @_read.register(Refusal)
    @_read.register(PrivateHead)
    def _(self, statement: Refusal | PrivateHead, index: int) -> Iterator[Finding]:
        yield from self._fresh(statement, getattr(statement, "code", ""), index)

    @_read.register
    def _(self, statement: PrivateEvent, index: int) -> Iterator[Finding]:
        yield _bounds(
            "private_event", f"an entry of {statement.issuer}'s private log is in the common one", index
        )

    def _fresh(self, statement: Statement, about: str, index: int) -> Iterator[Finding]:
        """Yield a finding if the issuer said the same kind of thing later or at the same time already."""
        key = (statement.issuer, statement.kind, about)
        # Prevent an old statement, validly signed, from being logged again, e.g. an approval after its
        # revocation.
        if statement.issued_at <= self._latest.get(key, -1):
            yield Finding(
                FindingClass.AUTHORSHIP,
                "replayed",
                f"{statement.issuer} said {statement.kind} at this time or later already: an old entry again",
                index,
            )
        else:
            self._latest[key] = statement.issued_at

    def _serves(self, statement: RunOpened, contract: _Contract, index: int) -> Iterator[Finding]:
        if contract.terms.scoring is None:
            yield _bounds(
                "serving_not_agreed",
                f"run {statement.run_id} serves a model, which its contract does not say",
                index,
            )
        if self._trained.get(int(statement.model_run)) != statement.contract_digest:
            yield _order(
                "no_model",
                f"run {statement.run_id} serves the model of run {statement.model_run}, which completed no training"
                " under this contract",
                index,
            )

    def _party_of(
        self, statement: Statement, digest: str, index: int
    ) -> tuple[_Contract | None, list[Finding]]:
        contract = self._contracts.get(digest)
        if contract is None:
            about = f"{statement.kind} of {statement.issuer} is about a contract not in the log before it"
            return None, [_order("no_contract", about, index)]
        if statement.issuer not in contract.parties:
            about = f"{statement.issuer} is no party of the contract of its {statement.kind}"
            return None, [_bounds("stranger", about, index)]
        return contract, []

    def _run_of(
        self,
        statement: PhaseOpened | PhaseClosed | Envelopes | ModelManifest | PrivacySpent | RunClosed,
        index: int,
    ) -> tuple[_Run | None, list[Finding]]:
        run = self._runs.get(statement.run_id)
        if run is None:
            what = "after the run was closed" if int(statement.run_id) in self._closed else "of no run"
            return None, [_order("no_run", f"{statement.kind} of {statement.issuer} is {what}", index)]
        if statement.contract_digest != run.contract_digest:
            return None, [
                _bounds("other_contract", f"{statement.kind} names another contract than its run", index)
            ]
        if statement.issuer != COORDINATOR and statement.issuer not in run.contract.parties:
            about = f"{statement.issuer} takes part in a run whose contract does not name it"
            return None, [_bounds("stranger", about, index)]
        return run, []


def _count_run(contract: _Contract, index: int) -> Iterator[Finding]:
    contract.begun += 1
    most = contract.terms.max_runs
    if most is not None and contract.begun > most:
        yield _bounds("too_many_runs", f"run number {contract.begun} of a contract that allows {most}", index)


def _compare(run: _Run, completed: bool, lost: frozenset[str]) -> Iterator[Finding]:
    """Yield where sender and recipient of a closed run disagree.

    In a run that failed, or to and from a party that it went on without, envelopes may have been lost on the way: then
    only equal counts have to agree.
    """
    for (phase, step, sender, recipient), (sent, received) in sorted(run.accounts.items()):
        where = f"{step} of {phase} from {sender} to {recipient}"
        arrived = completed and not {sender, recipient} & lost
        if sent is None or received is None:
            told = received if sent is None else sent
            if arrived and told is not None:
                silent = sender if sent is None else recipient
                yield Finding(
                    FindingClass.COMPLETENESS,
                    "one_sided",
                    f"{silent} gives no account of {where}",
                    told.entry,
                )
        elif (arrived or sent.envelopes == received.envelopes) and (sent[:3] != received[:3]):
            yield Finding(
                FindingClass.AGREEMENT,
                "envelopes_differ",
                f"{sender} and {recipient} account differently for {where} (entries {sent.entry} and"
                f" {received.entry})",
                max(sent.entry, received.entry),
            )


def _by_coordinator(statement: Statement, index: int) -> Iterator[Finding]:
    if statement.issuer != COORDINATOR:
        yield _order(
            "not_the_coordinator", f"{statement.issuer} says {statement.kind}, not its to say", index
        )


def _order(code: str, message: str, index: int) -> Finding:
    return Finding(FindingClass.ORDER, code, message, index)


def _bounds(code: str, message: str, index: int) -> Finding:
    return Finding(FindingClass.BOUNDS, code, message, index)
