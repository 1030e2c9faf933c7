"""What a party receives about rows that are none of its business is uniform noise.

Randomness is seeded, so each test passes or fails for good; the false-alarm probabilities below say how likely a
correct implementation was to fail when the seed was chosen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from simulation import Simulation, small_economy, split_holders

from fedshare.sealed import open_sum
from fedshare_clients.node.channel import Channel
from fedshare_clients.node.feature_holder import column_label

if TYPE_CHECKING:
    from numpy.typing import NDArray

BINS = 64
# A chi-square of 63 degrees of freedom exceeds this with probability 1e-9.
LIMIT = 156.0


def chi_square(words: NDArray[np.int64], shift: int) -> float:
    """Return the chi-square statistic of six bits of each word against the uniform distribution."""
    codes = (words.view(np.uint64) >> np.uint64(shift)) & np.uint64(BINS - 1)
    counts = np.bincount(codes.astype(np.int64), minlength=BINS)
    expected = len(words) / BINS
    return float(((counts - expected) ** 2 / expected).sum())


def assert_uniform(words: NDArray[np.int64]) -> None:
    """Check the top, middle and low bits of at least 640 words; false alarm below 1e-8 for all shifts together."""
    assert len(words) >= 10 * BINS
    for shift in (0, 6, 20, 30, 40, 52, 58):
        assert chi_square(words, shift) < LIMIT


class Heard:
    """A run with three holders, and what each party received in it."""

    def __init__(self) -> None:
        self.messages: dict[tuple[str, str, str, int], Any] = {}
        receive = Channel.receive

        def noted(channel: Channel, sender: str, message_type: Any, index: int = 0) -> Any:
            message = receive(channel, sender, message_type, index)
            self.messages[channel.session.party, sender, message_type.DESCRIPTOR.name, index] = message
            return message

        model = {"max_iterations": 3, "tolerance": 1e-15}
        self.simulation = Simulation(
            split_holders(small_economy(1000, 3000)), model=model, receive_timeout_seconds=60.0
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Channel, "receive", noted)
            self.simulation.run(until="train")
        self.roles: dict[str, Any] = {
            party: service._runs[1].role for party, service in self.simulation.services.items()
        }
        session = self.simulation.services["bank"]._runs[1].session
        assert session is not None
        self.session_id = session.id

    def words(self, recipient: str, sender: str, message: str, index: int, field: str) -> NDArray[np.int64]:
        return np.frombuffer(
            getattr(self.messages[recipient, sender, message, index], field), dtype="<i8"
        ).astype(np.int64)


@pytest.fixture(scope="module")
def heard() -> Heard:
    return Heard()


def customers_at(heard: Heard, holder: str) -> NDArray[np.bool_]:
    bank = heard.roles["bank"]
    rows = np.zeros(bank._universe[holder], dtype=bool)
    rows[bank._positions[holder]] = True
    return rows


@pytest.mark.parametrize("holder", ["court", "registry", "tax"])
@pytest.mark.parametrize(
    ("message", "index"), [("CountQuery", 0), ("SealedProduct", 0), ("SealedProduct", 2)]
)
def test_what_a_holder_receives_is_uniform_for_customers_and_for_others(
    heard: Heard, holder: str, message: str, index: int
) -> None:
    ciphertext = heard.words(holder, "bank", message, index, "ciphertext")
    customers = customers_at(heard, holder)
    assert_uniform(ciphertext[~customers])
    assert_uniform(ciphertext[customers])


def test_a_holder_cannot_tell_customers_from_others_by_the_size_of_words(heard: Heard) -> None:
    for holder in ("court", "registry", "tax"):
        customers = customers_at(heard, holder)
        for index in range(3):
            size = (
                heard.words(holder, "bank", "SealedProduct", index, "ciphertext").astype(np.float64)
                * 2.0**-63
            )
            # Means of uniform numbers on (-1, 1): their difference is normal; 6.5 deviations have probability 1e-10.
            deviation = np.sqrt((1 / customers.sum() + 1 / (~customers).sum()) / 3)
            assert abs(size[customers].mean() - size[~customers].mean()) < 6.5 * deviation
            assert abs(np.abs(size)[customers].mean() - np.abs(size)[~customers].mean()) < 6.5 * deviation


def test_the_same_vector_never_looks_the_same_twice(heard: Heard) -> None:
    first = heard.words("tax", "bank", "SealedProduct", 1, "ciphertext")
    second = heard.words("tax", "bank", "SealedProduct", 2, "ciphertext")
    court = heard.words("court", "bank", "SealedProduct", 1, "ciphertext")
    assert_uniform(first - second)
    assert_uniform(first[: len(court)] - court[: len(first)])


def opened(
    heard: Heard, rows: dict[str, NDArray[np.int64]], keys: dict[str, Any], iteration: int
) -> NDArray[np.int64]:
    holders = list(rows)
    columns = [
        heard.words("bank", holder, "SealedColumn", iteration, "values")[rows[holder]] for holder in holders
    ]
    return open_sum(columns, [keys[holder] for holder in holders], column_label(heard.session_id, iteration))


def test_a_row_whose_key_the_bank_does_not_hold_opens_to_uniform_noise(heard: Heard) -> None:
    """The bank uses the keys that it has, its customers', on rows of enterprises that are not its customers."""
    bank = heard.roles["bank"]
    count = len(bank._aligned)
    rows = {holder: np.flatnonzero(~customers_at(heard, holder))[:count] for holder in bank._holders}
    for iteration in range(3):
        assert_uniform(opened(heard, rows, bank._pad_keys, iteration))
        for holder in bank._holders:
            assert_uniform(heard.words("bank", holder, "SealedColumn", iteration, "values")[rows[holder]])


