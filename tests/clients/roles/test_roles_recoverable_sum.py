"""Sums that survive the loss of a bank: what is recovered, and what nobody can make a bank hand over."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from roles_sessions import Post, PostTransport, sessions, together

from fedshare.errors import PartyLostError, ProtocolError, RunFailedError
from fedshare.sealed.recovery import SHARE_BYTES, join, threshold
from fedshare.wire.v1 import payload_pb2 as payload
from fedshare_clients.node.bank_sums import BankSums
from fedshare_clients.node.channel import Channel
from fedshare_clients.node.recoverable_sum import RecoverableSum

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedshare.identity.envelope import Envelope

NAMES = ("bank-a", "bank-b", "bank-c", "bank-d", "bank-e", "bank-f")
BITS = 20


def values(bank: str, count: int = 7) -> np.ndarray:
    return np.arange(count) * (1.0 + NAMES.index(bank)) - 2.5


def plain_sum(banks: Any, count: int = 7) -> np.ndarray:
    return np.sum([values(bank, count) for bank in banks], axis=0)


class Vanishing(PostTransport):
    """The transport of a bank that is gone, and that everybody knows to be lost, when it would send ``at``."""

    def __init__(self, post: Post, party: str, at: str, others: tuple[str, ...]) -> None:
        super().__init__(post, party)
        self._at = at
        self._others = others

    def send(self, envelope: Envelope) -> None:
        if f"{envelope.step} to {envelope.recipient}".startswith(self._at):
            self._post.lost |= {(other, self._party) for other in self._others}
            raise RunFailedError(f"{self._party} is gone")
        super().send(envelope)


class Banks:
    """Banks of one session, some of which vanish at a step: ``vanish={"bank-d": "MaskedVector/0"}``."""

    def __init__(
        self,
        count: int = 4,
        vanish: dict[str, str] | None = None,
        fewest: int = 3,
        timeout_seconds: float = 20.0,
    ) -> None:
        self.names = NAMES[:count]
        self.post = Post()
        made = sessions(*self.names)
        vanish = vanish or {}
        self.channels = {
            bank: Channel(
                made[bank],
                Vanishing(self.post, bank, vanish[bank], self.names)
                if bank in vanish
                else self.post.at(bank),
                "train",
                timeout_seconds,
            )
            for bank in self.names
        }
        self.sums = {
            bank: BankSums(bank, self.names, os.urandom, lost_bank="recover", fewest=fewest)
            for bank in self.names
        }

    def totals(self, rounds: int = 1) -> dict[str, Any]:
        """Let every bank ask for ``rounds`` totals; return what each got, or the error that ended it."""

        def asks(bank: str) -> Callable[[], Any]:
            sums, channel = self.sums[bank], self.channels[bank]
            return lambda: [
                sums.total(channel, f"round {number}", values(bank), BITS) for number in range(rounds)
            ]

        return together({bank: asks(bank) for bank in self.names})

    def attempt(self, bank: str, index: int = 0, step: str = "round 0") -> RecoverableSum:
        return RecoverableSum(self.channels[bank], self.names, step, index, os.urandom)

    def steps(self) -> set[str]:
        return {envelope.step for envelope in self.post.crossed}


@pytest.mark.parametrize("count", [4, 5, 6])
def test_without_a_loss_every_bank_gets_the_plain_sum(count: int) -> None:
    banks = Banks(count)
    for first, second in banks.totals(2).values():
        assert np.array_equal(first, plain_sum(banks.names))
        assert np.array_equal(second, first)


@pytest.mark.parametrize("lost", NAMES[1:4])
@pytest.mark.parametrize(
    ("at", "counts"),
    [
        ("SumKeys/0", False),  # before anything of it came
        ("SumKeys/0 to bank-c", False),  # some have its keys
        ("MaskedVector/0", False),  # all have its keys, nobody its vector
        ("SumShares/0", True),  # its vector came, its shares did not
        ("SumKeys/1", True),  # it is gone in the next sum
    ],
)
def test_the_sum_of_those_whose_vectors_came_is_that_of_the_plain_ones(
    lost: str, at: str, counts: bool
) -> None:
    if at.endswith(lost):
        at = "SumKeys/0 to bank-d"
    banks = Banks(4, {lost: at})
    found = banks.totals(3)
    assert isinstance(found.pop(lost), RunFailedError)
    rest = [bank for bank in banks.names if bank != lost]
    for first, *later in found.values():
        assert np.array_equal(first, plain_sum(banks.names if counts else rest))
        assert all(np.array_equal(total, plain_sum(rest)) for total in later)


def test_two_lost_banks_of_six_are_recovered_at_once_and_the_rest_can_still_lose_one() -> None:
    banks = Banks(6, {"bank-c": "MaskedVector/0", "bank-f": "MaskedVector/0", "bank-e": "MaskedVector/1"})
    found = banks.totals(2)
    for bank in ("bank-a", "bank-b", "bank-d"):
        first, second = found[bank]
        assert np.array_equal(first, plain_sum(["bank-a", "bank-b", "bank-d", "bank-e"]))
        assert np.array_equal(second, plain_sum(["bank-a", "bank-b", "bank-d"]))


def test_a_recovered_sum_needs_no_second_vector_and_one_whose_keys_are_missing_does() -> None:
    recovered, anew = Banks(5, {"bank-d": "MaskedVector/0"}), Banks(5, {"bank-d": "SumKeys/0 to bank-c"})
    recovered.totals()
    anew.totals()
    assert "MaskedVector/1" not in recovered.steps()
    assert "SumShares/0" not in anew.steps()
    assert "SumShares/1" in anew.steps()


@pytest.mark.parametrize("at", ["MaskedVector/0", "SumShares/0", "SumKeys/0"])
def test_too_few_that_are_left_end_the_run(at: str) -> None:
    found = Banks(4, {"bank-c": at, "bank-d": at}, timeout_seconds=0.8).totals()
    assert isinstance(found["bank-a"], RunFailedError)
    assert "at least 3" in str(found["bank-a"])


def test_three_banks_that_are_left_go_on_until_the_next_loss() -> None:
    banks = Banks(4, {"bank-d": "MaskedVector/0", "bank-c": "MaskedVector/2"}, timeout_seconds=0.8)
    found = banks.totals(3)
    assert "SumKeys/1" not in banks.steps()
    assert isinstance(found["bank-a"], RunFailedError)
    assert "bank-c lost" in str(found["bank-a"])


def test_a_second_loss_ends_the_run_where_noise_is_made_for_one() -> None:
    found = Banks(6, {"bank-c": "MaskedVector/0", "bank-f": "MaskedVector/1"}, 5, 1.0).totals(2)
    assert "at least 5 banks must be left" in str(found["bank-a"])


@pytest.mark.parametrize("lost_bank", ["repeat", "recover"])
def test_a_sum_over_all_banks_is_opened_over_all_of_them_or_not_at_all(lost_bank: Any) -> None:
    banks = Banks(5, {"bank-d": "MaskedVector/1"})
    sums = {bank: BankSums(bank, banks.names, os.urandom, lost_bank=lost_bank) for bank in banks.names}

    def asks(bank: str) -> Callable[[], Any]:
        return lambda: [
            sums[bank].total_over(banks.names, banks.channels[bank], f"round {number}", values(bank), BITS)
            for number in range(3)
        ]

    found = together({bank: asks(bank) for bank in banks.names})
    for bank in banks.names:
        if bank != "bank-d":
            first, *later = found[bank]
            assert np.array_equal(first, plain_sum(banks.names))
            assert later == [None, None]
    assert "MaskedVector/2" not in banks.steps()


def test_a_sum_for_the_leader_alone_survives_no_loss() -> None:
    banks = Banks(4, {"bank-d": "MaskedVector/0"})
    found = together(
        {
            bank: lambda bank=bank: banks.sums[bank].total_at_leader(  # type: ignore[misc]
                banks.channels[bank], "a step", values(bank), BITS
            )
            for bank in banks.names
        }
    )
    assert isinstance(found["bank-a"], PartyLostError)


def started(banks: Banks) -> RecoverableSum:
    """Let all exchange keys and return the leader's attempt; the others wait for what it says."""
    attempt = banks.attempt("bank-a")
    assert attempt._exchange_keys() == []
    return attempt


