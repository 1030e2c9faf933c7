"""What banks say to one another to add up, and every party at the end of training."""

from __future__ import annotations

from .entry import NOTHING, SIZES, Leak

__all__ = ["ENTRIES"]


ENTRIES: tuple[Leak, ...] = (
    Leak(
        message="SumKeys",
        fields=("purpose", "key", "key_share", "self_share"),
        phase="",
        sender="label_holder",
        recipient="label_holder",
        sealed=True,
        feature_holder=NOTHING,
        label_holder="nothing by itself: a share of two random secrets",
        coordinator="the number of sums",
        auditor=SIZES,
        needed="the sum of those who are left when a bank is lost",
        agreed="recover",
    ),
    Leak(
        message="MaskedVector",
        fields=("words", "lost"),
        phase="",
        sender="label_holder",
        recipient="label_holder",
        sealed=True,
        feature_holder=NOTHING,
        label_holder="nothing by itself: the leading bank learns the sum over all banks, which with two banks "
        "is the other's vector",
        coordinator="the length of the vector and the number of sums, from the size",
        auditor=SIZES,
        needed="what all banks have together, without what any of them has",
    ),
    Leak(
        message="SumOutcome",
        fields=("lost", "again"),
        phase="",
        sender="label_holder",
        recipient="label_holder",
        sealed=True,
        feature_holder=NOTHING,
        label_holder="whose vectors have come to the leading bank",
        coordinator="that a bank was lost, from the size",
        auditor=SIZES,
        needed="all banks hand over shares for the same sum",
        agreed="recover",
    ),
    Leak(
        message="SumShares",
        fields=("shares",),
        phase="",
        sender="label_holder",
        recipient="label_holder",
        sealed=True,
        feature_holder=NOTHING,
        label_holder="the leading bank alone, from the shares of enough banks: what it takes off the sum, which leaves every "
        "vector under masks",
        coordinator=NOTHING,
        auditor=SIZES,
        needed="the masks of the sum come off, those of a lost bank included",
        agreed="recover",
    ),
    Leak(
        message="BankTotal",
        fields=("words", "lost"),
        phase="",
        sender="label_holder",
        recipient="label_holder",
        sealed=True,
        feature_holder=NOTHING,
        label_holder="the sum over all banks, which with two banks is the other's vector",
        coordinator="the length of the vector and the number of sums, from the size",
        auditor=SIZES,
        needed="every bank goes on with the same total",
    ),
    Leak(
        message="ModelCommitment",
        fields=("commitment", "metrics"),
        phase="evaluate",
        sender="party",
        recipient="party",
        sealed=True,
        feature_holder="where the contract shows metrics: the bank's metrics, which are in the audit log too",
        label_holder="nothing: a commitment hides what it is to",
        coordinator=NOTHING,
        auditor="that all parties pinned down the same model; the metrics where the contract shows them",
        needed="nobody can keep another model than the one that all announced",
    ),
)
