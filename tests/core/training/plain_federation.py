"""Both sides of the training loop in one process, unsealed: what the sealed runtime has to reproduce."""

from dataclasses import dataclass

import numpy as np

from fedshare.credit.bins import ColumnBins, Design
from fedshare.training.customers import Customers, Evaluation, Totals
from fedshare.training.scorecard import HolderBlock, LabelHolderModel


@dataclass(frozen=True)
class Settings:
    ridge: float = 1.0
    smoothness: float = 0.0
    max_iterations: int = 60
    tolerance: float = 1e-9
    patience: int = 0


def make_design(rng, latent, columns, bins=5, monotone="none"):
    """Noisy views of one latent factor per row, so that the parties' blocks are correlated."""
    edges = tuple(np.linspace(-1.2, 1.2, bins - 1))
    specs = tuple(ColumnBins(f"c{i}", "numeric", edges, (), 0, monotone) for i in range(columns))
    codes = np.empty((len(latent), columns), dtype=np.int32)
    for index, column in enumerate(specs):
        codes[:, index] = column.assign(latent + rng.normal(size=len(latent))) + index * bins
    return Design(specs, codes)


class Economy:
    """Two holders with a universe, and one bank whose customers are some of it."""

    def __init__(self, seed=0, universe=1500, customers=600, monotone="none"):
        rng = np.random.default_rng(seed)
        latent = rng.normal(size=universe)
        self.holders = [make_design(rng, latent, 4, monotone=monotone), make_design(rng, latent, 3)]
        self.rows = rng.permutation(universe)[:customers]
        self.bank = make_design(rng, latent, 2).take(self.rows)
        self.labels = (rng.random(customers) < 1 / (1 + np.exp(1.5 - latent[self.rows]))).astype(float)
        self.weights = rng.uniform(0.5, 2.0, customers)
        self.training = rng.random(customers) < 0.7

    def pooled(self):
        return Design.joined([self.bank, *(design.take(self.rows) for design in self.holders)])


def train_plain(economy, settings, *, cone=False):
    """Return the bank's model, the holders' blocks and every step."""
    ones = np.zeros(len(economy.holders[0].codes))
    ones[economy.rows] = economy.training
    blocks = [HolderBlock(design, totals(design, ones), settings, cone=cone) for design in economy.holders]
    model = LabelHolderModel(
        economy.labels, economy.weights, economy.bank, economy.training, settings, cone=cone
    )
    steps = [model.solve()]
    while not steps[-1].stop:
        residual = np.zeros(len(ones))
        residual[economy.rows] = model.residual()
        scores, penalty = 0.0, 0.0
        for block, design in zip(blocks, economy.holders, strict=True):
            block.combine(steps[-1].coefficients)
            vector = block.direction(totals(design, residual))
            scores = scores + block.scores(vector)[economy.rows]
            penalty = penalty + block.penalty_row()
        model.add_direction(scores, penalty)
        steps.append(model.solve())
    for block in blocks:
        block.combine(steps[-1].coefficients)
    return model, blocks, steps


class PlainBanks:
    """All banks together, as the first of them reaches them: sums of vectors, in the clear."""

    resolution = 0.0

    def __init__(self, leader, others):
        self.others = others
        self.asked = 0
        vectors = [bank.totals().to_vector() for bank in (leader, *others)]
        self.totals = Totals.from_vector(sum(vectors))

    def evaluate(self, point, own):
        self.asked += 1
        vectors = [
            evaluate(point).to_vector() for evaluate in (own, *(bank.evaluate for bank in self.others))
        ]
        return Evaluation.from_vector(sum(vectors))


def train_banks(economy, settings, parts, *, cone=False, personal_intercept=False):
    """Train with the customers cut into ``parts`` (arrays of their positions); the first part leads.

    Returns:
        every bank's customers, the holders' blocks, every step and how often the leader asked.
    """

    def of(part):
        return (
            economy.labels[part],
            economy.weights[part],
            economy.bank.take(part),
            economy.training[part],
        )

    first, *others = [Customers(*of(part), personal_intercept=personal_intercept) for part in parts]
    banks = PlainBanks(first, others)
    leader = LabelHolderModel(
        *of(parts[0]), settings, cone=cone, personal_intercept=personal_intercept, banks=banks
    )
    ones = np.zeros(len(economy.holders[0].codes))
    ones[economy.rows] = economy.training
    blocks = [HolderBlock(design, totals(design, ones), settings, cone=cone) for design in economy.holders]
    steps = []
    while True:
        steps.append(leader.solve())
        for bank in others:
            bank.move_to(leader._point)
        for block in blocks:
            block.combine(steps[-1].coefficients)
        if steps[-1].stop:
            return [leader, *others], blocks, steps, banks.asked
        residual = np.zeros(len(ones))
        for bank, part in zip([leader, *others], parts, strict=True):
            residual[economy.rows[part]] = bank.residual()
        vectors = [
            block.direction(totals(design, residual))
            for block, design in zip(blocks, economy.holders, strict=True)
        ]
        scores = sum(block.scores(vector) for block, vector in zip(blocks, vectors, strict=True))
        leader.add_direction(scores[economy.rows[parts[0]]], sum(block.penalty_row() for block in blocks))
        for bank, part in zip(others, parts[1:], strict=True):
            bank.add_scores(scores[economy.rows[part]])


def unequal(labels, count, seed=0):
    """Return positions cut into ``count`` parts of unequal size and default rate, both outcomes in each."""
    rng = np.random.default_rng(seed)
    parts = [[] for _ in range(count)]
    for outcome in (0.0, 1.0):
        rows = rng.permutation(np.flatnonzero(labels == outcome))
        share = rng.dirichlet(np.full(count, 3.0)) * 0.7 + 0.3 / count
        cuts = np.floor(np.cumsum(share)[:-1] * len(rows)).astype(int)
        for part, piece in zip(parts, np.split(rows, cuts), strict=True):
            part.append(piece)
    return [np.sort(np.concatenate(part)) for part in parts]


def totals(design, values):
    result = np.zeros(design.width)
    for group in design.codes.T:
        result += np.bincount(group, values, design.width)
    return result