def followers(
    banks: Banks, told: Callable[[str], payload.SumOutcome]
) -> tuple[dict[str, Any], RecoverableSum]:
    """Let an own leader tell each bank something; return what the others do, and the leader's attempt."""
    kept: list[RecoverableSum] = []

    def lead() -> None:
        attempt = started(banks)
        kept.append(attempt)
        for bank in banks.names[1:]:
            banks.channels["bank-a"].receive(bank, payload.MaskedVector, 0)
            banks.channels["bank-a"].send(bank, told(bank), 0)

    def follow(bank: str) -> Callable[[], Any]:
        words = np.zeros(3, dtype=np.int64)
        return lambda: banks.attempt(bank).total(words, threshold(len(banks.names)))

    found = together({"bank-a": lead, **{bank: follow(bank) for bank in banks.names[1:]}})
    return found, kept[0]


def handed_over(banks: Banks) -> dict[str, bytes]:
    """Return the shares that came to the leader, by giver."""
    found = {}
    for bank in banks.names[1:]:
        if not banks.post.box(bank, "bank-a").empty():
            found[bank] = banks.channels["bank-a"].receive(bank, payload.SumShares, 0).shares
    return found


def opens(shares: dict[int, bytes]) -> bool:
    try:
        join(shares, threshold(5))
    except ProtocolError:
        return False
    return True


