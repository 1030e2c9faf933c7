"""One honest witness or one auditor detects every way in which a log, its operator or a party can cheat."""

import pytest
from audit_federation import CODE, PARTIES, Federation, contract_document, key_of, public_of

from fedshare.audit.commitments import EnvelopeTally
from fedshare.audit.entries import EntrySigner
from fedshare.audit.hashing import leaf_hash, perfect_root
from fedshare.audit.log import AuditLog
from fedshare.audit.notes import NoteSigner
from fedshare.audit.statements import (
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
    Revocation,
    RunOpened,
    Scoring,
)
from fedshare.audit.tiles import bundle_path, encode_bundle, tile_path
from fedshare.identity.keys import IdentityKey


@pytest.fixture
def federation(tmp_path):
    federation = Federation(tmp_path)
    yield federation
    federation.close()


def test_an_honest_log_is_good(federation):
    report = federation.honest().log().verify()
    assert report.findings == []
    assert (report.exit_code, report.size, report.origin) == (0, 18, "example.org/log")
    assert report.cosigners == ("bank-a", "bank-b", "tax")
    assert report.statements["approval"] == 3


def test_an_empty_log_is_good(federation):
    with AuditLog.open(federation.path, federation.signer, federation.policy) as log:
        assert log.publish([federation.witnesses[name].add_checkpoint(log.submission(0)).body.decode()
                            for name in PARTIES])  # fmt: skip
    assert federation.verify().findings == []


def test_everything_that_may_be_said_may_be_said(federation):
    federation.honest()
    federation.say(Scoring, "bank-a", contract_digest=federation.contract, count=17)
    federation.say(Refusal, "bank-a", contract_digest=federation.contract, code="contract_expired")
    federation.say(PrivateHead, "bank-b", commitment="e" * 64)
    federation.say(Revocation, "tax", contract_digest=federation.contract)
    assert federation.log().verify().findings == []


# The operator alters the folder.


def edited(federation, retile):
    federation.honest().log()
    size = len(federation.entries)
    entries = [*federation.entries[:5], b"forged", *federation.entries[6:]]
    (federation.path / bundle_path(0, size)).write_bytes(encode_bundle(entries))
    if retile:
        tile = b"".join(map(leaf_hash, entries))
        (federation.path / tile_path(0, 0, size)).write_bytes(tile)


def test_an_edited_leaf_is_found_at_its_place(federation):
    edited(federation, retile=False)
    report = federation.verify()
    assert (report.findings[0].code, report.findings[0].index) == ("other_hash", 5)
    assert report.exit_code == 20


def test_an_edited_leaf_with_its_tile_is_found_by_the_root(federation):
    edited(federation, retile=True)
    assert "other_root" in federation.codes()


def test_a_dropped_entry_is_found(federation):
    federation.honest().log()
    path = federation.path / bundle_path(0, len(federation.entries))
    path.write_bytes(encode_bundle(federation.entries[:-1]))
    assert federation.codes() == {"unreadable"}
    path.unlink()
    assert federation.codes() == {"unreadable"}


def test_a_missing_or_malformed_checkpoint_is_found(federation):
    federation.honest().log()
    (federation.path / "checkpoint").write_bytes(b"nothing")
    assert federation.verify().exit_code == 21
    (federation.path / "checkpoint").unlink()
    assert federation.verify().exit_code == 20


def test_a_changed_upper_tile_is_found(federation, tmp_path):
    federation.enrol()
    federation.agree()
    for count in range(1, 300):
        federation.say(Scoring, "bank-a", contract_digest=federation.contract, count=count)
    federation.log(batch=300)
    path = federation.path / tile_path(1, 0, 1)
    path.write_bytes(perfect_root([leaf_hash(b"x")]))
    assert federation.codes() == {"other_hash"}


# The operator shows different trees, or an old one.


def test_truncating_and_signing_again_is_refused_by_a_witness_and_found_with_an_old_checkpoint(federation):
    federation.honest().log()
    before = (federation.path / "checkpoint").read_bytes()
    shorter = federation.folder / "shorter"
    federation.log(shorter, federation.entries[:10], batch=10)
    assert not federation.published.is_public
    assert set(federation.published.failures) == set(PARTIES)
    (shorter / "checkpoint.pending").rename(shorter / "checkpoint")
    report = federation.verify(shorter, since=before)
    assert {"no_quorum", "rolled_back"} <= {finding.code for finding in report.findings}
    assert report.exit_code == 22


