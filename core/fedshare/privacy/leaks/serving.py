"""What holders and banks say to one another where a model is used."""

from __future__ import annotations

from .entry import SENT, SIZES, Leak

__all__ = ["ENTRIES"]


ENTRIES: tuple[Leak, ...] = (
    Leak(
        message="ScoreColumn",
        fields=("tags", "values", "groups"),
        phase="publish, serve",
        sender="feature_holder",
        recipient="label_holder",
        sealed=True,
        feature_holder=SENT,
        label_holder="the size of the holder's universe, and between two columns of a run how many enterprises came "
        "and went; for enterprises whose row keys it asked for: the sum over all holders of the scores, and how it "
        "changes from column to column; of the reason groups that the contract names, each holder's own points",
        coordinator="the size of the universe, and when scores are refreshed",
        auditor=SIZES,
        needed="scores, and the reasons for them where the contract wants reasons",
    ),
    Leak(
        message="KeysRefused",
        fields=("code", "left"),
        phase="serve",
        sender="feature_holder",
        recipient="label_holder",
        sealed=True,
        feature_holder=SENT,
        label_holder="that its quota of scoring is used up, or the contract over",
        coordinator="that an answer was short",
        auditor=SIZES,
        needed="the bank says why there is no score",
    ),
    Leak(
        message="ProfileRequest",
        fields=("consent",),
        phase="serve",
        sender="label_holder",
        recipient="feature_holder",
        sealed=True,
        feature_holder="which enterprise consented to this bank's seeing a profile of it: it is named",
        label_holder=SENT,
        coordinator="that a bank asks for a profile, not whose",
        auditor=SIZES,
        needed="each holder checks the consent itself before it shows anything",
        agreed="profile",
    ),
    Leak(
        message="Profile",
        fields=(
            "refusal",
            "known",
            "columns_with_value",
            "columns",
            "band",
            "reasons",
            "as_of",
            "valid_until",
        ),
        phase="serve",
        sender="feature_holder",
        recipient="label_holder",
        sealed=True,
        feature_holder=SENT,
        label_holder="of an enterprise that consented, and of this holder alone: whether it knows it, and, where the "
        "contract says so, how many of its columns have a value, in which fifth of its universe the partial score "
        "lies, which reason groups stand below neutral; when the holder read its rows",
        coordinator="that a holder answers",
        auditor=SIZES,
        needed="the profile that the enterprise agreed to",
        agreed="profile",
    ),
    Leak(
        message="ConsentWithdrawn",
        fields=("withdrawal",),
        phase="serve",
        sender="label_holder",
        recipient="feature_holder",
        sealed=True,
        feature_holder="which enterprise took its consent back: it is named, and enters no training under the contract "
        "from then on",
        label_holder=SENT,
        coordinator="that a short message was sent",
        auditor=SIZES,
        needed="a withdrawal ends it at once, at every holder",
        agreed="profile",
    ),
)
