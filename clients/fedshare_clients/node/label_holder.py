"""What a label holder (a bank) does in each phase of a run.

It holds its customers, their outcome and columns of its own. It learns the sizes of the holders' universes, which of its own
customers each holder knows, and, for its own customers, the sum over all holders of their partial scores. Of the other
banks, if there are any, it learns sums over all banks.
"""

from __future__ import annotations

import hmac
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy.special import expit

from fedshare.credit.bins import Design, fit_design, fit_usable_design
from fedshare.credit.drift import row_reference
from fedshare.credit.histogram import ScoreHistogram, cell_counts, cell_sums, range_votes, voted_groups
from fedshare.credit.metrics import auc, ks
from fedshare.credit.points import neutral_weights
from fedshare.errors import DataError, ProtocolError
from fedshare.privacy.randomised_response import label_bound
from fedshare.sealed import (
    OfferedSecret,
    PreparedSecret,
    PublicMatrix,
    blind,
    finalize,
    open_sum,
    scale_bits,
)
from fedshare.training.network.inputs import public_bins
from fedshare.training.scorecard import Customers, LabelHolderModel, Step
from fedshare.wire.v1 import payload_pb2 as payload

from .bank_bins import fit_shared_bins
from .bank_sums import BankSums
from .bank_training import WEIGHT_BITS, Follower, OtherBanks, sum_totals
from .distinct_customers import DropMemory, agree
from .feature_holder import PENALTY_BITS, SCORE_BITS, WORKERS, column_label
from .held_back import held_back
from .masks import masked
from .progress import Progress
from .shared_customers import BandMemory, count_shared
from .words import decode_fixed, pack_words, unpack_words

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from fedshare.contract.model import Contract
    from fedshare.sealed.randomness import Randomness

    from .bank_network import BankNetwork
    from .bank_portfolio import BankPortfolio
    from .channel import Channel
    from .data.table import Table
    from .progress import ProgressSink

__all__ = ["BankMemory", "LabelHolder"]


class BankMemory(BandMemory, DropMemory, Protocol):
    """What a bank remembers over runs."""