def test_a_fork_gets_no_quorum_and_is_found_with_the_other_institution_s_checkpoint(federation):
    federation.honest().log()
    before = (federation.path / "checkpoint").read_bytes()
    forged = EntrySigner(IdentityKey(key_of("bank-a"))).sign(Refusal(issuer="bank-a", issued_at=1, code="x"))
    other = [*federation.entries[:-1], forged, *federation.entries[-1:]]
    fork = federation.folder / "fork"
    federation.log(fork, other, batch=len(other))
    assert not federation.published.is_public
    (fork / "checkpoint.pending").rename(fork / "checkpoint")
    assert {"no_quorum", "rewritten"} <= federation.codes(fork, since=before)


def test_a_rollback_to_a_backup_is_refused_by_every_witness(federation):
    federation.enrol()
    federation.agree()
    federation.log()
    backup = federation.copy("backup")
    federation.whole_run()
    federation.log()
    newer = (federation.path / "checkpoint").read_bytes()
    assert federation.codes(backup, since=newer) == {"rolled_back"}
    federation.say(Refusal, "bank-a", code="something_else")
    federation.log(backup, federation.entries[-1:])
    assert not federation.published.is_public
    assert set(federation.published.failures) == set(PARTIES)


def test_a_stolen_log_key_makes_no_history_that_satisfies_the_policy(federation):
    federation.honest().log()
    thief = federation.folder / "thief"
    with AuditLog.open(thief, federation.signer) as log:  # no policy: it publishes at once
        log.append(federation.entries[:4])
    report = federation.verify(thief)
    assert report.exit_code == 22
    assert [finding.code for finding in report.findings] == ["no_quorum"]


def test_another_log_s_key_is_no_log_of_the_policy(federation):
    with AuditLog.open(federation.path, NoteSigner("example.org/log", key_of("thief"))) as log:
        log.append([b"x"])
    assert federation.verify().exit_code == 21


def test_one_honest_witness_stops_a_fork_that_needs_all(federation):
    federation.honest().log()
    fork = federation.folder / "fork"
    with AuditLog.open(fork, federation.signer, federation.policy) as log:
        log.append([b"x"] * 30)
        statuses = {federation.client(name)(log.submission(0))[0] for name in PARTIES}
        statuses |= {federation.client(name)(log.submission(18))[0] for name in PARTIES}
    assert statuses == {409, 422}


# Someone says what is not theirs to say.


def test_an_entry_in_another_party_s_name_is_found(federation):
    federation.enrol()
    federation.agree(approvers=("tax", "bank-a"))
    index = federation.say(Approval, "bank-b", signed_by="coordinator", contract_digest=federation.contract)
    federation.open()
    federation.finish(outcome="failed")
    report = federation.log().verify()
    assert [(f.code, f.index) for f in report.findings if f.kind == 24] == [("not_signed", index)]
    assert "run_without_approval" in {finding.code for finding in report.findings}
    assert report.exit_code == 24


def test_a_key_replaced_by_the_operator_is_found(federation):
    federation.enrol()
    fields = {"role": "label_holder", "identity_key": public_of("coordinator")}
    federation.say(Enrolment, "bank-a", signed_by="coordinator", **fields)
    assert federation.log().codes() == {"not_signed"}


def test_a_key_replaced_by_its_owner_is_taken_over(federation):
    federation.enrol()
    fields = {"role": "label_holder", "identity_key": public_of("new")}
    federation.say(Enrolment, "bank-a", **fields)
    federation.say(Refusal, "bank-a", signed_by="new", code="x")
    assert federation.log().codes() == set()


def test_a_false_first_enrolment_is_found_with_a_key_known_from_elsewhere(federation):
    fields = {"role": "label_holder", "identity_key": public_of("coordinator")}
    federation.say(Enrolment, "bank-a", signed_by="coordinator", **fields)
    keys = {"bank-a": key_of("bank-a").public_key().public_bytes_raw()}
    assert federation.log().codes(keys=keys) == {"other_key"}


