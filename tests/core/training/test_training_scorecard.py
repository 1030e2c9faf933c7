"""The subspace search against the pooled optimum, and that optimum against an independent optimiser."""

import numpy as np
import pytest
from plain_federation import Economy, Settings, train_plain
from scipy.optimize import minimize

from fedshare.errors import DataError, ParameterError, ProtocolError
from fedshare.training.onehot import OneHotMatrix
from fedshare.training.penalty import monotone_cone, penalty_matrix
from fedshare.training.scorecard import HolderBlock, LabelHolderModel, centralised_fit


def pooled_fit(economy, settings):
    return centralised_fit(economy.labels, economy.weights, economy.pooled(), economy.training, settings)


@pytest.mark.parametrize("seed", range(3))
def test_the_federation_converges_to_the_pooled_optimum(seed):
    economy = Economy(seed)
    settings = Settings(smoothness=0.5)
    model, blocks, steps = train_plain(economy, settings)
    pooled = pooled_fit(economy, settings)
    assert steps[-1].reason == "converged"
    assert model.scores() == pytest.approx(pooled.scores(), abs=2e-3)
    weights = np.concatenate([model.own_weights, *(block.weights for block in blocks)])
    assert weights == pytest.approx(pooled.own_weights, abs=2e-3)


def test_the_pooled_optimum_is_what_an_independent_optimiser_finds():
    economy, settings = Economy(), Settings(smoothness=0.5)
    design, train = economy.pooled(), economy.training
    dense = np.zeros((train.sum(), design.width + 1))
    dense[:, -1] = 1
    for row, codes in enumerate(design.codes[train]):
        dense[row, codes] = 1
    penalty = np.zeros((design.width + 1, design.width + 1))
    penalty[:-1, :-1] = penalty_matrix(design, settings)

    def objective(point):
        s = dense @ point
        chance = 1 / (1 + np.exp(-s))
        w, y = economy.weights[train], economy.labels[train]
        value = w @ (np.logaddexp(0, s) - y * s) + 0.5 * point @ penalty @ point
        return value, dense.T @ (w * (chance - y)) + penalty @ point

    found = minimize(
        objective, np.zeros(design.width + 1), jac=True, method="L-BFGS-B", options={"ftol": 1e-14}
    )
    model = pooled_fit(economy, settings)
    assert np.append(model.own_weights, model.intercept) == pytest.approx(found.x, abs=1e-3)


@pytest.mark.parametrize("cone", [False, True])
def test_the_objective_never_rises(cone):
    _, _, steps = train_plain(Economy(5), Settings(max_iterations=15), cone=cone)
    assert (np.diff([step.objective for step in steps]) <= 1e-12).all()


@pytest.mark.parametrize("direction", ["increasing", "decreasing"])
def test_monotone_weights_are_in_order_after_every_step_and_reach_the_pooled_optimum(direction):
    economy = Economy(2, monotone=direction)
    for limit in (1, 4, 60):
        model, blocks, _ = train_plain(economy, Settings(max_iterations=limit), cone=True)
        sign = 1 if direction == "increasing" else -1
        steps = np.diff(blocks[0].weights.reshape(4, 5), axis=1) * sign
        assert steps.min() >= -1e-9
    assert model.scores() == pytest.approx(pooled_fit(economy, Settings()).scores(), abs=0.05)


def test_separable_outcomes_end_at_a_finite_model():
    economy = Economy(3)
    economy.labels = (economy.bank.codes[:, 0] >= 3).astype(float)
    model, _, steps = train_plain(economy, Settings(max_iterations=5))
    assert np.isfinite(model.scores()).all()
    assert steps[-1].train_loss < 0.1


def test_a_repeated_direction_does_no_harm():
    economy = Economy(4)
    model = LabelHolderModel(economy.labels, economy.weights, economy.bank, economy.training, Settings())
    scores = economy.holders[0].codes[economy.rows, 0].astype(float)
    model.solve()
    model.add_direction(scores, np.array([1.0]))
    first = model.solve()
    model.add_direction(scores, np.array([1.0, 1.0]))
    assert model.solve().objective == pytest.approx(first.objective, abs=1e-9)


