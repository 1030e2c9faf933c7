"""Several banks against one that holds all their customers, and the derivatives against differences."""

import numpy as np
import pytest
from plain_federation import Economy, Settings, train_banks, train_plain, unequal
from scipy.optimize import approx_fprime, lsq_linear, minimize

from fedshare.errors import DataError, ParameterError, ProtocolError
from fedshare.training.customers import Customers, Evaluation, Totals
from fedshare.training.loss import CustomerLoss, ProfiledLoss
from fedshare.training.newton import minimise as bounded_minimum
from fedshare.training.onehot import OneHotMatrix
from fedshare.training.penalty import penalty_matrix
from fedshare.training.pooled import PooledLoss
from fedshare.training.scorecard import centralised_fit


def gathered(economy, banks, parts):
    scores = np.empty(len(economy.labels))
    for bank, part in zip(banks, parts, strict=True):
        scores[part] = bank.scores()
    return scores


@pytest.mark.parametrize("count", [2, 3, 8])
def test_banks_of_unequal_size_and_default_rate_reach_the_pooled_optimum(count):
    economy = Economy(1)
    parts = unequal(economy.labels, count)
    banks, blocks, steps, _ = train_banks(economy, Settings(), parts)
    pooled = centralised_fit(economy.labels, economy.weights, economy.pooled(), economy.training, Settings())
    assert steps[-1].reason == "converged"
    assert gathered(economy, banks, parts) == pytest.approx(pooled.scores(), abs=2e-3)
    weights = np.concatenate([banks[0].own_weights, *(block.weights for block in blocks)])
    assert weights == pytest.approx(pooled.own_weights, abs=2e-3)
    assert all(np.array_equal(bank.own_weights, banks[0].own_weights) for bank in banks)


def test_several_banks_take_as_many_iterations_as_one_with_all_customers():
    economy, settings = Economy(2), Settings(tolerance=1e-5)
    _, _, steps, asked = train_banks(economy, settings, unequal(economy.labels, 4))
    _, _, alone = train_plain(economy, settings)
    assert len(steps) == len(alone)
    assert asked <= 15 * len(steps)
    assert [step.train_loss for step in steps] == pytest.approx([step.train_loss for step in alone], abs=1e-5)
    assert [step.holdout_loss for step in steps] == pytest.approx(
        [step.holdout_loss for step in alone], abs=1e-4
    )


def test_a_leader_with_few_customers_and_empty_bins_finds_the_optimum_too():
    economy = Economy(3)
    defaults, others = (np.flatnonzero(economy.training & (economy.labels == each))[:2] for each in (1, 0))
    few = np.sort(np.concatenate([defaults, others]))
    parts = [few, np.setdiff1d(np.arange(len(economy.labels)), few)]
    banks, _, _, _ = train_banks(economy, Settings(), parts)
    pooled = centralised_fit(economy.labels, economy.weights, economy.pooled(), economy.training, Settings())
    assert gathered(economy, banks, parts) == pytest.approx(pooled.scores(), abs=2e-3)


def test_monotone_columns_stay_in_order_across_banks():
    economy = Economy(2, monotone="increasing")
    parts = unequal(economy.labels, 3)
    _, blocks, steps, _ = train_banks(economy, Settings(max_iterations=30), parts, cone=True)
    assert np.diff(blocks[0].weights.reshape(4, 5), axis=1).min() >= -1e-9
    assert (np.diff([step.objective for step in steps]) <= 1e-12).all()


def test_early_stopping_follows_the_held_out_loss_of_all_banks():
    economy = Economy(seed=4, universe=400, customers=160)
    settings = Settings(ridge=1e-3, patience=3)
    _, _, steps, _ = train_banks(economy, settings, unequal(economy.labels, 2))
    assert steps[-1].reason == "held-out loss"
    assert steps[-1].holdout_loss == pytest.approx(min(step.holdout_loss for step in steps[:-1]))