def test_a_contract_with_a_foreign_key_for_a_party_is_found(federation):
    federation.enrol()
    parties = [{"id": p, "role": r, "identity_key": public_of("coordinator")} for p, r in PARTIES.items()]
    federation.agree(contract_document(parties=parties), approvers=())
    assert federation.log().codes() == {"contract_key"}


@pytest.mark.parametrize(
    "log",
    [
        {"coordinator_key": public_of("tax"), "witnesses": {}},
        {"coordinator_key": public_of("coordinator"), "witnesses": {"tax": "tax/witness+1+AA"}},
    ],
)
def test_a_contract_with_another_key_of_the_coordinator_or_a_witness_is_found(federation, log):
    federation.enrol()
    federation.agree(contract_document(log=log), approvers=())
    assert federation.log().codes() == {"contract_key"}


def test_a_witness_key_that_is_not_the_policy_s_is_found(federation):
    federation.say(
        Enrolment, "tax", role="feature_holder", identity_key=public_of("tax"), witness_key="other+1+AA"
    )
    assert federation.log().codes() == {"other_witness"}


def test_an_entry_that_is_no_statement_is_found(federation):
    federation.enrol()
    federation.entries.append(b"{}")
    assert federation.log().codes() == {"no_statement"}


def test_a_party_that_did_not_enrol_is_found(federation):
    federation.say(Refusal, "bank-a", code="x")
    assert federation.log().codes() == {"not_enrolled"}


def test_an_old_approval_after_its_revocation_is_found(federation):
    federation.enrol()
    federation.agree()
    federation.say(Revocation, "bank-b", contract_digest=federation.contract)
    federation.entries.append(federation.entries[-2])
    assert federation.log().codes() == {"replayed"}


def test_a_coordinator_s_word_in_a_party_s_mouth_is_found(federation):
    federation.enrol()
    federation.agree()
    federation.say(RunOpened, "tax", run_id="1", contract_digest=federation.contract, code_digest=CODE)
    federation.finish("1", outcome="failed")
    assert federation.log().codes() == {"not_the_coordinator"}


# The steps of a run.


def test_a_run_without_a_contract_is_found(federation):
    federation.enrol()
    federation.say(RunOpened, "coordinator", run_id="7", contract_digest="f" * 64, code_digest=CODE)
    report = federation.log().verify()
    assert ([f.code for f in report.findings], report.exit_code) == (["run_without_contract"], 25)


def test_an_approval_after_the_fact_is_found(federation):
    federation.enrol()
    federation.agree(approvers=("tax", "bank-a"))
    index = federation.open()
    federation.say(Approval, "bank-b", contract_digest=federation.contract)
    federation.finish(outcome="failed")
    report = federation.log().verify()
    assert [(f.code, f.index) for f in report.findings] == [("run_without_approval", index)]
    assert "bank-b" in report.findings[0].message


def test_a_run_after_a_revocation_is_found(federation):
    federation.enrol()
    federation.agree()
    federation.say(Revocation, "bank-b", contract_digest=federation.contract)
    federation.open()
    federation.finish(outcome="refused", cause="revoked")
    assert federation.log().codes() == {"run_without_approval"}


def test_an_approval_of_an_unlogged_contract_is_found(federation):
    federation.enrol()
    federation.say(Approval, "tax", contract_digest="f" * 64)
    assert federation.log().codes() == {"no_contract"}


def test_a_contract_whose_text_has_another_digest_is_found(federation):
    federation.enrol()
    federation.say(ContractPublished, "coordinator", contract_digest="f" * 64, document=contract_document())
    assert federation.log().codes() == {"contract_unreadable"}


def test_a_run_that_is_not_closed_is_reported(federation):
    federation.enrol()
    federation.agree()
    federation.open()
    assert federation.log().verify().exit_code == 28


def test_a_run_id_used_twice_is_found(federation):
    federation.honest()
    federation.open()
    assert federation.log().codes() == {"run_reopened"}


