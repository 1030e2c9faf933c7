"""What a feature holder does in each phase of a run.

It holds columns about every enterprise of its universe. It learns how many identifiers each bank asks for and sums
over all banks of its own columns against the banks' private vectors; it releases sealed columns that a bank can open
for its own customers only, and only as the sum over all holders (docs/protocol.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fedshare.contract.enforcement import verify_quota
from fedshare.credit.bins import fit_design
from fedshare.credit.drift import row_reference
from fedshare.credit.points import neutral_weights
from fedshare.errors import ProtocolError
from fedshare.privacy.randomised_response import label_bound
from fedshare.sealed import (
    HolderMask,
    OneHot,
    OprfKey,
    PublicMatrix,
    Sealer,
    answer,
    decode,
    derive,
    evaluate,
    hint,
    pair_row_keys,
    recover,
    scale_bits,
)
from fedshare.sealed.oblivious import ELEMENT_BYTES
from fedshare.sealed.randomness import Stream, fresh_seed
from fedshare.training.scorecard import HolderBlock
from fedshare.wire.v1 import payload_pb2 as payload

from .masks import masked, sign_towards
from .progress import Progress
from .words import encode_fixed, pack_words, unpack_words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from fedshare.contract.model import Contract
    from fedshare.sealed.randomness import Randomness

    from .channel import Channel
    from .data.table import Table
    from .progress import ProgressSink

__all__ = ["PENALTY_BITS", "SCORE_BITS", "FeatureHolder", "column_label"]

SCORE_BITS = 40
"""Fixed-point bits of a partial score: magnitudes below 2^22, steps of 1e-12."""

WEIGHT_LIMIT = 2.0**12
"""Log-odds that no bin's weight reaches: with 1,000 columns a partial score stays below 2^22."""

PENALTY_BITS = 24
"""Fixed-point bits of a penalty inner product: magnitudes below 2^38."""


WORKERS = 2
"""Threads for group operations; more would take cores that other parties on a small machine need."""


def column_label(session_id: bytes, iteration: int) -> bytes:
    """Return the label of the sealed column of ``iteration``; no two columns of any two sessions share one."""
    return b"fedshare sealed column v1|" + session_id + iteration.to_bytes(4, "big")