def test_personal_intercepts_are_those_of_a_model_with_one_intercept_per_bank():
    economy, settings = Economy(5), Settings()
    parts = unequal(economy.labels, 3)
    banks, _, _, _ = train_banks(economy, settings, parts, personal_intercept=True)
    design, train = economy.pooled(), economy.training
    dense = np.zeros((len(train), design.width + 3))
    for row, codes in enumerate(design.codes):
        dense[row, codes] = 1
    for number, part in enumerate(parts):
        dense[part, design.width + number] = 1
    penalty = np.zeros((dense.shape[1],) * 2)
    penalty[: design.width, : design.width] = penalty_matrix(design, settings)
    inside, w, y = dense[train], economy.weights[train], economy.labels[train]

    def objective(point):
        s = inside @ point
        value = w @ (np.logaddexp(0, s) - y * s) + 0.5 * point @ penalty @ point
        return value, inside.T @ (w * (1 / (1 + np.exp(-s)) - y)) + penalty @ point

    found = minimize(objective, np.zeros(len(penalty)), jac=True, method="L-BFGS-B", options={"ftol": 1e-15})
    assert gathered(economy, banks, parts) == pytest.approx(dense @ found.x, abs=5e-3)
    assert [bank.intercept for bank in banks] == pytest.approx(found.x[-3:], abs=5e-3)


def some_loss(seed=0, rows=60, directions=2):
    rng = np.random.default_rng(seed)
    codes = np.column_stack([rng.integers(0, 3, rows), 3 + rng.integers(0, 2, rows)]).astype(np.int32)
    labels = (rng.random(rows) < 0.3).astype(float)
    return CustomerLoss(
        labels,
        rng.uniform(0.2, 1, rows),
        rng.normal(size=(rows, directions)),
        OneHotMatrix(codes, 5),
        rng.normal(size=rows),
    )


@pytest.mark.parametrize("profiled", [False, True])
def test_derivatives_are_those_of_the_value(profiled):
    plain = some_loss()
    loss = ProfiledLoss(plain) if profiled else plain
    point = np.random.default_rng(1).normal(size=7 if profiled else 8)
    assert loss.gradient(point) == pytest.approx(approx_fprime(point, loss.value, 1e-7), abs=1e-4)
    numeric = approx_fprime(point, loss.gradient, 1e-7)
    assert loss.hessian(point) == pytest.approx(numeric, abs=1e-4)


@pytest.mark.parametrize("shift", [-30.0, 0.0, 30.0])
def test_the_own_intercept_makes_the_mean_residual_zero(shift):
    loss = some_loss(2)
    profiled = ProfiledLoss(loss)
    point = np.concatenate([[0.5, -1.0], np.full(5, shift / 2)])
    intercept = profiled.intercept(point)
    assert loss.gradient(np.append(point, intercept))[-1] == pytest.approx(0.0, abs=1e-9)


def test_no_intercept_shows_in_what_a_bank_with_its_own_says():
    economy = Economy(6)
    bank = Customers(economy.labels, economy.weights, economy.bank, economy.training, personal_intercept=True)
    assert bank.evaluate(np.zeros(bank.point_size)).gradient.shape == (economy.bank.width,)


def leading(copies=1):
    """Return the loss of a leading bank among ``copies`` equal ones, its customers, and the points it asked for."""
    economy, asked = Economy(7), []
    own = Customers(economy.labels, economy.weights, economy.bank, economy.training)

    class Banks:
        totals = Totals.from_vector(copies * own.totals().to_vector())

        def evaluate(self, point, evaluate):
            asked.append(point.tobytes())
            return Evaluation.from_vector(copies * evaluate(point).to_vector())

    return PooledLoss(Banks(), own), own, asked


def test_every_point_is_asked_for_once():
    pooled, own, asked = leading()
    point = np.zeros(own.point_size)
    for _ in range(2):
        pooled.value(point), pooled.gradient(point), pooled.hessian(point)
    assert len(asked) == 1


def test_the_first_hessian_of_equal_banks_is_nearly_theirs():
    pooled, own, _ = leading(3)
    point = np.linspace(-0.3, 0.3, own.point_size)
    exact = 3 * own.training_loss().hessian(point)
    assert pooled.hessian(point) == pytest.approx(exact, rel=0.05, abs=1.0)