def test_envelopes_after_the_run_are_found(federation):
    federation.honest()
    tally = EnvelopeTally()
    tally.add("s", "tax", "sent", b"x")
    federation.say(
        Envelopes,
        "bank-a",
        run_id="7",
        contract_digest=federation.contract,
        phase="train",
        totals=tally.totals(),
    )
    assert federation.log().codes() == {"no_run"}


@pytest.mark.parametrize(
    ("steps", "code"),
    [
        ([(PhaseOpened, "train"), (PhaseClosed, "train"), (PhaseOpened, "align")], "phase_order"),
        ([(PhaseOpened, "align"), (PhaseOpened, "train")], "phase_order"),
        ([(PhaseOpened, "train"), (PhaseClosed, "train"), (PhaseOpened, "train")], "phase_order"),
        ([(PhaseClosed, "train")], "phase_not_open"),
        ([(PhaseOpened, "steal")], "unknown_phase"),
    ],
)
def test_phases_out_of_order_are_found(federation, steps, code):
    federation.enrol()
    federation.agree()
    federation.open()
    for kind, phase in steps:
        federation.say(kind, "coordinator", run_id="7", contract_digest=federation.contract, phase=phase)
    federation.finish(outcome="failed")
    assert federation.log().codes() == {code}


# What the parties say about the same thing.


def run_with(federation, accounts, outcome="completed", announce=True):
    federation.enrol()
    federation.agree()
    federation.open()
    federation.phase(accounts=accounts)
    if announce:
        federation.announce()
    federation.finish(outcome=outcome)
    return federation.log()


def tally_of(*calls):
    tally = EnvelopeTally()
    for call in calls:
        tally.add(*call)
    return tally


def test_an_envelope_altered_on_the_way_is_found(federation):
    altered = tally_of(("step-1", "tax", "received", b"ONE"), ("step-1", "tax", "sent", b"three"))
    assert run_with(federation, {"bank-a": altered}).codes() == {"envelopes_differ"}


def test_an_envelope_swallowed_in_a_completed_run_is_found(federation):
    silent = tally_of(("step-1", "tax", "sent", b"three"))
    assert run_with(federation, {"bank-a": silent}).codes() == {"one_sided"}


def test_an_envelope_lost_in_a_failed_run_is_not_a_finding(federation):
    silent = tally_of(("step-1", "tax", "sent", b"three"))
    assert run_with(federation, {"bank-a": silent}, outcome="failed").codes() == set()


def test_an_envelope_altered_in_a_failed_run_is_found(federation):
    altered = tally_of(("step-1", "tax", "received", b"ONE"), ("step-1", "tax", "sent", b"three"))
    assert run_with(federation, {"bank-a": altered}, outcome="failed").codes() == {"envelopes_differ"}


def test_an_account_given_twice_is_found(federation):
    federation.enrol()
    federation.agree()
    federation.open()
    federation.phase()
    federation.entries.append(federation.entries[-2])
    federation.announce()
    federation.finish()
    assert federation.log().codes() == {"told_twice"}


def test_envelopes_exchanged_with_a_stranger_are_found(federation):
    stranger = tally_of(
        ("step-1", "mallory", "sent", b"one"),
        ("step-1", "bank-a", "sent", b"one"),
        ("step-1", "bank-b", "sent", b"two"),
        ("step-1", "bank-a", "received", b"three"),
    )
    assert run_with(federation, {"tax": stranger}).codes() == {"stranger"}


def test_two_models_announced_to_two_nodes_are_found(federation):
    federation.enrol()
    federation.agree()
    federation.open()
    federation.announce(party_to_component={"bank-b": "e" * 64})
    federation.finish()
    report = federation.log().verify()
    assert ([f.code for f in report.findings], report.exit_code) == (["models_differ"], 26)


def test_a_completed_run_without_a_party_s_manifest_is_reported(federation):
    assert run_with(federation, {}, announce=False).codes() == {"model_not_announced"}


# What the contract allows.


def test_other_code_than_the_contract_s_is_found(federation):
    federation.enrol()
    federation.agree()
    federation.open(code_digest="9" * 64)
    federation.finish(outcome="failed")
    assert federation.log().codes() == {"other_code"}


