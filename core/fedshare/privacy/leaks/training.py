"""What holders and banks say to one another in training."""

from __future__ import annotations

from .entry import NOTHING, SENT, SIZES, Leak

__all__ = ["ENTRIES"]


ENTRIES: tuple[Leak, ...] = (
    Leak(
        message="SecretOffers",
        fields=("offers",),
        phase="prepare",
        sender="label_holder",
        recipient="feature_holder",
        sealed=True,
        feature_holder="nothing: the number of queries is in the contract",
        label_holder=SENT,
        coordinator=NOTHING,
        auditor=SIZES,
        needed="one-time secrets for every query to come",
    ),
    Leak(
        message="SecretAnswer",
        fields=("answer",),
        phase="prepare",
        sender="feature_holder",
        recipient="label_holder",
        sealed=True,
        feature_holder=SENT,
        label_holder="the number of the holder's bins",
        coordinator="the number of the holder's bins, from the size",
        auditor=SIZES,
        needed="masks under which a query opens at the holder only",
    ),
    Leak(
        message="CountQuery",
        fields=("ciphertext", "share"),
        phase="prepare",
        sender="label_holder",
        recipient="feature_holder",
        sealed=True,
        feature_holder="training customers in each of its bins, small numbers included: a count of 0 says that no "
        "enterprise of the bin is one, a count of all its rows that all are",
        label_holder=SENT,
        coordinator="size of the universe and number of bins, from the size",
        auditor=SIZES,
        needed="bins below the minimum cohort are merged before any outcome is used",
    ),
    Leak(
        message="SealedProduct",
        fields=("ciphertext", "share", "coefficients", "stop"),
        phase="train",
        sender="label_holder",
        recipient="feature_holder",
        sealed=True,
        feature_holder="sums of the training customers' residuals over each of its bins; how the bank weighs "
        "the directions of all holders together; when training ends",
        label_holder=SENT,
        coordinator="the number of iterations, and that training ended, from the size",
        auditor="number and size of the envelopes, with them the number of iterations",
        needed="the gradient of the holder's weights",
    ),
    Leak(
        message="SealedColumn",
        fields=("values", "penalty"),
        phase="train",
        sender="feature_holder",
        recipient="label_holder",
        sealed=True,
        feature_holder=SENT,
        label_holder="for its own customers, the sum over all holders of the partial scores along one "
        "direction, equal for customers in equal bins; the sum over all holders of the penalty",
        coordinator="the number of iterations",
        auditor="number and size of the envelopes, with them the number of iterations",
        needed="scores of the bank's customers, from which it finds the next residual",
    ),
    Leak(
        message="SharedBins",
        fields=("bins",),
        phase="prepare",
        sender="label_holder",
        recipient="label_holder",
        sealed=True,
        feature_holder=NOTHING,
        label_holder="which bins the leading bank merged: where the other banks together have fewer training "
        "customers than the minimum cohort",
        coordinator="the size of the list",
        auditor=SIZES,
        needed="no bin of the shared sub-model shows the leading bank a few customers of the others",
    ),
    Leak(
        message="SharedPoint",
        fields=("point", "settled", "stop", "reason", "train_loss", "holdout_loss"),
        phase="train",
        sender="label_holder",
        recipient="label_holder",
        sealed=True,
        feature_holder=NOTHING,
        label_holder="the shared model so far and its mean loss over all banks, rounded; the leading bank learns from the "
        "answers the losses and gradients over all banks, over bins of at least the minimum cohort",
        coordinator="the number of evaluations",
        auditor=SIZES,
        needed="the minimum over all banks' customers without any of them",
    ),
)
