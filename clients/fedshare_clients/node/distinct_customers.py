"""Two banks count a customer of both once: at the first one. The other drops it from its sums and does not learn whom it drops.

Training sums are linear in the customers, so what has to come off the other bank's part of a sum is the sum of m v over its
customers, with v its number and m whether the first bank has the customer too. Of every m v each bank gets a share
(``fedshare.sealed.oblivious_transfer``), adds it to what it would send anyway, and the sum opens without the shared customers:

- towards a holder, v is the vector of a sealed product and m stands at the rows of the first bank's customers;
- towards the first bank, v are the numbers of the other bank's customers in an order that only that bank can read, and the
  first one finds m by a private set intersection, which tells it how many there are.

Whom either bank counts is fixed in the first run with the other, under whatever contract: ``fedshare.privacy.dropped``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

import numpy as np

from fedshare.errors import ProtocolError, RefusedError
from fedshare.privacy.differences import Marks
from fedshare.privacy.dropped import droppable, may_drop, verify_whole
from fedshare.sealed import OprfKey
from fedshare.sealed.intersection import find_common, raised, raised_again, raised_in_order
from fedshare.sealed.masked_sum import encode
from fedshare.sealed.oblivious_transfer import Receiver, ReceiverSetup, SenderSetup
from fedshare.sealed.randomness import Stream, fresh_seed
from fedshare.wire.v1 import payload_pb2 as payload

from .feature_holder import WORKERS
from .held_back import SumMemory
from .words import pack_words, unpack_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

    from fedshare.contract.model import Contract
    from fedshare.sealed.oblivious_transfer import Sender
    from fedshare.sealed.randomness import Randomness

    from .channel import Channel
    from .data.table import Table

    #: Of given rows of the bank's customers, one number each for every entry of a sum.
    Columns = Callable[[NDArray[np.int64]], Iterable[NDArray[np.float64]]]

__all__ = ["DistinctCustomers", "DropMemory", "agree"]

_BANKS = 2
# No party has this name.
_CUSTOMERS = ""
_NAME_BYTES = 16

T = TypeVar("T")
Side = Literal["keeps", "counts", "drops"]


class DropMemory(SumMemory, Protocol):
    """Where a bank remembers who was counted with which other bank, whatever the contract."""

    def fixed_customers(self, side: Side, peer: str) -> tuple[Marks, bytes] | None:
        """Return who was fixed with the bank whose identity key is ``peer``, and the name of the first bank's list.

        A bank ``keeps`` or ``drops`` customers if the other one has them too; ``counts`` are those that it keeps, or nobody
        where none are dropped for it.
        """

    def fix_customers(self, side: Side, peer: str, marks: Marks, name: bytes) -> None:
        """Store it durably. Raises ``StorageError`` if the disk refuses; nothing may be sent then."""


def agree(
    channel: Channel,
    contract: Contract,
    table: Table,
    labels: NDArray[np.float64],
    training: NDArray[np.bool_],
    positions: Mapping[str, NDArray[np.int64]],
    universe: Mapping[str, int],
    memory: DropMemory,
    randomness: Randomness,
) -> DistinctCustomers:
    """Prepare the shares of a run together with the other bank.

    Args:
        channel: of the phase.
        contract: drops shared customers.
        table: this bank's customers that take part in the run.
        labels: their outcomes as training uses them.
        training: which of them train.
        positions: of them among the rows of each holder.
        universe: rows of each holder.
        memory: of this bank.
        randomness: for fresh keys and orders.

    Raises:
        ProtocolError: the other bank sends something else than the protocol says.
        RefusedError: ``few_customers_changed``, or ``other_customers_counted``: the first bank has another list than in earlier
            runs.
        StorageError: who is counted cannot be stored.
    """
    first, second = (bank.id for bank in contract.banks())
    party = channel.session.party
    run = _Run(channel, contract, party, table, memory, randomness)
    if party == first:
        return run.keep(second, positions, universe)
    return run.drop(first, labels, training, universe)


class _Run:
    """One bank's side of the preparation."""

    def __init__(
        self,
        channel: Channel,
        contract: Contract,
        party: str,
        table: Table,
        memory: DropMemory,
        randomness: Randomness,
    ) -> None:
        self._channel = channel
        self._contract = contract
        self._party = party
        self._table = table
        self._memory = memory
        self._randomness = randomness

    def keep(
        self, peer: str, positions: Mapping[str, NDArray[np.int64]], universe: Mapping[str, int]
    ) -> DistinctCustomers:
        """Return the first bank's side: find the bits and let the other bank share products with them."""
        known = self._contract.party(peer).identity_key
        nothing = np.zeros(len(self._table))
        marks, _ = self._marks(np.arange(len(self._table)), nothing, nothing)
        fixed = self._memory.fixed_customers("keeps", known)
        if fixed is None:
            fixed = marks.take(np.ones(len(self._table), dtype=np.bool_)), self._randomness(_NAME_BYTES)
            # Before it is compared: if this run ends now, the next one must not count with another list.
            self._memory.fix_customers("keeps", known, *fixed)
        kept, name = fixed
        verify_whole([kept], marks, party=self._party)
        counted = np.isin(marks.customers, kept.customers)
        transfer, setup = ReceiverSetup.create(self._randomness)
        key = OprfKey.generate(self._randomness)
        own = raised(key, self._identifiers(np.flatnonzero(counted)), self._randomness, workers=WORKERS)
        self._channel.send(peer, payload.DropOffer(transfer=transfer, elements=own, list=name))
        answer = self._channel.receive(peer, payload.DropAnswer)
        if len(answer.again) != len(own):
            raise ProtocolError(f"{peer} answered {len(own)} bytes of elements with {len(answer.again)}")
        common = find_common(key, answer.elements, answer.again, workers=WORKERS)
        found = self._memory.fixed_customers("counts", known)
        if found is None:
            dropping = may_drop(
                int(common.sum()), len(common), len(kept.customers), self._contract.minimum_cohort
            )
            found = marks.take(counted & dropping), name
            # Before the bits leave: a run that ends now must not be followed by one with others.
            self._memory.fix_customers("counts", known, *found)
        if not len(found[0].customers):
            counted[:] = common[:] = False
        bits = [np.zeros(rows, dtype=np.bool_) for rows in universe.values()]
        for at, holder in zip(bits, universe, strict=True):
            at[positions[holder][counted]] = True
        bits.append(common)
        columns, receiver = setup.choose(answer.transfers, np.concatenate(bits))
        self._channel.send(peer, payload.DropChoice(columns=columns))
        parts = receiver.split([len(each) for each in bits])
        return DistinctCustomers(
            peer, dict(zip((*universe, _CUSTOMERS), parts, strict=True)), np.empty(0, dtype=np.int64)
        )

    def drop(
        self, peer: str, labels: NDArray[np.float64], training: NDArray[np.bool_], universe: Mapping[str, int]
    ) -> DistinctCustomers:
        """Return the other bank's side: say which of its customers may be dropped, in an order that says nothing."""
        known = self._contract.party(peer).identity_key
        trained = np.flatnonzero(training)
        marks, earlier = self._marks(trained, labels[trained], self._table.weight[trained])
        offer = self._channel.receive(peer, payload.DropOffer)
        if len(offer.list) != _NAME_BYTES:
            raise ProtocolError(
                f"expected the name of {peer}'s list, {_NAME_BYTES} bytes, got {len(offer.list)} bytes"
            )
        fixed = self._memory.fixed_customers("drops", known)
        if fixed is None:
            fixed = marks.take(droppable(marks, earlier, self._memory.ever_droppable())), offer.list
            self._memory.fix_customers("drops", known, *fixed)
        elif fixed[1] != offer.list:
            raise _other_list(self._party, peer)
        chosen = np.isin(marks.customers, fixed[0].customers)
        order = np.argsort(Stream(fresh_seed(self._randomness)).uniform((int(chosen.sum()),)))
        rows = trained[chosen][order]
        transfers, setup = SenderSetup.create(offer.transfer, self._randomness)
        key = OprfKey.generate(self._randomness)
        again = raised_again(key, offer.elements, self._randomness, workers=WORKERS)
        own = raised_in_order(key, self._identifiers(rows), workers=WORKERS)
        self._channel.send(peer, payload.DropAnswer(transfers=transfers, again=again, elements=own))
        sizes = [*universe.values(), len(rows)]
        sender = setup.accept(self._channel.receive(peer, payload.DropChoice).columns, sum(sizes))
        parts = dict(zip((*universe, _CUSTOMERS), sender.split(sizes), strict=True))
        return DistinctCustomers(peer, parts, rows)

    def _identifiers(self, rows: NDArray[np.int64]) -> list[bytes]:
        return [self._table.identifiers[row] for row in rows.tolist()]

    def _marks(
        self, rows: NDArray[np.int64], labels: NDArray[np.float64], weights: NDArray[np.float64]
    ) -> tuple[Marks, list[Marks]]:
        """Return the marks of customers, and those of the sums of every run, this one included."""
        found: list[tuple[Marks, list[Marks]]] = []

        def look(key: bytes, sums: list[Marks]) -> list[Marks]:
            found.append((Marks.of(key, self._identifiers(rows), labels, weights), sums))
            return []

        self._memory.extend_sums(look)
        return found[0]