def test_a_run_outside_the_contract_s_validity_is_found(federation):
    federation.enrol()
    federation.agree(contract_document(valid_until="2026-02-01T00:00:00Z"))
    federation.open()
    federation.finish(outcome="failed")
    assert federation.log().codes() == {"contract_not_valid"}


def test_metrics_that_the_contract_keeps_are_found_and_others_are_not(federation):
    federation.enrol()
    federation.agree()
    federation.open()
    federation.announce(metrics={"auc": "0.81"})
    federation.finish()
    federation.agree(contract_document(outputs={"coordinator_metrics": True}))
    federation.open("8")
    federation.announce("8", metrics={"auc": "0.81"})
    federation.finish("8")
    findings = federation.log().verify().findings
    assert [finding.code for finding in findings] == ["metrics_shown"] * 3


def test_a_party_outside_the_contract_is_found(federation):
    federation.enrol()
    federation.say(Enrolment, "court", role="feature_holder", identity_key=public_of("court"))
    federation.agree()
    federation.say(Approval, "court", contract_digest=federation.contract)
    federation.open()
    fields = {"run_id": "7", "contract_digest": federation.contract, "version": 1, "components": {}}
    federation.say(ModelManifest, "court", **fields)
    federation.finish(outcome="failed")
    assert federation.log().codes() == {"stranger"}


def test_scoring_under_a_revoked_contract_or_by_a_feature_holder_is_found(federation):
    federation.honest()
    federation.say(Scoring, "tax", contract_digest=federation.contract, count=1)
    federation.say(Revocation, "tax", contract_digest=federation.contract)
    federation.say(Scoring, "bank-a", contract_digest=federation.contract, count=1)
    assert federation.log().codes() == {"scoring_role", "scoring_not_valid"}


def test_one_report_shows_several_findings_and_the_lowest_code_wins(federation):
    federation.enrol()
    federation.agree(approvers=("tax",))
    federation.say(Approval, "bank-a", signed_by="coordinator", contract_digest=federation.contract)
    federation.open(code_digest="9" * 64)
    report = federation.log().verify()
    assert {int(finding.kind) for finding in report.findings} == {24, 25, 27, 28}
    assert report.exit_code == 24


def test_an_entry_of_a_private_log_in_the_common_one_is_found(federation):
    federation.honest()
    federation.say(PrivateEvent, "tax", event="failed", facts={"message": "private"})
    assert federation.log().codes() == {"private_event"}


def serve(federation, model_run="7", **changes):
    """Have a run serve a model: one envelope of its last phase never arrives."""
    federation.open("8", model_run=model_run, **changes)
    tally = EnvelopeTally()
    tally.add("partial_scores", "bank-a", "sent", b"on its way")
    for phase, accounts in (("hello", {}), ("publish", {}), ("serve", {"tax": tally}), ("close", {})):
        federation.phase(phase, "8", envelopes=[("tax", "bank-a", b"one")], accounts=accounts)
    federation.finish("8")


def test_a_run_that_serves_a_trained_model_is_good(federation):
    federation.enrol()
    federation.agree(contract_document(scoring={"quota": 5}))
    federation.whole_run("7")
    serve(federation)
    assert federation.log().codes() == set()


def open_serving(federation):
    federation.enrol()
    federation.agree(contract_document(scoring={"quota": 5}))
    federation.whole_run("7")
    federation.open("8", model_run="7")


def count_scores(federation, issuer="bank-a"):
    federation.say(Scoring, issuer, contract_digest=federation.contract, count=1)


def test_scores_of_a_run_that_a_revocation_ends_are_counted_before_or_once_after_its_end(federation):
    open_serving(federation)
    federation.say(Revocation, "tax", contract_digest=federation.contract)
    count_scores(federation)
    federation.finish("8", outcome="failed", cause="revoked")
    count_scores(federation)
    count_scores(federation, "bank-b")
    assert federation.log().codes() == set()


def test_scores_counted_again_after_the_last_count_of_a_revoked_contract_are_found(federation):
    open_serving(federation)
    federation.say(Revocation, "tax", contract_digest=federation.contract)
    federation.finish("8", outcome="failed", cause="revoked")
    count_scores(federation)
    count_scores(federation)
    assert federation.log().codes() == {"scoring_not_valid"}