def test_the_corrected_hessian_agrees_with_the_last_change_of_the_gradient():
    pooled, own, _ = leading(3)
    first, second = np.zeros(own.point_size), np.linspace(-0.5, 0.5, own.point_size)
    pooled.hessian(first)
    approximation = pooled.hessian(second)
    assert approximation @ (second - first) == pytest.approx(pooled.gradient(second) - pooled.gradient(first))
    assert np.linalg.eigvalsh(approximation).min() > -1e-9


@pytest.mark.parametrize("point", [np.zeros(3), np.full(11, np.nan), np.full(11, np.inf)])
def test_a_point_of_the_wrong_size_or_not_finite_is_refused(point):
    economy = Economy()
    bank = Customers(economy.labels, economy.weights, economy.bank, economy.training)
    assert bank.point_size == 11
    for take in (bank.move_to, bank.evaluate):
        with pytest.raises(ProtocolError, match="11 finite numbers"):
            take(point)


def test_scores_along_a_direction_are_checked():
    economy = Economy()
    bank = Customers(economy.labels, economy.weights, economy.bank, economy.training)
    for scores in (np.zeros(3), np.full(len(economy.labels), np.nan)):
        with pytest.raises(ProtocolError):
            bank.add_scores(scores)


def test_a_bank_with_one_outcome_is_refused():
    economy = Economy()
    with pytest.raises(DataError, match="both outcomes"):
        Customers(np.zeros(len(economy.labels)), economy.weights, economy.bank, economy.training)


def test_totals_and_evaluations_survive_the_way_through_a_vector():
    totals, found = Totals(3.0, 1.0, 2.0, np.arange(4.0)), Evaluation(1.5, 0.5, np.arange(3.0))
    again, also = Totals.from_vector(totals.to_vector()), Evaluation.from_vector(found.to_vector())
    assert (again.training_weight, again.default_weight, again.holdout_weight) == (3.0, 1.0, 2.0)
    assert np.array_equal(again.bin_weights, totals.bin_weights)
    assert (also.training, also.holdout) == (1.5, 0.5)
    assert np.array_equal(also.gradient, found.gradient)


@pytest.mark.parametrize("seed", range(4))
def test_bounds_are_met_where_an_independent_optimiser_meets_them(seed):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(12, 9))
    target = rng.normal(size=12)
    nonnegative = np.arange(9) % 3 > 0

    class Quadratic:
        def value(self, x):
            return 0.5 * np.sum((root @ x - target) ** 2)

        def gradient(self, x):
            return root.T @ (root @ x - target)

        def hessian(self, x):
            return root.T @ root + np.diag(np.arange(9.0))  # not the Hessian, as between banks

    found = bounded_minimum(Quadratic(), np.zeros(9), nonnegative, 1e-12)
    best = lsq_linear(root, target, (np.where(nonnegative, 0.0, -np.inf), np.inf), tol=1e-14)
    assert (found[nonnegative] >= 0).all()
    assert (found == 0).any()
    assert Quadratic().value(found) == pytest.approx(best.cost, abs=1e-9)


def test_the_entries_of_single_customers_add_up_to_totals_and_evaluation():
    economy = Economy(3)
    rng = np.random.default_rng(1)
    customers = Customers(economy.labels, economy.weights, economy.pooled(), economy.training)
    for _ in range(2):
        customers.add_scores(rng.normal(size=len(economy.labels)))
    rows = rng.permutation(np.flatnonzero(economy.training))
    totals, point = customers.totals(), rng.normal(size=customers.point_size)
    found = customers.evaluate(point)
    summed = [column.sum() for column in customers.totals_of(rows)]
    assert summed == pytest.approx([totals.training_weight, totals.default_weight, 0.0, *totals.bin_weights])
    summed = [column.sum() for column in customers.evaluation_of(point, rows)]
    assert summed == pytest.approx([found.training, 0.0, *found.gradient])


def test_an_intercept_of_a_banks_own_is_no_sum_over_customers():
    economy = Economy(3)
    customers = Customers(
        economy.labels, economy.weights, economy.pooled(), economy.training, personal_intercept=True
    )
    with pytest.raises(ParameterError, match="no sum over customers"):
        next(customers.evaluation_of(customers.point, np.arange(2)))
