"""The rounds of a run: order, the first cause, and an end for everyone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedshare_server.phases import PHASES, SERVING_PHASES, Cause, Reply, Rounds

PARTIES = ("bank", "court", "tax")
DIGEST = "ab" * 32


def rounds() -> Rounds:
    return Rounds(DIGEST, reversed(PARTIES))


def ok(party: str) -> Reply:
    return Reply("ok", party=party, hello=b"hello of " + party.encode())


def through(machine: Rounds, phase: str) -> Rounds:
    """Let every party answer until ``phase`` has begun."""
    while machine.phase != phase:
        machine.begin()
        for party in PARTIES:
            machine.accept(party, ok(party))
    machine.begin()
    return machine


def test_a_run_asks_every_party_for_every_phase_in_order() -> None:
    machine, asked = rounds(), []
    while not machine.is_over:
        requests = machine.begin()
        asked.append((machine.phase, sorted(requests)))
        for party in PARTIES:
            machine.accept(party, ok(party))
    assert asked == [(phase, list(PARTIES)) for phase in PHASES]
    assert machine.cause is None


def test_a_phase_is_sent_once() -> None:
    machine = rounds()
    assert machine.begin()
    assert machine.begin() == {}


def test_a_phase_waits_for_every_party() -> None:
    machine = rounds()
    machine.begin()
    machine.accept("bank", ok("bank"))
    machine.accept("tax", ok("tax"))
    assert (machine.phase, machine.waiting) == ("hello", {"court"})


def test_align_carries_every_hello_in_the_order_of_the_parties() -> None:
    machine = rounds()
    machine.begin()
    for party in reversed(PARTIES):
        machine.accept(party, ok(party))
    record = machine.begin()["bank"].to_record()
    assert record == {
        "phase": "align",
        "contract_digest": DIGEST,
        "hellos": [b"hello of bank", b"hello of court", b"hello of tax"],
    }


@pytest.mark.parametrize("phase", PHASES[:-1])
def test_a_refusal_in_any_phase_closes_the_run_with_its_cause(phase: str) -> None:
    machine = through(rounds(), phase)
    machine.accept("tax", Reply("refused", "contract_expired", "the contract ended yesterday"))
    requests = machine.begin()
    assert sorted(requests) == list(PARTIES)
    assert {request.to_record()["reason"] for request in requests.values()} == {
        "tax: the contract ended yesterday [contract_expired]"
    }
    assert machine.cause == Cause("refused", "contract_expired", "the contract ended yesterday", "tax")


def test_the_first_cause_stays() -> None:
    machine = through(rounds(), "train")
    machine.lose("tax", "its node has gone")
    machine.fail(Cause("failed", "run_aborted", "a consequence"))
    assert machine.cause is not None
    assert machine.cause.code == "node_lost"


def test_nobody_waits_for_a_lost_party() -> None:
    machine = through(rounds(), "train")
    machine.lose("tax", "its node has gone")
    assert sorted(machine.begin()) == ["bank", "court"]
    machine.accept("bank", ok("bank"))
    machine.lose("court", "gone as well")
    assert machine.is_over


def test_a_party_that_is_lost_after_the_model_is_complete_does_not_fail_the_run() -> None:
    machine = through(rounds(), "close")
    for party in PARTIES:
        machine.lose(party, "its node has gone")
    assert machine.is_over
    assert machine.cause is None


def test_a_phase_that_takes_too_long_fails_and_names_the_late() -> None:
    machine = through(rounds(), "prepare")
    machine.accept("bank", ok("bank"))
    machine.expire()
    assert str(machine.cause) == "no answer to phase prepare in time from court, tax [phase_timeout]"
    machine.begin()
    machine.expire()
    assert machine.is_over


def test_a_node_that_speaks_for_another_party_fails_the_run() -> None:
    machine = rounds()
    machine.begin()
    machine.accept("tax", ok("bank"))
    assert machine.cause is not None
    assert (machine.cause.party, machine.cause.code) == ("tax", "wrong_party")


@pytest.mark.parametrize(
    "record", [{}, {"status": "fine"}, {"status": 1}, {"status": ["ok"][0:0]}, {"hello": b"x"}]
)
def test_a_reply_without_a_known_status_is_a_failure(record: dict[str, object]) -> None:
    assert Reply.from_record(record).code == "malformed_reply"


def test_a_hello_without_a_hello_fails_the_run() -> None:
    machine = rounds()
    machine.begin()
    machine.accept("tax", Reply("ok", party="tax"))
    assert machine.cause is not None


replies = st.sampled_from([ok("bank"), ok("court"), ok("tax"), Reply("failed", "x", "y"), Reply("refused")])
steps = st.one_of(
    st.tuples(st.just("accept"), st.sampled_from(PARTIES), replies),
    st.tuples(st.just("lose"), st.sampled_from(PARTIES), st.just("gone")),
    st.tuples(st.just("expire")),
)


@given(st.lists(steps, max_size=60))
def test_whatever_happens_phases_only_go_forward_and_the_cause_never_changes(
    script: list[tuple[object, ...]],
) -> None:
    machine, reached, cause = rounds(), 0, None
    for name, *arguments in script:
        machine.begin()
        getattr(machine, str(name))(*arguments)
        assert PHASES.index(machine.phase) >= reached
        assert cause is None or machine.cause == cause
        assert machine.cause is None or machine.phase == "close"
        reached, cause = PHASES.index(machine.phase), machine.cause
        assert machine.waiting or machine.is_over


@given(st.binary(max_size=64) | st.text(max_size=20) | st.integers(), st.text(max_size=3000))
def test_a_hostile_reply_never_raises(hello: object, reason: str) -> None:
    reply = Reply.from_record({"status": "ok", "hello": hello, "reason": reason, "metrics": hello})
    assert len(reply.reason) <= 1000


def serving(phase: str = "serve") -> Rounds:
    return through(Rounds(DIGEST, PARTIES, SERVING_PHASES), phase)


def test_a_serving_run_carries_the_hellos_with_its_second_phase() -> None:
    machine = Rounds(DIGEST, PARTIES, SERVING_PHASES)
    machine.begin()
    for party in PARTIES:
        machine.accept(party, ok(party))
    record = machine.begin()["tax"].to_record()
    assert (record["phase"], len(record["hellos"])) == ("publish", 3)


def test_a_serving_run_stays_in_its_phase_until_it_is_released() -> None:
    machine = serving()
    machine.release()
    for party in PARTIES:
        assert not machine.is_held
        machine.accept(party, ok(party))
    assert (machine.is_held, machine.phase, machine.begin()) == (True, "serve", {})
    machine.release()
    assert (machine.is_held, machine.phase, sorted(machine.begin())) == (False, "close", list(PARTIES))


def test_a_serving_run_that_is_held_ends_with_the_first_cause() -> None:
    machine = serving()
    for party in PARTIES:
        machine.accept(party, ok(party))
    machine.fail(Cause("failed", "run_aborted", "party tax was lost"))
    assert (machine.is_held, machine.phase) == (False, "close")
    assert "party tax was lost" in machine.begin()["bank"].to_record()["reason"]


def test_a_run_that_serves_goes_on_without_a_party_that_it_can_spare() -> None:
    machine = through(Rounds(DIGEST, PARTIES, SERVING_PHASES, frozenset({"bank"})), "serve")
    machine.lose("bank", "its heartbeat stopped")
    for party in ("court", "tax"):
        machine.accept(party, ok(party))
    assert (machine.is_held, machine.cause) == (True, None)
    machine.lose("bank", "its connection ended")
    assert (machine.is_held, machine.phase) == (True, "serve")
    machine.release()
    assert sorted(machine.begin()) == ["court", "tax"]


@pytest.mark.parametrize("phase", ["hello", "publish"])
def test_a_run_that_serves_begins_with_everyone(phase: str) -> None:
    machine = through(Rounds(DIGEST, PARTIES, SERVING_PHASES, frozenset({"bank"})), phase)
    machine.accept("bank", Reply("failed", "UnavailableError", "no connection", party="bank"))
    assert machine.cause is not None


def sparing(phase: str) -> Rounds:
    """Return a run in ``phase`` that goes on without the court."""
    return through(Rounds(DIGEST, PARTIES, expendable=frozenset({"court"})), phase)


@pytest.mark.parametrize("phase", ["train", "evaluate"])
def test_a_run_goes_on_without_a_party_that_its_contract_can_spare(phase: str) -> None:
    machine = sparing(phase)
    machine.lose("court", "its heartbeat stopped")
    while not machine.is_over:
        machine.begin()
        for party in ("bank", "tax"):
            machine.accept(party, ok(party))
    assert machine.cause is None
    assert machine.phase == "close"


def test_a_spared_party_that_says_itself_that_it_was_cut_off_is_lost() -> None:
    machine = sparing("train")
    machine.accept("court", Reply("failed", "UnavailableError", "no connection", party="court"))
    assert (machine.cause, machine.waiting) == (None, {"bank", "tax"})


@pytest.mark.parametrize("code", ["ParameterError", "ProtocolError", "malformed_reply"])
def test_a_spared_party_that_fails_otherwise_ends_the_run(code: str) -> None:
    machine = sparing("train")
    machine.accept("court", Reply("failed", code, "the loss is not finite", party="court"))
    assert machine.cause == Cause("failed", code, "the loss is not finite", "court")


@pytest.mark.parametrize("phase", ["hello", "align", "prepare"])
def test_before_training_everyone_is_needed(phase: str) -> None:
    machine = sparing(phase)
    machine.lose("court", "its heartbeat stopped")
    assert machine.cause is not None
    assert machine.cause.code == "node_lost"


def test_a_party_that_cannot_be_spared_ends_the_run_in_training() -> None:
    machine = sparing("train")
    machine.lose("tax", "its heartbeat stopped")
    assert machine.cause is not None
