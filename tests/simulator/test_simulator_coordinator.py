"""A coordinator that misbehaves: whatever it does to envelopes, hellos or phases, the run ends and nothing is kept."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from simulation import Simulation, assert_ended, small_economy, tiny

from fedshare.identity.keys import IdentityKey
from fedshare.identity.session import PendingSession
from fedshare_clients.node.service import PHASES, NodeService

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedshare.identity.envelope import Envelope

POINTS = [
    ("bank", "BlindedIdentifiers/0"),
    ("tax", "RowTags/0"),
    ("bank", "SecretOffers/0"),
    ("tax", "SecretAnswer/1"),
    ("bank", "CountQuery/0"),
    ("bank", "SealedProduct/1"),
    ("tax", "SealedColumn/0"),
]


def once(
    sender: str, step: str, change: Callable[[Envelope], list[Envelope]]
) -> Callable[[Envelope], list[Envelope]]:
    """Return a tamper that changes the first envelope of ``sender`` with ``step`` and passes every other."""
    left = [None]

    def tamper(envelope: Envelope) -> list[Envelope]:
        if (envelope.sender, envelope.step) == (sender, step) and left:
            left.pop()
            return change(envelope)
        return [envelope]

    return tamper


def flipped(envelope: Envelope) -> Envelope:
    ciphertext = bytes([envelope.ciphertext[0] ^ 1]) + envelope.ciphertext[1:]
    return dataclasses.replace(envelope, ciphertext=ciphertext)


@pytest.mark.parametrize(("sender", "step"), POINTS)
def test_an_altered_envelope_ends_the_run(sender: str, step: str) -> None:
    simulation = tiny(tamper=once(sender, step, lambda envelope: [flipped(envelope)]))
    reasons = assert_ended(simulation, simulation.run())
    assert any("does not authenticate" in reason for reason in reasons.values())


@pytest.mark.parametrize(("sender", "step"), POINTS[::2])
def test_a_dropped_envelope_ends_the_run(sender: str, step: str) -> None:
    simulation = tiny(tamper=once(sender, step, lambda _: []), receive_timeout_seconds=1.0)
    assert_ended(simulation, simulation.run())


def test_a_coordinator_that_drops_everything_ends_the_run_at_every_party() -> None:
    simulation = tiny(tamper=lambda _: [], receive_timeout_seconds=0.2)
    reasons = assert_ended(simulation, simulation.run())
    assert set(reasons) == {"bank", "registry", "tax"}


@pytest.mark.parametrize(("sender", "step"), POINTS[1:6])
def test_a_replayed_envelope_ends_the_run(sender: str, step: str) -> None:
    simulation = tiny(tamper=once(sender, step, lambda envelope: [envelope, envelope]))
    reasons = assert_ended(simulation, simulation.run())
    assert any("replayed" in reason for reason in reasons.values())


def test_a_replay_of_the_last_envelope_is_never_read() -> None:
    simulation = tiny(tamper=once("bank", "ModelCommitment/0", lambda envelope: [envelope, envelope]))
    simulation.run()
    assert simulation.results() == ["bank", "registry", "tax"]


@pytest.mark.parametrize(
    ("sender", "recipient", "step"),
    [("tax", "bank", "EvaluatedIdentifiers/0"), ("tax", "bank", "SecretAnswer/1")],
)
def test_reordered_envelopes_end_the_run(sender: str, recipient: str, step: str) -> None:
    held: list[Envelope] = []

    def tamper(envelope: Envelope) -> list[Envelope]:
        if (envelope.sender, envelope.recipient) != (sender, recipient):
            return [envelope]
        if envelope.step == step:
            held.append(envelope)
            return []
        return [envelope, *(held.pop() for _ in range(len(held)))]

    simulation = tiny(tamper=tamper)
    reasons = assert_ended(simulation, simulation.run())
    assert any("reordered" in reason for reason in reasons.values())


@pytest.mark.parametrize(
    "change",
    [
        {"sequence": 1},
        {"last": False},
        {"step": "RowTags/0"},
        {"phase": "prepare"},
        {"run_id": 2},
        {"ciphertext": b""},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_altered_header_ends_the_run(change: dict[str, Any]) -> None:
    def alter(envelope: Envelope) -> list[Envelope]:
        return [dataclasses.replace(envelope, **change)]

    simulation = tiny(tamper=once("tax", "EvaluatedIdentifiers/0", alter))
    assert_ended(simulation, simulation.run())


def test_an_envelope_delivered_to_another_party_ends_the_run() -> None:
    def misdeliver(envelope: Envelope) -> list[Envelope]:
        return [
            dataclasses.replace(envelope, recipient="tax" if envelope.recipient == "registry" else "registry")
        ]

    simulation = tiny(tamper=once("bank", "SecretOffers/0", misdeliver), receive_timeout_seconds=5.0)
    assert_ended(simulation, simulation.run())


def test_an_envelope_under_another_senders_name_ends_the_run() -> None:
    def rename(envelope: Envelope) -> list[Envelope]:
        return [dataclasses.replace(envelope, sender="registry")]

    simulation = tiny(tamper=once("tax", "SealedColumn/0", rename), receive_timeout_seconds=5.0)
    assert_ended(simulation, simulation.run())


@pytest.mark.parametrize(("sender", "step"), [POINTS[0], POINTS[5], POINTS[6]])
def test_an_envelope_of_an_earlier_run_ends_the_run(sender: str, step: str) -> None:
    earlier: list[Envelope] = []

    def tamper(envelope: Envelope) -> list[Envelope]:
        if (envelope.sender, envelope.step) != (sender, step):
            return [envelope]
        if envelope.run_id == 1:
            earlier.append(envelope)
            return [envelope]
        return [
            dataclasses.replace(old, run_id=2) if old.recipient == envelope.recipient else envelope
            for old in earlier[:1]
        ]

    simulation = tiny(tamper=tamper)
    simulation.run(run_id=1)
    assert earlier
    for platform in simulation.platforms.values():
        platform.result = None
    reasons = assert_ended(simulation, simulation.run(run_id=2))
    assert any("does not authenticate" in reason for reason in reasons.values())


@pytest.fixture
def greeted() -> tuple[Simulation, dict[str, bytes]]:
    """A run after its hellos."""
    simulation = tiny(receive_timeout_seconds=5.0)
    return simulation, {party: reply["hello"] for party, reply in simulation.ask("hello").items()}


def align(simulation: Simulation, told: dict[str, list[bytes]]) -> dict[str, str]:
    """Ask for ``align`` with other hellos for each party; return why the run ended."""
    replies = simulation.ask_each("align", 1, {party: {"hellos": hellos} for party, hellos in told.items()})
    simulation.ask("close")
    return assert_ended(simulation, replies)


Greeted = tuple[Simulation, dict[str, bytes]]


def test_a_missing_hello_ends_the_run_at_every_party(greeted: Greeted) -> None:
    simulation, hellos = greeted
    reasons = align(simulation, {key: [hellos["bank"], hellos["tax"]] for key in hellos})
    assert set(reasons) == set(hellos)


def test_two_hellos_of_one_party_end_the_run_at_every_party(greeted: Greeted) -> None:
    simulation, hellos = greeted
    reasons = align(simulation, {key: [*hellos.values(), hellos["tax"]] for key in hellos})
    assert set(reasons) == set(hellos)


def test_a_hello_signed_by_another_key_ends_the_run(greeted: Greeted) -> None:
    simulation, hellos = greeted
    stranger = IdentityKey.from_raw(bytes(range(32)))
    forged = PendingSession.start(
        stranger, simulation.contract.digest(), 1, "tax", simulation.platforms["tax"].randomness
    )
    told = {party: [*(hellos | {"tax": forged.hello}).values()] for party in hellos}
    assert set(align(simulation, told)) == set(hellos)


def test_a_coordinator_cannot_put_a_hello_of_its_own_before_one_party_only(greeted: Greeted) -> None:
    simulation, hellos = greeted
    stranger = IdentityKey.from_raw(bytes(range(32)))
    forged = PendingSession.start(
        stranger, simulation.contract.digest(), 1, "tax", simulation.platforms["tax"].randomness
    )
    told = {key: [*hellos.values()] for key in hellos} | {
        "bank": [*(hellos | {"tax": forged.hello}).values()]
    }
    assert "bank" in align_quickly(simulation, told)


def align_quickly(simulation: Simulation, told: dict[str, list[bytes]]) -> dict[str, str]:
    """Do as ``align``; nobody waits long for a party that has left before it could tell the others."""
    for platform in simulation.platforms.values():
        platform.receive_timeout_seconds = 0.3
    return align(simulation, told)


def test_a_hello_of_an_earlier_run_ends_the_run() -> None:
    simulation = tiny()
    old = {party: reply["hello"] for party, reply in simulation.ask("hello", run_id=7).items()}
    simulation.ask("close", run_id=7)
    new = {party: reply["hello"] for party, reply in simulation.ask("hello").items()}
    told = {
        "bank": [new["bank"], old["tax"], new["registry"]],
        "tax": list(new.values()),
        "registry": list(new.values()),
    }
    assert "another run" in align_quickly(simulation, told)["bank"]


def test_a_hello_of_an_earlier_run_with_the_same_number_opens_nothing() -> None:
    # A node that was restarted knows no earlier run; the coordinator numbers the new one as the old one.
    before, after = (tiny(seed=3) for _ in range(2))
    for party, platform in after.platforms.items():
        platform.identity = before.platforms[party].identity
    after.contract = before.contract
    after.sign(before.contract)
    old = {party: reply["hello"] for party, reply in before.ask("hello").items()}
    for platform in after.platforms.values():
        platform.randomness(64)
    new = {party: reply["hello"] for party, reply in after.ask("hello").items()}
    assert new["tax"] != old["tax"]
    told = {
        "bank": [new["bank"], old["tax"], new["registry"]],
        "tax": list(new.values()),
        "registry": list(new.values()),
    }
    reasons = align(after, told)
    assert any("does not authenticate" in reason for reason in reasons.values())


def test_a_party_refuses_a_hello_that_is_not_its_own_of_this_run(greeted: Greeted) -> None:
    simulation, hellos = greeted
    tax = simulation.platforms["tax"]
    # Signed by the right key, for this run and contract: only the party itself can know that it did not send it.
    other = PendingSession.start(tax.identity, simulation.contract.digest(), 1, "tax", tax.randomness).hello
    told = [*(hellos | {"tax": other}).values()]
    assert "is not the one that it sent" in align_quickly(simulation, dict.fromkeys(hellos, told))["tax"]


@pytest.mark.parametrize("hellos", [[], [b""], [b"{}"], ["not bytes"], [b"\xff" * 100] * 3])
def test_hellos_that_are_none_end_the_run_at_every_party(hellos: list[Any], greeted: Greeted) -> None:
    simulation, said = greeted
    replies = simulation.ask("align", hellos=hellos)
    assert set(replies) == set(said)
    assert {reply["status"] for reply in replies.values()} == {"failed"}
    assert all(not service._runs for service in simulation.services.values())


@pytest.mark.parametrize("done", PHASES[1:4])
def test_a_phase_asked_for_twice_ends_the_run(done: str) -> None:
    simulation = tiny()
    simulation.run(until=done)
    reasons = assert_ended(simulation, simulation.ask(done, hellos=[]))
    assert set(reasons) == {"bank", "registry", "tax"}
    assert all("expected phase" in reason for reason in reasons.values())


def test_a_run_number_is_used_once_even_after_its_end() -> None:
    simulation = tiny()
    simulation.ask("hello")
    simulation.ask("close")
    reasons = assert_ended(simulation, simulation.ask("hello"))
    assert all("used once" in reason for reason in reasons.values())


def test_a_completed_run_cannot_be_asked_for_again_after_the_nodes_were_restarted() -> None:
    simulation = tiny()
    assert {reply["status"] for reply in simulation.run().values()} == {"ok"}
    kept = {party: platform.results[1] for party, platform in simulation.platforms.items()}
    simulation.services = {
        party: NodeService(platform)  # type: ignore[arg-type]
        for party, platform in simulation.platforms.items()
    }
    crossed = len(simulation.exchange.crossed)
    replies = simulation.run()
    assert all("used once" in reply["reason"] for reply in replies.values())
    assert len(simulation.exchange.crossed) == crossed
    assert {party: platform.results[1] for party, platform in simulation.platforms.items()} == kept


@pytest.mark.parametrize("skipped", PHASES[:5])
def test_a_skipped_phase_ends_the_run(skipped: str) -> None:
    simulation = tiny()
    index = PHASES.index(skipped)
    if index:
        simulation.run(until=PHASES[index - 1])
    following = PHASES[index + 1]
    replies = simulation.ask(following)
    if following == "close":
        assert simulation.results() == []
    else:
        assert set(assert_ended(simulation, replies)) == {"bank", "registry", "tax"}


def test_another_contract_between_phases_is_refused() -> None:
    simulation = tiny()
    simulation.run(until="align")
    replies = simulation.ask("prepare", contract_digest="ab" * 32)
    assert_ended(simulation, replies)
    assert {reply["status"] for reply in replies.values()} == {"refused"}
    assert {reply["code"] for reply in replies.values()} == {"contract_digest_differs"}


def test_a_phase_asked_for_while_it_is_in_progress_ends_the_run() -> None:
    simulation = tiny()
    simulation.run(until="align")
    content = {"contract_digest": simulation.contract.digest()}
    bank = simulation.services["bank"]
    with ThreadPoolExecutor(1) as pool:
        # The bank waits for answers of holders that nobody has asked.
        first = pool.submit(bank.handle_phase, 1, "prepare", content)
        while not bank._runs[1].busy.locked():
            pass
        second = bank.handle_phase(1, "prepare", content)
        assert "in progress" in second["reason"]
        assert first.result()["status"] == "failed"
    assert not bank._runs


def test_what_the_coordinator_may_know_of_a_defect_is_that_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulation = Simulation(small_economy(200, 260), minimum_cohort=5, model={"max_iterations": 1})

    def defect(*_: object) -> None:
        raise ValueError("91440300MA5EXAMPLE")

    monkeypatch.setattr(simulation.platforms["tax"], "load_table", defect)
    reply = simulation.ask("hello")["tax"]
    assert reply["status"] == "failed"
    assert "91440300MA5EXAMPLE" not in str(reply)
