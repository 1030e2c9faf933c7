"""Sums over banks: everyone gets the total, nobody anything else, and what cannot be added up ends the run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from roles_sessions import Post, sessions, together

from fedshare.errors import (
    FedshareError,
    ParameterError,
    PartyLostError,
    ProtocolError,
    RunFailedError,
    UnavailableError,
)
from fedshare.wire.v1 import payload_pb2 as payload
from fedshare_clients.node.bank_sums import BankSums
from fedshare_clients.node.channel import Channel
from fedshare_clients.node.words import pack_words

if TYPE_CHECKING:
    from collections.abc import Callable

BANKS = ("bank-a", "bank-b", "bank-c")
VALUES = {"bank-a": [0.5, 1e6, -3.0], "bank-b": [0.25, 2.0, 0.0], "bank-c": [-1.0, 0.125, 8.0]}


class Banks:
    """Banks of one session, each with its sums and channel."""

    def __init__(
        self, banks: tuple[str, ...] = BANKS, timeout_seconds: float = 20.0, *, repeats: bool = False
    ) -> None:
        self.post = Post()
        made = sessions(*banks, "tax")
        self.channels = {
            bank: Channel(made[bank], self.post.at(bank), "prepare", timeout_seconds) for bank in banks
        }
        lost_bank = "repeat" if repeats else "end"
        self.sums = {bank: BankSums(bank, banks, os.urandom, lost_bank=lost_bank) for bank in banks}

    def ask(self, call: Callable[[BankSums, Channel, str], Any]) -> dict[str, Any]:
        return together(
            {
                bank: lambda bank=bank: call(self.sums[bank], self.channels[bank], bank)  # type: ignore[misc]
                for bank in self.sums
            }
        )

    def total(self, values: dict[str, list[float]], bits: int = 20) -> dict[str, Any]:
        return self.ask(
            lambda sums, channel, bank: sums.total(channel, "a step", np.array(values[bank]), bits)
        )


def test_every_bank_gets_the_same_total() -> None:
    for total in Banks().total(VALUES).values():
        assert np.array_equal(total, [-0.25, 1000002.125, 5.0])


def test_the_total_at_the_leader_is_for_the_leader_only() -> None:
    found = Banks().ask(
        lambda sums, channel, bank: sums.total_at_leader(channel, "a step", np.array(VALUES[bank]), 20)
    )
    assert np.array_equal(found.pop("bank-a"), [-0.25, 1000002.125, 5.0])
    assert list(found.values()) == [None, None]


def test_several_sums_follow_one_another_under_fresh_masks() -> None:
    banks = Banks()

    def twice(sums: BankSums, channel: Channel, _bank: str) -> list[Any]:
        return [sums.total(channel, "a step", np.zeros(2), 0) for _ in range(2)]

    assert all(np.array_equal(total, np.zeros(2)) for pair in banks.ask(twice).values() for total in pair)
    ciphertexts = [envelope.ciphertext for envelope in banks.post.crossed]
    assert len(set(ciphertexts)) == len(ciphertexts) == 8


def test_a_single_bank_has_its_own_values_and_sends_nothing() -> None:
    banks = Banks(("bank-a",))
    assert np.array_equal(banks.total({"bank-a": [0.1, 2.0]}, bits=0)["bank-a"], [0.1, 2.0])
    assert not banks.post.crossed


def test_the_leader_sees_masked_vectors_only() -> None:
    count = 20_000
    banks = Banks()
    session = banks.channels["bank-a"].session
    sums, channel = banks.sums["bank-b"], banks.channels["bank-b"]
    sums.total_at_leader(channel, "a step", np.zeros(count), 20)
    message = Channel(session, banks.post.at("bank-a"), "prepare", 1.0).receive(
        "bank-b", payload.MaskedVector
    )
    words = np.frombuffer(message.words, dtype="<i8").astype(np.float64)
    assert abs(np.abs(words).mean() * 2.0**-63 - 0.5) < 6 * np.sqrt(1 / 12 / count)  # false alarm 2e-9


@pytest.mark.parametrize("value", [np.nan, np.inf, 2.0**40 + 1])
def test_the_bank_and_the_step_of_an_impossible_value_are_named_and_nothing_is_sent(value: float) -> None:
    banks = Banks(timeout_seconds=0.2)
    found = banks.total({**VALUES, "bank-b": [0.0, value, 0.0]}, bits=22)
    assert isinstance(found["bank-b"], ParameterError)
    assert "bank-b, a step" in str(found["bank-b"])
    assert isinstance(found["bank-a"], UnavailableError)
    assert not any(envelope.sender == "bank-b" for envelope in banks.post.crossed)


def test_a_vector_of_the_wrong_shape_is_refused_with_its_bank_and_step() -> None:
    found = Banks(timeout_seconds=0.2).total({**VALUES, "bank-c": [1.0, 2.0]})
    assert isinstance(found["bank-a"], ProtocolError)
    assert "a step: the vector of bank-c: expected 3 words" in str(found["bank-a"])


def test_a_total_of_the_wrong_shape_is_refused() -> None:
    banks = Banks(timeout_seconds=0.2)
    banks.channels["bank-a"].send("bank-b", payload.BankTotal(words=pack_words(np.zeros(4, dtype=np.int64))))
    with pytest.raises(ProtocolError, match="the total of bank-a: expected 3 words"):
        banks.sums["bank-b"].total(banks.channels["bank-b"], "a step", np.zeros(3), 20)


def test_masks_that_do_not_cancel_are_noticed() -> None:
    banks = Banks(timeout_seconds=0.2)
    banks.sums["bank-c"] = BankSums("bank-c", ("bank-a", "bank-c"), os.urandom)
    found = banks.total({bank: [0.0] * 64 for bank in BANKS})
    assert isinstance(found["bank-a"], ProtocolError)
    assert "do not cancel" in str(found["bank-a"])


def test_banks_that_are_at_different_sums_do_not_add_up() -> None:
    banks = Banks(timeout_seconds=0.2)
    banks.sums["bank-b"]._count = 1
    assert isinstance(banks.total(VALUES)["bank-a"], FedshareError)


FOUR = (*BANKS, "bank-d")


def without(lost: str, told: tuple[str, ...] = FOUR, *, repeats: bool = True) -> dict[str, Any]:
    """Let all banks but ``lost`` ask for a total, where those in ``told`` know that it is lost."""
    banks = Banks(FOUR, timeout_seconds=2.0, repeats=repeats)
    banks.post.lost = {(bank, lost) for bank in told}
    del banks.sums[lost]
    return banks.total({**VALUES, "bank-d": [1.0, 1.0, 1.0]})


@pytest.mark.parametrize("lost", FOUR[1:])
def test_a_sum_without_a_lost_bank_is_that_of_the_rest(lost: str) -> None:
    values = {**VALUES, "bank-d": [1.0, 1.0, 1.0]}
    expected = np.sum([values[bank] for bank in FOUR if bank != lost], axis=0)
    for total in without(lost).values():
        assert np.array_equal(total, expected)


def test_a_vector_that_came_before_its_bank_was_lost_counts() -> None:
    banks = Banks(FOUR, repeats=True)
    banks.post.lost = {(bank, "bank-d") for bank in FOUR}
    for total in banks.total({**VALUES, "bank-d": [1.0, 1.0, 1.0]}).values():
        assert np.array_equal(total, [0.75, 1000003.125, 6.0])


def test_sums_after_the_loss_are_of_the_rest_from_the_start() -> None:
    banks = Banks(FOUR, repeats=True)
    banks.post.lost = {(bank, "bank-d") for bank in FOUR}
    del banks.sums["bank-d"]

    def twice(sums: BankSums, channel: Channel, bank: str) -> Any:
        return [sums.total(channel, "a step", np.array(VALUES[bank]), 20) for _ in range(2)]

    for first, second in banks.ask(twice).values():
        assert np.array_equal(first, second)
    # Three vectors and three words that it has to be repeated; then two vectors and two totals, twice.
    assert len(banks.post.crossed) == 2 + 2 + 2 * (2 + 2)


def test_a_contract_that_does_not_repeat_sums_ends_with_the_lost_bank_named() -> None:
    found = without("bank-b", repeats=False)
    assert isinstance(found["bank-a"], PartyLostError)
    assert found["bank-a"].party == "bank-b"


def test_a_leader_that_leaves_out_a_bank_which_is_not_lost_is_refused() -> None:
    found = without("bank-d", told=("bank-a", "bank-b"))
    assert isinstance(found["bank-c"], ProtocolError)
    assert "leaves out banks that are not lost" in str(found["bank-c"])


def test_a_sum_is_not_repeated_among_two_banks() -> None:
    banks = Banks(BANKS, timeout_seconds=2.0, repeats=True)
    banks.post.lost = {(bank, "bank-c") for bank in BANKS}
    del banks.sums["bank-c"]
    found = banks.total(VALUES)
    assert isinstance(found["bank-a"], RunFailedError)
    assert "at least 3 banks" in str(found["bank-a"])
