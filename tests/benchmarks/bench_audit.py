"""Benchmarks of the audit log: ``log_append`` and ``log_verify``.

``run()`` appends ``ENTRIES`` statements durably in batches of 1,000 and verifies the whole log with the
command, in a process of its own whose peak memory is measured. Statements are signed in batches of a few
hundred, as a party does at the end of a phase; ``log_verify_single`` is a log in which every statement has a
signature of its own.
"""

import base64
import os
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedshare.audit.commitments import EnvelopeTally
from fedshare.audit.entries import EntrySigner
from fedshare.audit.hashing import leaf_hash, root_of_leaves
from fedshare.audit.log import AuditLog
from fedshare.audit.notes import COSIGNATURE, NoteSigner
from fedshare.audit.policy import Policy
from fedshare.audit.publication import Publisher
from fedshare.audit.statements import (
    Approval,
    ContractPublished,
    Enrolment,
    Envelopes,
    ModelManifest,
    PhaseClosed,
    PhaseOpened,
    RunClosed,
    RunOpened,
)
from fedshare.audit.storage import FolderSource
from fedshare.audit.tiles import read_bundle
from fedshare.audit.witnessing import add_checkpoint
from fedshare.identity.keys import IdentityKey

ENTRIES = 1_000_000
SINGLE_ENTRIES = 20_000
APPEND_BATCH = 1_000
STEPS = 160
PARTIES = {"tax": "feature_holder", "bank-a": "label_holder", "bank-b": "label_holder"}
CODE = "c" * 64