def test_the_residual_is_zero_on_held_out_customers_and_bounded_by_the_weights():
    model, _, _ = train_plain(Economy(), Settings(max_iterations=2))
    economy = Economy()
    residual = model.residual()
    assert (residual[~economy.training] == 0).all()
    assert (np.abs(residual) <= economy.weights).all()


def test_training_stops_at_the_contracts_iteration_limit():
    _, _, steps = train_plain(Economy(), Settings(max_iterations=3, tolerance=0.0))
    assert (len(steps), steps[-1].reason, len(steps[-1].coefficients)) == (4, "iteration limit", 3)


def test_early_stopping_goes_back_to_the_lowest_held_out_loss():
    # So little ridge that the pooled optimum overfits these few customers.
    economy = Economy(seed=4, universe=400, customers=160)
    model, blocks, steps = train_plain(economy, Settings(ridge=1e-3, patience=3))
    losses = [step.holdout_loss for step in steps[:-1]]
    assert (steps[-1].reason, len(steps[-1].coefficients)) == ("held-out loss", len(steps) - 1)
    assert steps[-1].holdout_loss == pytest.approx(min(losses))
    assert steps[-1].holdout_loss < losses[-1]
    pooled = model.own_weights[economy.bank.codes].sum(axis=1) + model.intercept
    for block, design in zip(blocks, economy.holders, strict=True):
        pooled += block.weights[design.codes[economy.rows]].sum(axis=1)
    np.testing.assert_allclose(pooled, model.scores(), atol=1e-9)


def test_without_held_out_customers_there_is_no_held_out_loss():
    economy = Economy()
    everyone = np.ones(len(economy.labels), dtype=bool)
    model = LabelHolderModel(economy.labels, economy.weights, economy.bank, everyone, Settings())
    assert model.solve().holdout_loss is None


def test_products_with_the_one_hot_matrix_equal_the_dense_ones():
    design = Economy().holders[0]
    dense = np.zeros((len(design.codes), design.width))
    np.put_along_axis(dense, design.codes.astype(np.int64), 1, axis=1)
    rng = np.random.default_rng(0)
    matrix, rows, weights = OneHotMatrix(design.codes, design.width), rng.random(len(dense)), rng.random(20)
    assert matrix.times(weights) == pytest.approx(dense @ weights)
    assert matrix.transposed_times(rows) == pytest.approx(dense.T @ rows)
    assert matrix.gram(rows) == pytest.approx((dense.T * rows) @ dense)


def test_the_cone_basis_reaches_exactly_the_weights_in_order():
    cone = monotone_cone(Economy(monotone="decreasing").holders[0])
    falling = np.tile([2.0, 1.0, 0.0, 0.0, -3.0], 4)
    assert (np.linalg.solve(cone.basis, falling)[cone.nonnegative] >= -1e-12).all()
    assert (np.linalg.solve(cone.basis, -falling)[cone.nonnegative] < 0).any()


def test_what_the_other_side_sends_is_checked():
    economy = Economy()
    block = HolderBlock(economy.holders[0], np.ones(20), Settings())
    model = LabelHolderModel(economy.labels, economy.weights, economy.bank, economy.training, Settings())
    with pytest.raises(ProtocolError):
        block.combine(np.ones(1))
    with pytest.raises(ProtocolError):
        block.direction(np.full(20, np.nan))
    with pytest.raises(ProtocolError):
        model.add_direction(np.ones(3), np.ones(1))
    in_cone = HolderBlock(economy.holders[0], np.ones(20), Settings(), cone=True)
    in_cone.direction(np.ones(20))
    with pytest.raises(ProtocolError, match="cone"):
        in_cone.combine(np.array([-1.0]))


def test_a_monotone_column_outside_a_cone_run_is_refused():
    with pytest.raises(ParameterError, match="cone"):
        HolderBlock(Economy(monotone="increasing").holders[0], np.ones(20), Settings())


def test_a_penalty_without_ridge_is_refused():
    with pytest.raises(ParameterError, match="ridge"):
        penalty_matrix(Economy().bank, Settings(ridge=0.0))


@pytest.mark.parametrize("wrong", [1.0, -1.0, np.nan, np.inf])
def test_labels_whose_mean_is_no_default_rate_are_refused(wrong):
    economy = Economy()
    with pytest.raises(DataError):
        LabelHolderModel(economy.labels + wrong, economy.weights, economy.bank, economy.training, Settings())