class LabelHolder:
    """One run of one bank. Secrets live in this object only and end with it."""

    def __init__(
        self,
        contract: Contract,
        party: str,
        table: Table,
        holdout_seed: bytes,
        randomness: Randomness,
        report: ProgressSink,
        outcomes: Callable[[Table], NDArray[np.float64]],
        memory: BankMemory,
        portfolio: BankPortfolio | None = None,
    ) -> None:
        """Take the customers.

        ``outcomes`` returns what training uses of the labels of a table: with label privacy, debiased noisy ones.
        ``memory`` knows over whom the sums of earlier runs were, and about how many customers are shared.
        ``portfolio`` has their exposures, if the contract has those added up.

        Raises:
            DataError: a weight is not above 0 and at most 1, which the fixed-point range of a sealed product is made for.
        """
        if not np.all((table.weight > 0.0) & (table.weight <= 1.0)):
            raise DataError(
                "expected weights above 0 and up to 1; divide all of them by the largest one",
                party=party,
                source=table.source,
                field="weight",
            )
        self._contract = contract
        self._party = party
        self._banks = [bank.id for bank in contract.banks()]
        self._holders = [holder.id for holder in contract.holders()]
        self._sums = BankSums(
            party,
            self._banks,
            randomness,
            lost_bank=contract.between_banks.lost_bank,
            fewest=contract.fewest_banks(),
        )
        self._everyone: dict[str, Any] | None = None
        self._table = table
        self._holdout_seed = holdout_seed
        self._randomness = randomness
        self._report = report
        self._outcomes = outcomes
        self._memory = memory
        self._portfolio = portfolio
        self._exposures: dict[str, Any] | None = None
        if portfolio is not None:
            portfolio.verify(table, party=party)
        self._residual_bound = label_bound(contract.label_epsilon())
        self._history: list[dict[str, float | None]] = []
        self._network: BankNetwork | None = None
        if contract.bank_model is not None:
            # Imported here and below: torch costs a node without a network 200 MiB and seconds at every start.
            from fedshare.training.network.registry import verify_network  # noqa: PLC0415

            verify_network(contract.bank_model, party)

    def align(self, channel: Channel) -> None:
        """Find the own customers' rows at every holder, without any holder learning who they are."""
        identifiers = self._table.identifiers
        blinds = {}
        for holder in self._holders:
            blinds[holder], elements = blind(identifiers, self._randomness, workers=WORKERS)
            channel.send(holder, payload.BlindedIdentifiers(elements=elements))
        found = {}
        pad_keys = {}
        self._universe = {}
        for holder in self._holders:
            evaluated = channel.receive(holder, payload.EvaluatedIdentifiers).elements
            rows = finalize(blinds.pop(holder), evaluated, workers=WORKERS)
            tags = channel.receive(holder, payload.RowTags).tags
            found[holder] = _positions(tags, rows.tags.tobytes())
            pad_keys[holder] = rows.pad_keys
            self._universe[holder] = len(tags) // TAG_BYTES
        known = [found[holder] >= 0 for holder in self._holders]
        aligned = np.flatnonzero(np.all(known, axis=0)) if known else np.arange(len(identifiers))
        self._coverage = {holder: int(np.count_nonzero(found[holder] >= 0)) for holder in self._holders}
        taking_part = self._without_held_back(aligned)
        self._positions = {holder: found[holder][taking_part] for holder in self._holders}
        self._pad_keys = {holder: pad_keys[holder][taking_part] for holder in self._holders}
        self._verify_cohort(len(self._table), len(aligned))
        self._shared: dict[str, dict[str, int]] | None = None
        if self._contract.between_banks.count_shared_customers and self._sums.others:
            bands = count_shared(
                channel, self._contract, self._aligned.identifiers, self._memory, self._randomness
            )
            self._shared = {bank: asdict(band) for bank, band in bands.items()}
        if self._contract.between_banks.drop_shared_customers:
            self._sums.distinct = agree(
                channel,
                self._contract,
                self._aligned,
                self._labels,
                self._training,
                self._positions,
                self._universe,
                self._memory,
                self._randomness,
            )
        held = f", {self._held_back} of them held back" if self._held_back else ""
        self._report(
            Progress(
                "align", 0, f"{len(aligned)} of {len(self._table)} customers known to every holder{held}"
            )
        )

    def _without_held_back(self, aligned: NDArray[np.int64]) -> NDArray[np.int64]:
        """Take the customers in the rows ``aligned`` but those that have to stay out, and return the rows."""
        table, seed, share = self._table.take(aligned), self._holdout_seed, self._contract.holdout_share
        labels, training = self._outcomes(table), _training_mask(table.identifiers, seed, share)
        kept = np.flatnonzero(~held_back(self._memory, self._contract, self._party, table, labels, training))
        self._held_back = len(aligned) - len(kept)
        self._aligned, self._labels, self._training = table.take(kept), labels[kept], training[kept]
        return aligned[kept]

    def prepare(self, channel: Channel) -> None:
        """Exchange the shares of every query to come and let the holders count the training customers per bin."""
        contract = self._contract
        queries = contract.model.max_iterations + 1
        self._public = {
            holder: PublicMatrix(contract.ring_seed(), rows) for holder, rows in self._universe.items()
        }
        offered = {}
        for holder in self._holders:
            offered[holder] = [OfferedSecret.create(self._randomness) for _ in range(queries)]
            channel.send(holder, payload.SecretOffers(offers=[offer for _, offer in offered[holder]]))
        self._secrets: dict[str, list[PreparedSecret]] = {holder: [] for holder in self._holders}
        for query in range(queries):
            for holder in self._holders:
                secret, _ = offered[holder][query]
                answer = channel.receive(holder, payload.SecretAnswer, query).answer
                self._secrets[holder].append(secret.accept(answer))
            if query == 0:
                self._count(channel)
        self._bin(channel)
        self._build_network()
        self._enter_search(channel)
        self._report(
            Progress("prepare", 0, f"{queries} one-time secrets for each of {len(self._holders)} holder(s)")
        )

    def train(self, channel: Channel) -> None:
        """Train the banks' network if there is one; then minimise over the span of the holders' directions.

        Each direction is one round of messages, and the network is trained on after it, until the search stops.
        """
        if self._network:
            rounds = self._network.train(channel)
            self._model.set_offsets(self._network.scores())
            if not self._holders:
                self._history = [{"loss": each.loss, "holdout_loss": each.holdout_loss} for each in rounds]
                return
        iteration = 0
        while True:
            step = self._settle(channel)
            self._history.append({"loss": step.train_loss, "holdout_loss": step.holdout_loss})
            self._report(Progress("train", iteration, step.reason, step.train_loss, step.holdout_loss))
            message = payload.SealedProduct(coefficients=step.coefficients.tolist(), stop=step.stop)
            if step.stop:
                for holder in self._holders:
                    channel.send(holder, message, iteration)
                return
            residual = self._model.residual()
            for holder in self._holders:
                message.ciphertext, message.share = self._product(channel, holder, iteration + 1, residual)
                channel.send(holder, message, iteration)
            scores, penalty = self._open(channel, iteration)
            if isinstance(self._model, LabelHolderModel):
                self._model.add_direction(scores, penalty)
            else:
                self._model.add_scores(scores)
            if self._network:
                self._network.follow(channel, self._model.scores_without_offsets())
                self._model.set_offsets(self._network.scores())
            iteration += 1

    def evaluate(self, channel: Channel) -> None:
        """Measure the model on the held-out customers of all banks, by sums over cells of scores, and add up the portfolio.

        With privacy nothing is measured: nothing of held-out customers leaves their bank then.
        """
        if self._portfolio is not None:
            pd: NDArray[np.float64] = expit(self._model.scores())
            self._exposures = self._portfolio.add_up(
                channel, self._sums, self._aligned, pd, self._contract.minimum_cohort
            )
        if not self._sums.others or self._contract.privacy.labels or self._contract.privacy.network:
            return
        federated = self._over_banks(channel, "federated", self._model)
        # A bank's own model is the same in every run: its sums without a lost bank, beside those of a run with it, would be
        # that bank's own.
        alone = self._over_banks(channel, "bank_only", self._own_model, whole=True)
        if federated is not None:
            self._everyone = {
                "banks": len(self._sums.banks),
                "holdout": int(federated.customers.sum()),
                "federated": _measured(federated),
                **({} if alone is None else {"bank_only": _measured(alone)}),
            }

    def _over_banks(
        self, channel: Channel, name: str, model: Customers, *, whole: bool = False
    ) -> ScoreHistogram | None:
        """Return the outcomes of all banks' held-out customers by score, ``None`` if a bank was lost too late.

        ``whole`` says whether any lost bank is too many.
        """
        holdout = ~self._training
        scores, labels = model.scores()[holdout], self._aligned.label[holdout]
        own, sums = cell_counts(scores), self._sums
        ranges = range_votes(own, self._contract.minimum_cohort).astype(np.float64)
        step = f"banks with enough customers per range of scores, {name}"
        votes = (
            sums.total_over(tuple(self._banks), channel, step, ranges, 0)
            if whole
            else sums.total(channel, step, ranges, 0)
        )
        if votes is None:
            return None
        groups = voted_groups(np.rint(votes).astype(np.int64))
        outcomes = cell_sums(labels, scores, self._aligned.weight[holdout], groups)
        part = np.vstack([np.bincount(groups, own), outcomes])
        # The groups are made for the banks that voted.
        step = f"customers and outcomes per score, {name}"
        total = sums.total_over(sums.banks, channel, step, part.ravel(), WEIGHT_BITS)
        if total is None:
            return None
        customers, *summed = total.reshape(part.shape)
        return ScoreHistogram.from_sums(groups, np.rint(customers).astype(np.int64), np.stack(summed))

    def result(self) -> dict[str, Any]:
        """Return what the bank learned: counts, metrics on the held-out customers and its own sub-model."""
        model, labels = self._model, self._aligned.label
        holdout = ~self._training

        def metrics(scores: NDArray[np.float64]) -> dict[str, float]:
            return {
                "auc": auc(labels[holdout], scores[holdout], self._aligned.weight[holdout]),
                "ks": ks(labels[holdout], scores[holdout], self._aligned.weight[holdout]),
            }

        return {
            "customers": len(self._table),
            "aligned": len(self._aligned) + self._held_back,
            "held_back": self._held_back,
            "coverage": self._coverage,
            "training": int(self._training.sum()),
            "holdout": int(holdout.sum()),
            "iterations": len(self._history) - 1,
            "history": self._history,
            "federated": metrics(model.scores()),
            "bank_only": metrics(self._own_model.scores()),
            "bins": self._search_design.to_dict(),
            "reference": row_reference(Design.assigned(self._design.columns, self._table, party=self._party)),
            **self._part(model, self._search_design),
            "own_model": {
                "bins": self._own_design.to_dict(),
                **self._part(self._own_model, self._own_design),
            },
            **({"network": self._network.to_dict()} if self._network else {}),
            **({"all_banks": self._everyone} if self._everyone else {}),
            **({"portfolio": self._exposures} if self._exposures else {}),
            **({"shared_customers": self._shared} if self._shared is not None else {}),
        }

    def _part(self, model: Customers, design: Design) -> dict[str, Any]:
        """Return what scoring needs of a model beside the bins."""
        codes = design.codes[self._training]
        counts = np.bincount(codes.ravel(), minlength=design.width).astype(np.float64)
        return {
            "weights": model.own_weights.tolist(),
            "counts": counts.tolist(),
            "neutral": neutral_weights(model.own_weights, counts, design.offsets).tolist(),
            "intercept": float(model.intercept),
        }

    def scored_customers(self) -> dict[str, Any]:
        """Return what a report on the aligned customers needs, for this bank's own files.

        ``score`` is the federated model's, ``own_part`` what the own columns add to it, and ``bank_only`` the score of the
        model that the own columns alone give; all are log-odds of default.
        """
        return {
            "identifier": [identifier.decode() for identifier in self._aligned.identifiers],
            "holdout": ~self._training,
            "label": self._aligned.label,
            "weight": self._aligned.weight,
            "score": self._model.scores(),
            "own_part": self._network.scores()
            if self._network
            else self._model.own_weights[self._design.codes].sum(axis=1),
            "bank_only": self._own_model.scores(),
        }

    @cached_property
    def _own_design(self) -> Design:
        """Return the own columns as this bank cuts them alone, without those that its own customers say nothing about."""
        if len(self._banks) == 1:
            return self._design
        columns = self._contract.party(self._party).columns
        return fit_usable_design(self._aligned, columns, self._contract.minimum_cohort, party=self._party)

    @cached_property
    def _own_model(self) -> LabelHolderModel:
        """Return the model that this bank could train alone."""
        alone = LabelHolderModel(
            *self._sample(self._aligned.label, self._own_design),
            self._contract.model,
            cone=self._contract.is_monotone(),
        )
        alone.solve()
        return alone

    def _verify_cohort(self, customers: int, aligned: int) -> None:
        needed = self._contract.minimum_cohort
        if aligned == 0:
            raise DataError(
                f"none of the {customers} customers is known to every one of {', '.join(self._holders)}; check that "
                "all parties use the same kind of identifier",
                party=self._party,
            )
        classes = np.unique(self._labels[self._training])
        if np.count_nonzero(self._training) < needed or np.count_nonzero(~self._training) < needed:
            raise DataError(
                f"{aligned} customers are aligned, {self._held_back} of them held back; training and held-out ones must "
                f"each number at least the contract's minimum cohort of {needed}",
                party=self._party,
            )
        if len(classes) < 2 or len(np.unique(self._labels[~self._training])) < 2:
            raise DataError(
                f"expected both outcomes, 0 and 1, among the {np.count_nonzero(self._training)} training and among the "
                f"{np.count_nonzero(~self._training)} held-out customers, found one kind in either; check the column with "
                "the outcome, or leave this bank out of the contract",
                party=self._party,
            )

    def _bin(self, channel: Channel) -> None:
        """Cut the own columns into bins: by the own customers, or by those of all banks if there are several."""
        contract = self._contract
        columns, minimum = contract.party(self._party).columns, contract.minimum_cohort
        private = contract.privacy.network
        if private is not None and columns:
            bins = public_bins(columns, private.ranges)
            self._design = Design.assigned(bins, self._aligned, party=self._party)
            return
        if not (self._sums.others and columns):
            self._design = fit_design(self._aligned, columns, minimum, party=self._party)
            return
        self._design = fit_shared_bins(channel, contract, self._sums, self._aligned, self._training)

    def _build_network(self) -> None:
        """Build the banks' network, if the contract has one: it then stands for the own bins in the search."""
        model = self._contract.bank_model
        self._search_design = self._design
        if model is None:
            return
        from .bank_network import BankNetwork  # noqa: PLC0415

        self._search_design = Design((), np.empty((len(self._aligned), 0), dtype=np.int32))
        self._network = BankNetwork(
            self._contract,
            model,
            self._party,
            self._design.columns,
            self._sums,
            self._randomness,
            self._report,
        )
        self._network.prepare(self._aligned, self._labels, self._training)

    def _enter_search(self, channel: Channel) -> None:
        """Prepare the search, as the only bank, the leading one or one that follows."""
        contract, sample = self._contract, self._sample(self._labels, self._search_design)
        cone, personal = contract.is_monotone(), contract.between_banks.personal_intercepts
        self._others: OtherBanks | None = None
        self._model: Customers
        if not self._holders:
            self._model = Customers(*sample)  # stands at zero: the network alone is the model
            return
        if not self._sums.others:
            self._model = LabelHolderModel(*sample, contract.model, cone=cone)
            return
        customers = Customers(*sample, personal_intercept=personal)
        totals = sum_totals(channel, self._sums, customers)
        if totals is not None:
            self._others = OtherBanks(self._sums, totals)
            self._model = LabelHolderModel(
                *sample, contract.model, cone=cone, personal_intercept=personal, banks=self._others
            )
        else:
            self._model = customers
            self._follower = Follower(self._sums, customers, contract.model.max_iterations, cone=cone)

    def _settle(self, channel: Channel) -> Step:
        """Return the outcome of an iteration, with the network of the best one if training goes back to that."""
        step = self._solve(channel)
        if self._network:
            step = self._network.settle(step)
            self._model.set_offsets(self._network.scores())
        return step

    def _solve(self, channel: Channel) -> Step:
        """Let this bank's model stand at the minimum over all directions so far."""
        if not isinstance(self._model, LabelHolderModel):
            return self._follower.follow(channel)
        if self._others is None:
            return self._model.solve()
        self._others.enter(channel)
        step = self._model.solve()
        self._others.settle(self._model.point, step)
        return step

    def _sample(
        self, labels: NDArray[np.float64], design: Design
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], Design, NDArray[np.bool_]]:
        return labels, self._aligned.weight, design, self._training

    def _count(self, channel: Channel) -> None:
        """Let every holder count the training customers per bin."""
        for holder in self._holders:
            ciphertext, share = self._product(channel, holder, 0, self._training.astype(np.float64))
            channel.send(holder, payload.CountQuery(ciphertext=ciphertext, share=share))

    def _product(
        self, channel: Channel, holder: str, query: int, values: NDArray[np.float64]
    ) -> tuple[bytes, bytes]:
        """Return ``values``, sealed at the positions of the own customers and zero elsewhere, and the share."""
        rows, positions = self._universe[holder], self._positions[holder]
        bits = scale_bits(rows * len(self._banks), 1, self._residual_bound)
        distinct = self._sums.distinct
        dropped = distinct.at_holder(channel, holder, positions, values, bits) if distinct else None
        vector = np.zeros(rows)
        vector[positions] = values
        secret = self._secrets[holder].pop(0)
        ciphertext, share = secret.encrypt(
            self._public[holder], vector, bits, self._randomness, added=dropped
        )
        share = masked(share, channel.session, self._banks, f"share/{holder}/{query}")
        return pack_words(ciphertext), pack_words(share)

    def _open(self, channel: Channel, iteration: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the sum over holders of the own customers' scores, and of the penalties of the new direction."""
        columns, penalty = [], np.zeros(iteration + 1, dtype=np.int64)
        for holder in self._holders:
            message = channel.receive(holder, payload.SealedColumn, iteration)
            values = unpack_words(message.values, self._universe[holder], f"sealed column of {holder}")
            columns.append(values[self._positions[holder]])
            penalty += unpack_words(message.penalty, iteration + 1, f"penalty of {holder}")
        label = column_label(channel.session.id, iteration)
        opened = open_sum(columns, list(self._pad_keys.values()), label)
        return decode_fixed(opened, SCORE_BITS), decode_fixed(penalty, PENALTY_BITS)


TAG_BYTES = 16


def _measured(histogram: ScoreHistogram) -> dict[str, Any]:
    return {
        "auc": asdict(histogram.auc()),
        "ks": asdict(histogram.ks()),
        "histogram": histogram.to_json(),
    }


def _positions(tags: bytes, own_tags: bytes) -> NDArray[np.int64]:
    """Return the row of each own tag among ``tags``, -1 where it is not there."""
    size = TAG_BYTES
    if len(tags) % size:
        raise ProtocolError(f"row tags: expected a multiple of {size} bytes, got {len(tags)}")
    rows = {tags[start : start + size]: start // size for start in range(0, len(tags), size)}
    if len(rows) != len(tags) // size:
        raise ProtocolError("row tags: the same tag stands at two rows")
    own = (own_tags[start : start + size] for start in range(0, len(own_tags), size))
    return np.fromiter((rows.get(tag, -1) for tag in own), dtype=np.int64)


def _training_mask(identifiers: list[bytes], seed: bytes, holdout_share: float) -> NDArray[np.bool_]:
    """Return which customers train: each is held out by a keyed hash of its identifier, whatever the row order."""
    threshold = int(holdout_share * 2**64)
    draws = (int.from_bytes(hmac.digest(seed, each, "sha256")[:8], "big") for each in identifiers)
    return np.fromiter((draw >= threshold for draw in draws), dtype=np.bool_, count=len(identifiers))