def _raw(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(sha256(name.encode()).digest())


class _Federation:
    """Writes the statements of one run after the other."""

    def __init__(self, batched: bool) -> None:
        self.batched = batched
        self.now = 1_790_000_000
        self.keys = {name: IdentityKey(_raw(name)) for name in (*PARTIES, "coordinator")}
        self.signers = {name: EntrySigner(key) for name, key in self.keys.items()}

    def _sign(self, statements: list) -> list[bytes]:
        signer = self.signers[statements[0].issuer]
        if self.batched and len(statements) > 1:
            return signer.sign_batch(statements)
        return [signer.sign(statement) for statement in statements]

    def setup(self):
        public = {name: base64.b64encode(key.public_bytes()).decode() for name, key in self.keys.items()}
        parties = ",".join(
            f'{{"id":"{name}","identity_key":"{public[name]}","role":"{role}"}}'
            for name, role in PARTIES.items()
        )
        document = (
            f'{{"code_digest":"{CODE}","parties":[{parties}],'
            '"valid_from":"2026-01-01T00:00:00Z","valid_until":"2030-01-01T00:00:00Z"}'
        )
        self.contract = sha256(document.encode()).hexdigest()
        for name, role in {"coordinator": "coordinator", **PARTIES}.items():
            said = Enrolment(issuer=name, issued_at=self.now, role=role, identity_key=public[name])
            yield from self._sign([said])
        fields = {"issuer": "coordinator", "issued_at": self.now, "contract_digest": self.contract}
        yield from self._sign([ContractPublished(**fields, document=document)])
        for name in PARTIES:
            said = Approval(issuer=name, issued_at=self.now, contract_digest=self.contract)
            yield from self._sign([said])

    def run(self, number: int):
        self.now += 1
        run = {"issued_at": self.now, "run_id": str(number), "contract_digest": self.contract}
        by_coordinator = {"issuer": "coordinator", **run}
        yield from self._sign([RunOpened(**by_coordinator, code_digest=CODE)])
        yield from self._sign([PhaseOpened(**by_coordinator, phase="train")])
        for name in PARTIES:
            statements = []
            for step in range(STEPS):
                for bank in ("bank-a", "bank-b"):
                    if name in ("tax", bank):
                        tally = EnvelopeTally()
                        peer, direction = (bank, "sent") if name == "tax" else ("tax", "received")
                        tally.add(f"gradient-{step}", peer, direction, b"%d %d" % (number, step))
                        statements.append(Envelopes(issuer=name, **run, phase="train", totals=tally.totals()))
            yield from self._sign(statements)
        yield from self._sign([PhaseClosed(**by_coordinator, phase="train")])
        for name in PARTIES:
            yield from self._sign(
                [ModelManifest(issuer=name, **run, version=1, components={"tax": "d" * 64})]
            )
        yield from self._sign([RunClosed(**by_coordinator, outcome="completed")])


def _entries(batched: bool, count: int):
    federation = _Federation(batched)
    yield from federation.setup()
    number, made = 0, 8
    while made < count:
        for entry in federation.run(number):
            made += 1
            yield entry
        number += 1


def _row(name: str, n: int, m: int, seconds: float, baseline: str, baseline_seconds: float, **more) -> dict:
    ratio = seconds / baseline_seconds
    row = {"name": name, "n": n, "m": m, "seconds": seconds, "baseline": baseline}
    return {**row, "baseline_seconds": baseline_seconds, "ratio": ratio, **more}


def _append(
    folder: Path, log_key: NoteSigner, witness: NoteSigner, policy: Policy, batched: bool, count: int
):
    """Append ``count`` statements or a few more; return (entries, bytes, seconds of appending)."""
    size = seconds = total = 0
    batch: list[bytes] = []
    with AuditLog.open(folder, log_key, policy) as log:
        stored: list = [None]

        def flush() -> float:
            nonlocal size
            start = time.perf_counter()
            log.append(batch)
            return time.perf_counter() - start

        for entry in _entries(batched, count):
            batch.append(entry)
            total += len(entry)
            if len(batch) == APPEND_BATCH:
                seconds += flush()
                size, batch = size + len(batch), []
        if batch:
            seconds += flush()
            size += len(batch)

        def ask(body: bytes) -> tuple[int, bytes]:
            answer = add_checkpoint(body, [log_key.key], stored[0], witness, 1_790_000_000)
            return answer.status, answer.body

        assert Publisher({"w": ask}).publish(log).is_public
    return size, total, seconds


def _write_plainly(folder: Path, count: int, size_bytes: int) -> float:
    """Return the seconds of writing and synchronising the same bytes to one file, as often."""
    start = time.perf_counter()
    with (folder / "plain").open("wb") as file:
        for _ in range(-(-count // APPEND_BATCH)):
            file.write(bytes(size_bytes * APPEND_BATCH // count))
            file.flush()
            os.fsync(file.fileno())
    return time.perf_counter() - start


def _hash_only(folder: Path, size: int) -> float:
    """Return the seconds of reading the entries and computing their root, nothing else."""
    start = time.perf_counter()
    source, hashes = FolderSource(folder), []
    for at in range(0, size, 256):
        hashes += map(leaf_hash, read_bundle(source, at // 256, min(256, size - at)))
    root_of_leaves(hashes)
    return time.perf_counter() - start


def _verify(folder: Path, policy: Path) -> tuple[float, dict]:
    """Return the seconds of ``fedshare-audit verify``, its processor seconds and its peak memory in bytes."""
    start = time.perf_counter()
    command = [
        sys.executable,
        "-m",
        "fedshare_clients.auditor.cli",
        "verify",
        str(folder),
        "--policy",
        str(policy),
    ]
    quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=quiet)
    _, status, usage = os.wait4(pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError("the benchmark's log does not verify")
    seconds = time.perf_counter() - start
    return seconds, {"cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_bytes": usage.ru_maxrss * 1024}


def run(entries: int = ENTRIES, single_entries: int = SINGLE_ENTRIES) -> list[dict]:
    """Measure; return a row per benchmark. ``m`` is the mean size of an entry in bytes."""
    rows = []
    log_key, witness = NoteSigner("bench.example/log", _raw("log")), NoteSigner("w", _raw("w"), COSIGNATURE)
    text = f"log {log_key.key.vkey}\nwitness w {witness.key.vkey}\nquorum w\n"
    for name, batched, count in (("", True, entries), ("_single", False, single_entries)):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            (folder / "policy").write_text(text)
            policy = Policy.parse(text.encode())
            size, total, seconds = _append(folder / "log", log_key, witness, policy, batched, count)
            if batched:
                plain = _write_plainly(folder, size, total)
                rate = {"entries_per_second": size / seconds}
                rows.append(
                    _row("log_append", size, total // size, seconds, "one file, same syncs", plain, **rate)
                )
            verify_seconds, more = _verify(folder / "log", folder / "policy")
            hashing = _hash_only(folder / "log", size)
            rows.append(
                _row(f"log_verify{name}", size, total // size, verify_seconds, "root only", hashing, **more)
            )
    return rows


if __name__ == "__main__":
    for row in run(*map(int, sys.argv[1:])):
        print(row)