class DistinctCustomers:
    """One bank's shares of what is dropped in one run. Both banks ask for the same ones in the same order.

    Attributes:
        rows: how many customers of the bank that drops may be dropped.
    """

    def __init__(
        self,
        peer: str,
        parts: Mapping[str, Receiver] | Mapping[str, Sender],
        chosen: NDArray[np.int64],
    ) -> None:
        """Share with ``peer``.

        Args:
            peer: the other bank.
            parts: for the rows of each holder, and under ``_CUSTOMERS`` for the customers that may be dropped.
            chosen: these customers among the own ones; none at the bank that keeps them.
        """
        self.rows = len(parts[_CUSTOMERS])
        self._peer = peer
        self._parts = parts
        self._chosen = chosen
        self._count = 0

    def at_holder(
        self,
        channel: Channel,
        holder: str,
        positions: NDArray[np.int64],
        values: NDArray[np.float64],
        bits: int,
    ) -> NDArray[np.int64]:
        """Return the share to add to a sealed product's vector, one word per row of the holder's universe.

        Args:
            channel: of the phase.
            holder: whose.
            positions: of this bank's customers among the holder's rows.
            values: of this bank's customers.
            bits: fixed-point bits of the vector.
        """

        def vectors(chosen: NDArray[np.int64]) -> Iterable[NDArray[np.int64]]:
            vector = np.zeros(len(self._parts[holder]), dtype=np.int64)
            vector[positions[chosen]] = np.rint(values[chosen] * 2.0**bits).astype(np.int64)
            yield vector

        return self._shares(channel, holder, 1, vectors, lambda share: share)[0]

    def at_leader(
        self, channel: Channel, step: str, count: int, bits: int, columns: Columns
    ) -> NDArray[np.int64]:
        """Return the share to add to a sum over banks of ``count`` numbers.

        Args:
            channel: of the phase.
            step: names the sum in errors.
            count: numbers in the sum.
            bits: its fixed-point bits.
            columns: this bank's numbers.

        Raises:
            ParameterError: the numbers of this bank's customers are outside the range of the sum.
        """

        def vectors(chosen: NDArray[np.int64]) -> Iterable[NDArray[np.int64]]:
            for column in columns(chosen):
                # What is left may be larger than the sum of all, but not than that of the magnitudes.
                encode(np.abs(column).sum(keepdims=True), bits=bits, parties=_BANKS, what=step)
                yield np.rint(column * 2.0**bits).astype(np.int64)

        shares = self._shares(channel, _CUSTOMERS, count, vectors, np.sum)
        return np.array(shares, dtype=np.int64)

    def _shares(
        self,
        channel: Channel,
        name: str,
        count: int,
        vectors: Callable[[NDArray[np.int64]], Iterable[NDArray[np.int64]]],
        kept: Callable[[NDArray[np.int64]], T],
    ) -> list[T]:
        """Return what is ``kept`` of this bank's share of each of ``count`` products; ``vectors`` gives the numbers to drop."""
        index, part = self._count, self._parts[name]
        self._count += 1
        # Keys are fresh in every run, and the indices count all messages of one.
        labels = [f"{index}/{number}".encode() for number in range(count)]
        if isinstance(part, Receiver):
            words = channel.receive(self._peer, payload.DropProduct, index).words
            numbers = unpack_words(words, count * len(part), f"numbers of {self._peer}'s customers")
            rows = numbers.reshape(count, len(part))
            return [kept(part.drop(row, label)) for row, label in zip(rows, labels, strict=True)]
        messages, shares = [], []
        for vector, label in zip(vectors(self._chosen), labels, strict=True):
            message, share = part.drop(vector, label)
            messages.append(pack_words(message))
            shares.append(kept(share))
        channel.send(self._peer, payload.DropProduct(words=b"".join(messages)), index)
        return shares


def _other_list(party: str, peer: str) -> RefusedError:
    return RefusedError(
        "other_customers_counted",
        f"{peer} counts other customers than in earlier runs with {party}, so the runs' difference might show a single one "
        "that both have: its node lacks what these runs left in its state folder; put the newest copy of that back",
        party=party,
    )