class FeatureHolder:
    """One run of one feature holder. Secrets live in this object only and end with it."""

    def __init__(
        self,
        contract: Contract,
        party: str,
        table: Table,
        randomness: Randomness,
        report: ProgressSink,
        spend: Callable[[str, int, int], int],
    ) -> None:
        """Cut the columns of ``table`` into bins and put its rows in a fresh random order.

        ``spend(what, amount, limit)`` counts against a limit of the contract, as ``service.Platform`` does.

        Raises:
            DataError: a column cannot be cut into bins of the contract's minimum cohort.
        """
        self._contract = contract
        self._party = party
        self._banks = [bank.id for bank in contract.banks()]
        self._holders = [holder.id for holder in contract.holders()]
        self._randomness = randomness
        self._report = report
        self._spend = spend
        self._residual_bound = label_bound(contract.label_epsilon())
        # Before the rows change places, so that an error names the row as it is stored.
        design = fit_design(table, contract.party(party).columns, contract.minimum_cohort, party=party)
        # Banks see the order of the rows: a fresh random one says nothing about how they are stored here.
        order = np.argsort(Stream(fresh_seed(randomness)).uniform((len(table),)))
        self._identifiers = [table.identifiers[row] for row in order.tolist()]
        self._design = design.take(order)
        self._sealer: Sealer
        self._block: HolderBlock
        self._masks: dict[str, list[HolderMask]] = {}

    def align(self, channel: Channel) -> None:
        """Answer every bank's blinded identifiers and publish the tags of the own rows.

        Raises:
            RefusedError: a bank asks for more identifiers than the contract's quota, earlier runs included.
        """
        identifiers = self._identifiers
        key = OprfKey.generate(self._randomness)
        rows = derive(key, identifiers, workers=WORKERS)
        pair_masks = [
            (
                sign_towards(self._party, peer),
                pair_row_keys(channel.session.shared_secret(peer, "row masks"), identifiers),
            )
            for peer in self._holders
            if peer != self._party
        ]
        self._sealer = Sealer(rows.pad_keys, pair_masks)
        tags = rows.tags.tobytes()
        for bank in self._banks:
            blinded = channel.receive(bank, payload.BlindedIdentifiers).elements
            asked, quota = len(blinded) // ELEMENT_BYTES, self._contract.alignment.quota
            earlier = self._spend(f"identifiers/{bank}", asked, quota)
            verify_quota(self._contract, self._party, bank, asked, earlier)
            evaluated = evaluate(key, blinded, workers=WORKERS)
            channel.send(bank, payload.EvaluatedIdentifiers(elements=evaluated))
            channel.send(bank, payload.RowTags(tags=tags))
        self._report(Progress("align", 0, f"{len(identifiers)} rows offered to {len(self._banks)} bank(s)"))

    def prepare(self, channel: Channel) -> None:
        """Learn the customer counts per bin, merge thin bins, and exchange the shares of every query to come."""
        contract, design = self._contract, self._design
        columns = OneHot(design.codes, design.width)
        own_hint = hint(PublicMatrix(contract.ring_seed(), columns.rows), columns)
        offers = {bank: list(channel.receive(bank, payload.SecretOffers).offers) for bank in self._banks}
        queries = contract.model.max_iterations + 1
        for bank, offered in offers.items():
            if len(offered) != queries:
                raise ProtocolError(f"{bank} offered {len(offered)} secrets, the contract says {queries}")

        # 1. One query against the ones vector gives the number of training customers per bin.
        for bank in self._banks:
            self._masks[bank] = [self._answer(channel, bank, 0, own_hint, offers[bank][0])]
        counts = np.rint(
            self._total(columns, {bank: channel.receive(bank, payload.CountQuery) for bank in self._banks})
        )
        # 2. Bins with fewer customers than the minimum cohort are merged before any label enters a query.
        self._design, groups = design.merged(counts, contract.minimum_cohort)
        kept = groups >= 0
        merged_hint = np.zeros((self._design.width, own_hint.shape[1]), dtype=np.int64)
        np.add.at(merged_hint, groups[kept], own_hint[kept])
        # 3. Shares for every query of training.
        for query in range(1, queries):
            for bank in self._banks:
                self._masks[bank].append(self._answer(channel, bank, query, merged_hint, offers[bank][query]))
        self._counts = np.bincount(groups[kept], counts[kept], self._design.width).astype(np.float64)
        self._block = HolderBlock(
            self._design,
            self._counts,
            contract.model,
            cone=contract.is_monotone(),
        )
        self._report(
            Progress(
                "prepare",
                0,
                f"{self._design.width} bins with at least {contract.minimum_cohort} customers each"
                + (f"; left out: {', '.join(self._design.dropped)}" if self._design.dropped else ""),
            )
        )

    def train(self, channel: Channel) -> None:
        """Answer the banks' sealed products, each with a sealed column, until they stop."""
        columns = OneHot(self._design.codes, self._design.width)
        iteration = 0
        while True:
            products = {bank: channel.receive(bank, payload.SealedProduct, iteration) for bank in self._banks}
            first, *others = products.values()
            if any((*each.coefficients, each.stop) != (*first.coefficients, first.stop) for each in others):
                raise ProtocolError("the banks disagree about the combination of directions")
            self._combine(np.array(first.coefficients))
            if first.stop:
                self._report(Progress("train", iteration, "complete"))
                return
            if iteration == self._contract.model.max_iterations:
                raise ProtocolError(f"the banks ask for more than the contract's {iteration} iterations")
            direction = self._block.direction(self._total(columns, products))
            self._release(channel, iteration, self._block.scores(direction))
            iteration += 1
            self._report(Progress("train", iteration, "partial score released"))

    def result(self) -> dict[str, Any]:
        """Return this holder's part of the model, which stays here: its bins and the weight of each."""
        return {
            "rows": len(self._identifiers),
            "bins": self._design.to_dict(),
            "reference": row_reference(self._design),
            "weights": self._block.weights.tolist(),
            "counts": self._counts.tolist(),
            "neutral": neutral_weights(self._block.weights, self._counts, self._design.offsets).tolist(),
        }

    def _combine(self, coefficients: NDArray[np.float64]) -> None:
        """Set the weights as the banks ask, unless no partial score could hold them."""
        with np.errstate(over="ignore", invalid="ignore"):
            self._block.combine(coefficients)
        if not np.all(np.abs(self._block.weights) < WEIGHT_LIMIT):
            raise ProtocolError("the banks' coefficients make weights that no partial score can hold")

    def _answer(
        self, channel: Channel, bank: str, query: int, rows: NDArray[np.int64], offer: bytes
    ) -> HolderMask:
        mask, message = answer(rows, offer, self._randomness)
        channel.send(bank, payload.SecretAnswer(answer=message), query)
        return mask

    def _total(
        self, columns: OneHot, products: Mapping[str, payload.SealedProduct | payload.CountQuery]
    ) -> NDArray[np.float64]:
        """Return X^T d summed over banks; the masks of one query are used up."""
        total = np.zeros(columns.columns, dtype=np.int64)
        for bank, message in products.items():
            total += recover(
                columns,
                unpack_words(message.ciphertext, columns.rows, f"sealed product of {bank}"),
                unpack_words(message.share, columns.columns, f"share of {bank}"),
                self._masks[bank].pop(0),
            )
        return decode(total, scale_bits(columns.rows * len(self._banks), 1, self._residual_bound))

    def _release(self, channel: Channel, iteration: int, scores: NDArray[np.float64]) -> None:
        """Seal the partial scores of all rows and send them to every bank, with the penalty of the direction."""
        session = channel.session
        values = self._sealer.seal(
            encode_fixed(scores, SCORE_BITS, "partial score"), column_label(session.id, iteration)
        )
        penalty = masked(
            encode_fixed(self._block.penalty_row(), PENALTY_BITS, "penalty"),
            session,
            self._holders,
            f"penalty/{iteration}",
        )
        message = payload.SealedColumn(values=pack_words(values), penalty=pack_words(penalty))
        for bank in self._banks:
            channel.send(bank, message, iteration)
