"""The audit log of a federation whose parts are real: what nodes accept, and what a lying coordinator cannot do."""

from __future__ import annotations

import os
import shutil
import threading
import time
from typing import TYPE_CHECKING

import pytest
from audit_world import PARTIES, RUN, World, now

from fedshare.audit.entries import EntrySigner
from fedshare.audit.gate import prove_opening
from fedshare.audit.log import AuditLog
from fedshare.audit.notes import COSIGNATURE, NoteSigner, parse_signature_lines
from fedshare.audit.policy import any_of
from fedshare.audit.statements import Approval, Enrolment, PhaseOpened, Scoring
from fedshare.audit.storage import FolderSource
from fedshare.audit.tiles import CHECKPOINT_PATH
from fedshare.audit.witnessing import Submission
from fedshare.errors import FedshareError, ProtocolError, RefusedError, StorageError, UnavailableError
from fedshare.identity.keys import IdentityKey
from fedshare_clients.auditor.witness import Witness, WitnessServer
from fedshare_clients.node import audit_client
from fedshare_clients.node.contracts import ContractClient
from fedshare_server import service_audit
from fedshare_server.notary import Notary
from fedshare_server.witness_http import HttpWitness

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fedshare.contract.model import Contract


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes and coordinator give up within a second on what will not come."""
    monkeypatch.setattr(service_audit, "_OPENING_SECONDS", 0.7)
    monkeypatch.setattr(audit_client, "_SUBMIT_SECONDS", 0.5)


def await_public(world: World, contract: Contract) -> None:
    """Wait until everything that was said is published under the contract's quorum."""
    world.await_logged()
    deadline = time.monotonic() + 20
    size = world.store.logged_size()
    while True:
        report = world.verify(contract)
        if report.size >= size and report.cosigners == tuple(sorted(PARTIES)):
            return
        assert time.monotonic() < deadline, (report, size)
        time.sleep(0.05)


def codes(world: World, contract: Contract) -> set[str]:
    await_public(world, contract)
    return {finding.code for finding in world.verify(contract).findings}


def test_a_phase_opens_at_every_node_once_all_have_witnessed_it(world: World) -> None:
    contract = world.ready()
    for phase in ("hello", "align"):
        world.open_phase(contract, phase)
        for party in world.parties.values():
            party.gate.await_opening(contract, RUN, phase)
            assert party.state.seen_checkpoint() is not None
    assert codes(world, contract) == {"run_not_closed"}


def test_what_a_party_states_is_in_the_log_when_it_returns(world: World) -> None:
    contract = world.ready()
    world.parties["bank"].trail.log(Scoring, contract_digest=contract.digest(), count=3)
    assert codes(world, contract) == set()
    assert world.verify(contract).statements["scoring"] == 1


@pytest.mark.usefixtures("impatient")
def test_a_node_does_not_begin_while_one_witness_is_missing_and_does_once_it_is_back(world: World) -> None:
    contract = world.ready()
    world.parties["court"].offline()
    world.open_phase(contract)
    with pytest.raises(UnavailableError, match="quorum of witnesses"):
        world.parties["tax"].gate.await_opening(contract, RUN, "hello")
    assert world.parties["tax"].state.seen_checkpoint() is None
    world.parties["court"].online(world.keys.signer.key)
    await_public(world, contract)
    world.parties["tax"].gate.await_opening(contract, RUN, "hello")


@pytest.mark.usefixtures("impatient")
def test_a_phase_that_was_never_opened_in_the_log_does_not_begin(world: World) -> None:
    contract = world.ready()
    world.open_phase(contract)
    world.parties["tax"].gate.await_opening(contract, RUN, "hello")
    with pytest.raises(UnavailableError):
        world.parties["tax"].gate.await_opening(contract, RUN, "align")