def test_scores_of_a_run_that_serves_beyond_its_contracts_end_are_counted(federation):
    open_serving(federation)
    federation.now = 1_800_000_000  # in 2027, after the contract
    count_scores(federation)
    federation.finish("8")
    assert federation.log().codes() == set()


def test_scores_of_a_run_that_was_opened_after_a_revocation_are_found(federation):
    federation.enrol()
    federation.agree(contract_document(scoring={"quota": 5}))
    federation.whole_run("7")
    federation.say(Revocation, "tax", contract_digest=federation.contract)
    federation.open("8", model_run="7")
    count_scores(federation)
    federation.finish("8")
    assert federation.log().codes() == {"run_without_approval", "scoring_not_valid"}


def test_serving_what_the_contract_does_not_say_is_found(federation):
    federation.honest()
    serve(federation)
    assert federation.log().codes() == {"serving_not_agreed"}


def test_serving_a_model_that_no_completed_run_of_the_contract_trained_is_found(federation):
    federation.enrol()
    federation.agree(contract_document(scoring={"quota": 5}))
    serve(federation)
    assert federation.log().codes() == {"no_model"}


def test_training_in_a_run_that_was_opened_to_serve_is_found(federation):
    federation.enrol()
    federation.agree(contract_document(scoring={"quota": 5}))
    federation.whole_run("7")
    federation.open("8", model_run="7")
    federation.phase("train", "8")
    federation.finish("8")
    assert federation.log().codes() == {"unknown_phase", "phase_not_open"}


def test_more_training_runs_than_the_contract_allows_are_found(federation):
    federation.enrol()
    federation.agree(contract_document(max_runs=2))
    for run in ("1", "2", "3"):
        federation.open(run)
        federation.phase("prepare", run)
        federation.announce(run)
        federation.finish(run)
    assert federation.log().codes() == {"too_many_runs"}


@pytest.mark.parametrize(
    ("mechanism", "epsilon", "delta", "found"),
    [
        ("labels", "2.000000000", "0.0", set()),
        ("labels", "2.000001", "0.0", {"privacy_exceeded"}),
        ("labels", "1.0", "0.1", {"privacy_exceeded"}),
        ("network", "0.1", "0.0", {"privacy_exceeded"}),
    ],
)
def test_spending_more_privacy_than_the_contract_allows_is_found(
    federation, mechanism, epsilon, delta, found
):
    federation.enrol()
    federation.agree(contract_document(privacy={"labels": {"epsilon": 2}, "network": None}))
    federation.open()
    fields = {"run_id": "7", "contract_digest": federation.contract, "mechanism": mechanism}
    federation.say(PrivacySpent, "bank-a", **fields, epsilon=epsilon, delta=delta)
    federation.phase("train")
    federation.announce()
    federation.finish()
    assert federation.log().codes() == found


def without(federation, lost, **terms):
    """Let a run complete in which ``lost`` announces no model and gives no account."""
    federation.enrol()
    federation.agree(contract_document(**terms))
    federation.open()
    federation.phase(accounts={lost: EnvelopeTally()})
    for party in PARTIES:
        if party != lost:
            fields = {"run_id": "7", "contract_digest": federation.contract, "version": 1}
            federation.say(ModelManifest, party, components={"tax": "d" * 64}, **fields)
    federation.finish()
    return federation.log().codes()


@pytest.mark.parametrize("lost_bank", ["repeat", "recover"])
def test_a_bank_that_the_contract_can_spare_may_be_missing_from_a_completed_run(federation, lost_bank):
    assert without(federation, "bank-b", between_banks={"lost_bank": lost_bank}) == set()


@pytest.mark.parametrize("lost", ["bank-a", "tax"])
def test_no_other_party_may_be_missing_from_it(federation, lost):
    codes = without(federation, lost, between_banks={"lost_bank": "repeat"})
    assert codes == {"model_not_announced", "one_sided"}


def test_without_such_a_contract_no_bank_may_be_missing(federation):
    assert without(federation, "bank-b") == {"model_not_announced", "one_sided"}
