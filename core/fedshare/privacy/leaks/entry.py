"""One entry of the leak ledger, and the words that many entries share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from fedshare.contract.model import Contract

__all__ = ["NOTHING", "SENT", "SIZES", "Leak", "Speaker"]

Speaker = Literal["feature_holder", "label_holder", "coordinator", "party"]

NOTHING = "nothing"
SENT = "nothing: sends it"
SIZES = "number and size of the envelopes"


@dataclass(frozen=True, slots=True)
class Leak:
    """What one message gives away beyond what its reader knew before.

    Attributes:
        message: its name in ``protos/``, or the class that carries it in a Flower message.
        fields: every field of it, by name.
        phase: of the run; empty if it is not tied to one.
        sender: the role that sends it; ``party`` is either kind of institution.
        recipient: the role that it is for.
        sealed: whether it travels in envelopes only, which the coordinator cannot open.
        feature_holder: what feature holders learn.
        label_holder: what the bank learns.
        coordinator: what the coordinator learns.
        auditor: what a reader of the audit log learns, which states sizes and digests of envelopes.
        needed: why it is sent.
        agreed: the term of the contract without which it is not sent; empty if none but its roles and phase decide.
    """

    message: str
    fields: tuple[str, ...]
    phase: str
    sender: Speaker
    recipient: Speaker
    sealed: bool
    feature_holder: str
    label_holder: str
    coordinator: str
    auditor: str
    needed: str
    agreed: Literal["", "profile", "count_shared_customers", "drop_shared_customers", "recover"] = ""

    def occurs(self, contract: Contract) -> bool:
        """Whether a run under ``contract`` may hold this message."""
        pair, scoring = {self.sender, self.recipient}, contract.scoring
        serves_only = set(self.phase.split(", ")) <= {"publish", "serve"}
        missing = (
            "feature_holder" in pair and not contract.holders(),
            pair == {"label_holder"} and len(contract.banks()) == 1,
            serves_only and scoring is None,
            self.agreed == "profile" and (scoring is None or scoring.profile is None),
            self.agreed == "count_shared_customers" and not contract.between_banks.count_shared_customers,
            self.agreed == "recover" and contract.between_banks.lost_bank != "recover",
            self.agreed == "drop_shared_customers" and not contract.between_banks.drop_shared_customers,
        )
        return not any(missing)