def test_a_run_begins_only_as_what_the_witnessed_log_says_of_it(world: World) -> None:
    contract = world.ready()
    world.store.open_run(RUN, contract.digest(), model_run=4)
    world.store.open_run(5, contract.digest())
    tax = world.parties["tax"]
    tax.gate.await_run(contract, RUN, 4)
    tax.gate.await_run(contract, 5, None)
    for run_id, model_run in ((RUN, 3), (RUN, None), (5, 4)):
        with pytest.raises(RefusedError, match="opening_not_witnessed"):
            tax.gate.await_run(contract, run_id, model_run)
    assert (tax.state.run_folder(RUN) / "refused-run.tlog-proof").read_bytes().startswith(b"c2sp.org/tlog")


def test_the_opening_of_another_phase_is_refused_and_kept_as_evidence(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    contract = world.ready()
    world.open_phase(contract)
    honest = world.notary.opening
    monkeypatch.setattr(
        Notary, "opening", lambda _self, run, _phase, seen, seconds: honest(run, "hello", seen, seconds)
    )
    tax = world.parties["tax"]
    with pytest.raises(RefusedError, match="opening_not_witnessed"):
        tax.gate.await_opening(contract, RUN, "align")
    assert (tax.state.run_folder(RUN) / "refused-align.tlog-proof").read_bytes().startswith(b"c2sp.org/tlog")


def test_an_opening_that_another_party_signed_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thief of the log's key, or a party, cannot open a phase: that takes the coordinator's own key."""
    contract = world.ready()
    forged = PhaseOpened(
        issuer="coordinator",
        issued_at=int(now().timestamp()),
        run_id=str(RUN),
        contract_digest=contract.digest(),
        phase="hello",
    )
    number = world.store.add_entry(EntrySigner(world.parties["bank"].state.identity()).sign(forged))
    (place,) = world.notary.await_places([number], 10)
    await_public(world, contract)
    opening = prove_opening(FolderSource(world.state.log_folder), place, 0)
    monkeypatch.setattr(Notary, "opening", lambda *_: opening)
    world.store.open_run(RUN, contract.digest())
    with pytest.raises(RefusedError, match="opening_not_witnessed"):
        world.parties["tax"].gate.await_opening(contract, RUN, "hello")
    assert "not_signed" in codes(world, contract)


def fork(world: World, contract: Contract, allies: tuple[str, ...]) -> tuple[Path, int]:
    """Return another log by the same keys that opens the phase, and the place; allies cosign it blindly."""
    folder = world.folder / "fork"
    shutil.copytree(world.state.log_folder, folder)
    (folder / ".lock").unlink()
    signer = EntrySigner(world.keys.identity)
    fields = {
        "issuer": "coordinator",
        "issued_at": int(now().timestamp()),
        "contract_digest": contract.digest(),
    }
    opened = PhaseOpened(**fields, run_id=str(RUN), phase="hello")
    aside = Enrolment(
        issuer="coordinator",
        issued_at=int(now().timestamp()),
        role="coordinator",
        identity_key="A" * 43 + "=",
    )
    with AuditLog.open(folder, world.keys.signer, any_of(world.keys.signer.key, [])) as log:
        places = log.append([signer.sign(aside), signer.sign(opened)])
        text = log.head.decode().partition("\n\n")[0] + "\n"
        lines = [
            world.parties[ally].state.witness_signer(ally).sign(text, int(now().timestamp()))
            for ally in allies
        ]
        head = log.head.decode() + "".join(lines)
    (folder / CHECKPOINT_PATH).write_text(head)
    assert len(parse_signature_lines(head.rpartition("\n\n")[2])) == 1 + len(allies)
    return folder, places[1]


@pytest.mark.parametrize("allies", [(), ("bank",), ("bank", "court")])
def test_a_fork_that_one_institution_is_shown_is_refused_even_if_others_collude(
    world: World, allies: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    contract = world.ready()
    await_public(world, contract)
    folder, place = fork(world, contract, allies)
    opening = prove_opening(FolderSource(folder), place, 0)
    monkeypatch.setattr(Notary, "opening", lambda *_: opening)
    world.store.open_run(RUN, contract.digest())
    with pytest.raises(RefusedError, match="opening_not_witnessed"):
        world.parties["tax"].gate.await_opening(contract, RUN, "hello")


def test_a_fork_after_what_a_node_has_seen_is_refused_even_if_every_witness_cosigned_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    contract = world.ready()
    await_public(world, contract)
    folder, place = fork(world, contract, tuple(PARTIES))
    world.open_phase(contract)
    tax = world.parties["tax"]
    tax.gate.await_opening(contract, RUN, "hello")
    seen = tax.state.seen_checkpoint()
    assert seen is not None
    opening = prove_opening(FolderSource(folder), place, 0)
    monkeypatch.setattr(Notary, "opening", lambda *_: opening)
    with pytest.raises(RefusedError, match="opening_not_witnessed"):
        tax.gate.await_opening(contract, RUN, "hello")
    assert tax.state.seen_checkpoint() == seen


def test_an_honest_witness_does_not_cosign_a_fork(world: World) -> None:
    contract = world.ready()
    await_public(world, contract)
    folder, _ = fork(world, contract, ())
    world.parties["bank"].trail.log(Scoring, contract_digest=contract.digest(), count=3)
    await_public(world, contract)
    with AuditLog.open(folder, world.keys.signer, any_of(world.keys.signer.key, [])) as log:
        size = log.checkpoint.size
        bodies = [Submission(old, (), log.head).to_bytes() for old in (0, size)]
        bodies += [log.submission(old) for old in range(size + 1)]
    bank = world.parties["bank"]
    bank.offline()
    signer = bank.state.witness_signer("bank")
    with Witness(bank.state.witness_folder, signer, [world.keys.signer.key], time.time) as witness:
        answers = {witness.add_checkpoint(body).status for body in bodies}
    assert answers <= {400, 409, 422}
    assert 409 in answers


@pytest.mark.usefixtures("impatient")
def test_a_coordinator_that_goes_on_from_a_backup_gets_no_witness_and_opens_no_phase(world: World) -> None:
    contract = world.ready()
    await_public(world, contract)
    backup = world.copy_state("backup")
    world.open_phase(contract)
    await_public(world, contract)
    world.parties["tax"].gate.await_opening(contract, RUN, "hello")
    world.stop()
    world.start(backup)
    world.store.open_run(5, contract.digest())
    world.store.set_phase(5, "hello")
    with pytest.raises(UnavailableError):
        world.parties["tax"].gate.await_opening(contract, 5, "hello")
    world.await_logged()
    assert world.verify(contract, backup.log_folder).size < world.store.logged_size()


def test_a_log_that_is_shorter_than_what_was_logged_is_not_written_on(world: World) -> None:
    world.ready()
    world.await_logged()
    backup = world.copy_state("backup")
    world.draft(name="later")
    world.await_logged()
    world.stop()
    shutil.rmtree(world.state.log_folder)
    shutil.copytree(backup.log_folder, world.state.log_folder)
    with pytest.raises(StorageError, match="rolled back"):
        world.start()


def test_entries_in_anothers_name_or_by_another_key_or_of_another_kind_are_not_taken(world: World) -> None:
    contract = world.ready()
    bank, tax = world.parties["bank"], world.parties["tax"]
    said = Scoring(issuer="tax", issued_at=1, contract_digest=contract.digest(), count=1)
    with pytest.raises(ProtocolError, match="in the name of bank"):
        bank.client.submit([EntrySigner(tax.state.identity()).sign(said)])
    own = said.model_copy(update={"issuer": "bank"})
    with pytest.raises(ProtocolError, match="not signed with its key"):
        bank.client.submit([EntrySigner(tax.state.identity()).sign(own)])
    approval = Approval(issuer="bank", issued_at=1, contract_digest=contract.digest())
    with pytest.raises(RefusedError, match="other_kind"):
        bank.client.submit([EntrySigner(bank.state.identity()).sign(approval)])
    assert codes(world, contract) == set()


def test_an_approval_that_the_operator_forged_is_found(world: World) -> None:
    world.enrol()
    contract = world.draft()
    for name in ("bank", "court"):
        world.parties[name].approve(contract)
    said = Approval(issuer="tax", issued_at=int(now().timestamp()), contract_digest=contract.digest())
    world.store.add_decision(
        contract.digest(), "tax", True, b"forged", EntrySigner(world.keys.identity).sign(said)
    )
    world.online()
    world.open_phase(contract)
    assert codes(world, contract) == {"not_signed", "run_without_approval", "run_not_closed"}


def test_a_run_before_the_last_approval_is_found(world: World) -> None:
    world.enrol()
    contract = world.draft()
    for name in ("bank", "court"):
        world.parties[name].approve(contract)
    world.open_phase(contract)
    world.parties["tax"].approve(contract)
    world.online()
    assert codes(world, contract) == {"run_without_approval", "run_not_closed"}


def test_a_revocation_ends_the_runs_and_every_node_refuses_the_contract(world: World) -> None:
    contract = world.ready()
    court, tax = world.parties["court"], world.parties["tax"]
    world.open_phase(contract)
    court.gate.await_opening(contract, RUN, "hello")
    court.revoke(contract)
    court.revoke(contract)
    assert {digest for digest, _ in world.ended} == {contract.digest()}
    world.store.set_phase(RUN, "align")
    with pytest.raises(RefusedError, match="contract_revoked"):
        court.gate.await_opening(contract, RUN, "align")
    fetched = ContractClient(tax.config, tax.state).fetch(contract.digest())
    assert (fetched.revoked_by(), fetched.status) == (["court"], "revoked")
    assert fetched.verdicts()["court"] == "revoke"
    assert world.verify(contract).statements.get("revocation", 0) <= 1
    await_public(world, contract)
    assert world.verify(contract).statements["revocation"] == 1


@pytest.mark.usefixtures("impatient")
def test_a_revocation_counts_at_its_own_node_even_if_nobody_can_be_told(world: World) -> None:
    contract = world.ready()
    court = world.parties["court"]
    world.stop()
    with pytest.raises(FedshareError):
        court.revoke(contract)
    world.start()
    world.open_phase(contract)
    with pytest.raises(RefusedError, match="contract_revoked"):
        court.gate.await_opening(contract, RUN, "hello")


def test_the_log_goes_on_after_a_restart_of_the_coordinator(world: World) -> None:
    contract = world.ready()
    world.open_phase(contract)
    await_public(world, contract)
    world.stop()
    world.start()
    world.store.set_phase(RUN, "align")
    for party in world.parties.values():
        party.gate.await_opening(contract, RUN, "align")
    assert codes(world, contract) == {"run_not_closed"}


def test_a_witness_outside_the_federation_is_asked_over_http_and_counts(world: World) -> None:
    key = IdentityKey.generate(os.urandom).signing_key
    signer = NoteSigner("regulator.example/w1", key, COSIGNATURE)
    with Witness(world.folder / "regulator", signer, [world.keys.signer.key], time.time) as witness:
        server = WitnessServer(("127.0.0.1", 0), witness)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        world.stop()
        world.outside["regulator"] = signer.key.vkey
        world.outside_clients["regulator"] = HttpWitness(f"http://127.0.0.1:{server.server_address[1]}")
        world.start()
        contract = world.ready()
        assert (len(contract.log.witnesses), contract.log.quorum) == (4, 3)
        world.parties["court"].offline()  # the regulator makes up for one party
        world.open_phase(contract)
        world.parties["tax"].gate.await_opening(contract, RUN, "hello")
        assert "regulator" in world.verify(contract).cosigners
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_witness_that_cannot_be_reached_over_http_is_unavailable(free_port: int) -> None:
    with pytest.raises(UnavailableError, match="cannot be reached"):
        HttpWitness(f"http://127.0.0.1:{free_port}")(b"body")