def test_one_holders_score_of_an_own_customer_is_uniform_noise_too(heard: Heard) -> None:
    """With all keys of its customers, the bank opens the sum over holders and no smaller sum."""
    bank = heard.roles["bank"]
    holders = list(bank._holders)
    for left_out in holders:
        rest = {holder: bank._positions[holder] for holder in holders if holder != left_out}
        assert_uniform(opened(heard, rest, bank._pad_keys, 0))
    everything = opened(heard, dict(bank._positions), bank._pad_keys, 0)
    assert np.abs(everything * 2.0**-40).max() < 100
    with pytest.raises(AssertionError):
        assert_uniform(everything)


def test_a_customer_unknown_to_one_holder_stays_closed(heard: Heard) -> None:
    """The registry does not know ten enterprises; what the other two say of those of them that are customers stays masked."""
    simulation, bank = heard.simulation, heard.roles["bank"]
    known = set(simulation.platforms["registry"].table.identifiers)
    tables = {holder: heard.roles[holder] for holder in ("court", "tax")}
    unknown = [name for name in simulation.platforms["bank"].table.identifiers if name not in known]
    assert len(unknown) == 10
    values = []
    for iteration in range(3):
        rows = {
            holder: np.array([role._identifiers.index(name) for name in unknown])
            for holder, role in tables.items()
        }
        keys = {holder: role._sealer._pad_keys[rows[holder]] for holder, role in tables.items()}
        values.append(opened(heard, rows, keys, iteration))
    # Scores stay below 100 * 2^40; a uniform word does so with probability 1.2e-5, all but a few of thirty never.
    assert np.count_nonzero(np.abs(np.concatenate(values).astype(np.float64)) < 100 * 2.0**40) <= 1
    assert len(bank._aligned) == 990


def test_rows_stand_in_a_random_order_of_their_own(heard: Heard) -> None:
    """A bank sees the place of each of its customers; it says nothing about where or when the holder stored it."""
    for holder in ("court", "registry", "tax"):
        stored = {name: row for row, name in enumerate(heard.simulation.platforms[holder].table.identifiers)}
        places = np.array([stored[name] for name in heard.roles[holder]._identifiers])
        # The rank correlation of two random orders is normal with deviation 1 / sqrt(n): false alarm 2e-9.
        assert abs(np.corrcoef(places, np.arange(len(places)))[0, 1]) < 6 / np.sqrt(len(places))


def test_no_two_columns_of_any_sessions_share_a_label() -> None:
    labels = {
        column_label(bytes([session]) * 32, iteration) for session in range(4) for iteration in range(300)
    }
    assert len(labels) == 4 * 300


def test_penalties_of_one_holder_are_masked(heard: Heard) -> None:
    sums = np.zeros(3, dtype=np.int64)
    for holder in ("court", "registry", "tax"):
        words = heard.words("bank", holder, "SealedColumn", 2, "penalty")
        # Inner products stay below 2^20 * 2^24; a uniform word does so with probability 2^-19.
        assert (np.abs(words.astype(np.float64)) > 2.0**44).all()
        sums += words
    assert (np.abs(sums.astype(np.float64)) < 2.0**44).all()
