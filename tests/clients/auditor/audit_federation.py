"""A federation's log in one process: honest unless a test says otherwise, in one line."""

import base64
import json
import shutil
from dataclasses import dataclass, field
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedshare.audit.commitments import EnvelopeTally
from fedshare.audit.entries import EntrySigner
from fedshare.audit.log import AuditLog
from fedshare.audit.notes import COSIGNATURE, NoteSigner
from fedshare.audit.policy import Policy
from fedshare.audit.publication import Publisher
from fedshare.audit.statements import (
    Approval,
    ContractPublished,
    Enrolment,
    ModelManifest,
    PhaseClosed,
    PhaseOpened,
    RunClosed,
    RunOpened,
)
from fedshare.audit.storage import FolderSource
from fedshare.identity.keys import IdentityKey
from fedshare_clients.auditor.verify import verify_log
from fedshare_clients.auditor.witness import Witness

PARTIES = {"tax": "feature_holder", "bank-a": "label_holder", "bank-b": "label_holder"}
CODE = "c" * 64
ORIGIN = "example.org/log"


def key_of(name):
    return Ed25519PrivateKey.from_private_bytes(sha256(name.encode()).digest())


def public_of(name):
    return base64.b64encode(key_of(name).public_key().public_bytes_raw()).decode()


def contract_document(**changes):
    terms = {
        "parties": [{"id": p, "role": r, "identity_key": public_of(p)} for p, r in PARTIES.items()],
        "code_digest": CODE,
        "valid_from": "2026-01-01T00:00:00Z",
        "valid_until": "2027-01-01T00:00:00Z",
        **changes,
    }
    return json.dumps(terms, sort_keys=True, separators=(",", ":"))


@dataclass
class Federation:
    folder: object
    now: int = 1_790_000_000
    entries: list = field(default_factory=list)
    logged: int = 0
    signer: NoteSigner = field(default_factory=lambda: NoteSigner(ORIGIN, key_of("log")))

    def __post_init__(self):
        witnesses = {
            name: NoteSigner(f"{name}.example", key_of(f"{name} w"), COSIGNATURE) for name in PARTIES
        }
        lines = [f"log {self.signer.key.vkey}"]
        lines += [f"witness {name} {signer.key.vkey}" for name, signer in witnesses.items()]
        lines += [f"group most 2 {' '.join(witnesses)}", "quorum most"]
        self.policy_text = "\n".join(lines) + "\n"
        self.policy = Policy.parse(self.policy_text.encode())
        self.witnesses = {
            name: Witness(self.folder / f"witness-{name}", signer, [self.signer.key], lambda: self.now)
            for name, signer in witnesses.items()
        }

    def close(self):
        for witness in self.witnesses.values():
            witness.close()

    @property
    def path(self):
        return self.folder / "log"

    def say(self, kind, issuer, /, *, signed_by=None, at=None, **fields):
        """Have ``issuer`` say something; returns the entry's index."""
        self.now += 1
        statement = kind(issuer=issuer, issued_at=at or self.now, **fields)
        self.entries.append(EntrySigner(IdentityKey(key_of(signed_by or issuer))).sign(statement))
        return len(self.entries) - 1

    def enrol(self):
        self.say(Enrolment, "coordinator", role="coordinator", identity_key=public_of("coordinator"))
        for party, role in PARTIES.items():
            self.say(Enrolment, party, role=role, identity_key=public_of(party))

    def agree(self, document=None, approvers=tuple(PARTIES)):
        document = document or contract_document()
        self.contract = sha256(document.encode()).hexdigest()
        self.say(ContractPublished, "coordinator", contract_digest=self.contract, document=document)
        for party in approvers:
            self.say(Approval, party, contract_digest=self.contract)

    def open(self, run="7", **changes):
        fields = {"run_id": run, "contract_digest": self.contract, "code_digest": CODE}
        return self.say(RunOpened, "coordinator", **{**fields, **changes})

    def phase(self, phase="train", run="7", envelopes=None, accounts=None):
        self.say(PhaseOpened, "coordinator", run_id=run, contract_digest=self.contract, phase=phase)
        tallies = {party: EnvelopeTally() for party in PARTIES}
        for sender, recipient, wire in envelopes or [
            ("tax", "bank-a", b"one"), ("tax", "bank-b", b"two"), ("bank-a", "tax", b"three")
        ]:  # fmt: skip
            tallies[sender].add("step-1", recipient, "sent", wire)
            tallies[recipient].add("step-1", sender, "received", wire)
        for party, tally in {**tallies, **(accounts or {})}.items():
            for statement in tally.statements(party, self.now, run, self.contract, phase):
                fields = statement.model_dump(exclude={"issuer", "issued_at", "kind", "totals"})
                self.say(type(statement), party, **fields, totals=statement.totals)
        self.say(PhaseClosed, "coordinator", run_id=run, contract_digest=self.contract, phase=phase)

    def announce(self, run="7", party_to_component=None, **changes):
        for party in PARTIES:
            component = (party_to_component or {}).get(party, "d" * 64)
            fields = {"version": 1, "components": {"tax": component}, **changes}
            self.say(ModelManifest, party, run_id=run, contract_digest=self.contract, **fields)

    def finish(self, run="7", outcome="completed", **changes):
        fields = {"run_id": run, "contract_digest": self.contract, "outcome": outcome}
        return self.say(RunClosed, "coordinator", **{**fields, **changes})

    def whole_run(self, run="7"):
        self.open(run)
        self.phase("train", run)
        self.announce(run)
        self.finish(run)

    def honest(self):
        self.enrol()
        self.agree()
        self.whole_run()
        return self

    def log(self, path=None, entries=None, batch=3):
        """Append what was said and not logged yet, in batches, with the witnesses' cosignatures."""
        todo = self.entries[self.logged :] if entries is None else entries
        self.logged = len(self.entries) if entries is None else self.logged
        publisher = Publisher({name: self.client(name) for name in self.witnesses})
        with AuditLog.open(path or self.path, self.signer, self.policy) as log:
            for at in range(0, len(todo), batch):
                log.append(todo[at : at + batch])
                self.published = publisher.publish(log)
        return self

    def client(self, name):
        def ask(body):
            answer = self.witnesses[name].add_checkpoint(body)
            return answer.status, answer.body

        return ask

    def verify(self, path=None, **options):
        return verify_log(FolderSource(path or self.path), self.policy, **options)

    def codes(self, path=None, **options):
        return {f.code for f in self.verify(path, **options).findings}

    def copy(self, name):
        return shutil.copytree(self.path, self.folder / name)