@pytest.mark.parametrize(
    "call_it_lost", [(), ("bank-b",), ("bank-b", "bank-c"), ("bank-b", "bank-c", "bank-e")]
)
def test_a_leader_that_calls_a_bank_lost_here_and_active_there_does_not_get_enough_of_both(
    call_it_lost: tuple[str, ...],
) -> None:
    """Even if the coordinator helps: it tells whom the leader wants that bank-d is lost."""
    banks = Banks(5, timeout_seconds=0.8)
    banks.post.lost = {(bank, "bank-d") for bank in call_it_lost}
    _, leader = followers(
        banks, lambda bank: payload.SumOutcome(lost=["bank-d"] if bank in call_it_lost else [])
    )
    at = banks.names.index("bank-d") * SHARE_BYTES
    givers = handed_over(banks)
    assert set(givers) == set(banks.names[1:])
    own = leader._held["bank-d"]
    gathered: list[dict[int, bytes]] = [{1: own[0]}, {1: own[1]}]  # of its key, of its self mask
    for bank, shares in givers.items():
        kind = 0 if bank in call_it_lost else 1
        gathered[kind][1 + banks.names.index(bank)] = shares[at : at + SHARE_BYTES]
    opened = [opens(shares) for shares in gathered]
    assert opened == [len(call_it_lost) >= 3, len(call_it_lost) <= 1]


def test_a_bank_that_the_exchange_has_not_called_lost_is_not_left_out() -> None:
    banks = Banks(4, timeout_seconds=0.8)
    banks.post.lost = {("bank-b", "bank-d")}
    found, _ = followers(banks, lambda _bank: payload.SumOutcome(lost=["bank-d"]))
    assert "leaves out banks that are not lost" in str(found["bank-c"])
    assert list(handed_over(banks)) == ["bank-b"]


@pytest.mark.parametrize(
    ("lost", "cause"),
    [
        (["bank-a"], "not lost"),  # the leader itself
        (["bank-b"], "not lost"),  # the bank that is told
        (["tax"], "not lost"),
        (["bank-d", "bank-d"], "every party once"),
        (["bank-c", "bank-d"], "at least 3 banks"),
    ],
)
def test_what_a_leader_cannot_say_to_a_bank(lost: list[str], cause: str) -> None:
    banks = Banks(4, timeout_seconds=0.8)
    banks.post.lost = {("bank-b", bank) for bank in (*NAMES, "tax")} - {("bank-b", "bank-a")}
    found, _ = followers(banks, lambda bank: payload.SumOutcome(lost=lost if bank == "bank-b" else []))
    assert isinstance(found["bank-b"], ProtocolError | RunFailedError)
    assert cause in str(found["bank-b"])
    assert "bank-b" not in handed_over(banks)


def test_a_sum_is_not_made_anew_without_a_loss() -> None:
    banks = Banks(4, timeout_seconds=0.8)
    found, _ = followers(banks, lambda _bank: payload.SumOutcome(again=True))
    assert all("as if other keys had come" in str(found[bank]) for bank in banks.names[1:])
    assert handed_over(banks) == {}


def test_a_bank_that_lacks_keys_hands_over_nothing_whatever_the_leader_says() -> None:
    banks = Banks(5, {"bank-d": "SumKeys/0 to bank-c"}, timeout_seconds=0.8)

    def lead() -> None:
        started(banks)
        for bank in banks.names[1:]:
            if bank != "bank-d":
                banks.channels["bank-a"].receive(bank, payload.MaskedVector, 0)
                banks.channels["bank-a"].send(bank, payload.SumOutcome(lost=["bank-d"]), 0)

    words = np.zeros(3, dtype=np.int64)
    parts = {bank: lambda bank=bank: banks.attempt(bank).total(words, 4) for bank in banks.names[1:]}  # type: ignore[misc]
    found = together({"bank-a": lead, **parts})
    assert "as if other keys had come" in str(found["bank-c"])
    assert list(handed_over(banks)) == ["bank-b"]


def test_a_bank_cannot_have_another_one_left_out() -> None:
    banks = Banks(4, timeout_seconds=0.8)

    def slander() -> None:
        banks.attempt("bank-c")._exchange_keys()
        banks.channels["bank-c"].send("bank-a", payload.MaskedVector(lost=["bank-b"]), 0)

    words = np.zeros(3, dtype=np.int64)
    parts = {
        bank: lambda bank=bank: banks.attempt(bank).total(words, 3) for bank in ("bank-a", "bank-b", "bank-d")
    }  # type: ignore[misc]
    found = together({**parts, "bank-c": slander})
    assert "bank-c leaves out banks that are not lost" in str(found["bank-a"])


@pytest.mark.parametrize(("index", "step"), [(0, "another step"), (0, "round 1")])
def test_banks_at_different_sums_give_one_another_no_vector(index: int, step: str) -> None:
    banks = Banks(4, timeout_seconds=0.8)
    words = np.zeros(3, dtype=np.int64)
    parts = {
        bank: lambda bank=bank: banks.attempt(bank, index, step if bank == "bank-c" else "round 0").total(
            words, 3
        )  # type: ignore[misc]
        for bank in banks.names
    }
    found = together(parts)
    assert "bank-c is at another sum" in str(found["bank-b"])
    assert not any(step.startswith("MaskedVector") for step in banks.steps())


def test_shares_are_handed_over_once() -> None:
    banks = Banks(4)
    attempts = {bank: banks.attempt(bank) for bank in banks.names}
    together({bank: attempt._exchange_keys for bank, attempt in attempts.items()})
    given = attempts["bank-b"]._hand_over(["bank-d"])
    assert list(given) == list(banks.names)
    with pytest.raises(KeyError):
        attempts["bank-b"]._hand_over([])


def test_shares_of_an_earlier_sum_are_refused_in_a_later_one() -> None:
    banks = Banks(4, timeout_seconds=0.8)
    banks.totals()
    (old,) = [each for each in banks.post.crossed if (each.sender, each.step) == ("bank-b", "SumShares/0")]

    class Replaying(PostTransport):
        def send(self, envelope: Envelope) -> None:
            super().send(old if envelope.step == "SumShares/1" else envelope)

    banks.channels["bank-b"]._transport = Replaying(banks.post, "bank-b")
    found = banks.totals()
    assert isinstance(found["bank-a"], ProtocolError)
    assert "replayed" in str(found["bank-a"])


@pytest.mark.parametrize(
    "shares",
    [b"", bytes(SHARE_BYTES * 3), b"\xff" * SHARE_BYTES * 4, bytes(SHARE_BYTES * 4)],
    ids=["none", "too few", "no field elements", "of no secret"],
)
def test_shares_that_are_none_end_the_run(shares: bytes) -> None:
    banks = Banks(4, timeout_seconds=0.8)

    def lie() -> None:
        attempt = banks.attempt("bank-b")
        attempt._exchange_keys()
        words = attempt._hidden(np.zeros(3, dtype=np.int64))
        banks.channels["bank-b"].send("bank-a", payload.MaskedVector(words=words.tobytes()), 0)
        banks.channels["bank-b"].receive("bank-a", payload.SumOutcome, 0)
        banks.channels["bank-b"].send("bank-a", payload.SumShares(shares=shares), 0)

    words = np.zeros(3, dtype=np.int64)
    parts = {
        bank: lambda bank=bank: banks.attempt(bank).total(words, 3) for bank in ("bank-a", "bank-c", "bank-d")
    }  # type: ignore[misc]
    found = together({**parts, "bank-b": lie})
    assert isinstance(found["bank-a"], ProtocolError)


@pytest.mark.parametrize("field", ["purpose", "key", "key_share", "self_share"])
def test_keys_of_an_impossible_size_are_refused(field: str) -> None:
    banks = Banks(4, timeout_seconds=0.8)

    channel, sent = banks.channels["bank-c"], banks.channels["bank-c"].send

    def send(recipient: str, message: Any, index: int = 0) -> None:
        if isinstance(message, payload.SumKeys):
            setattr(message, field, b"short")
        sent(recipient, message, index)

    channel.send = send  # type: ignore[method-assign]
    found = banks.totals()
    assert isinstance(found["bank-b"], ProtocolError)
    assert "bank-c" in str(found["bank-b"])


def test_the_leader_sees_vectors_under_masks_that_one_share_does_not_take_off() -> None:
    count = 20_000
    banks = Banks(4, timeout_seconds=0.8)
    attempts = {bank: banks.attempt(bank) for bank in banks.names}
    together({bank: attempt._exchange_keys for bank, attempt in attempts.items()})
    words = attempts["bank-b"]._hidden(np.zeros(count, dtype=np.int64)).astype(np.float64)
    assert abs(np.abs(words).mean() * 2.0**-63 - 0.5) < 6 * np.sqrt(1 / 12 / count)  # false alarm 2e-9
