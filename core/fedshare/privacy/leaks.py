"""The leak ledger: what each role learns from everything that crosses the federation, and why it is needed.

One entry for every payload message of ``protos/fedshare/wire/v1/payload.proto``, which travel sealed, and for
everything that the coordinator can read. An entry lists the fields of its message: a test walks the
definitions and fails if a message or a field is missing here, so nothing is added to the protocol without
saying what it gives away.

``summarise`` says what follows for one contract, in numbers, before anyone signs it. What parties may learn
by combining what they see is in ``docs/protocol.md``, "What follows from the messages".
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fedshare.identity.keys import fingerprint

if TYPE_CHECKING:
    from fedshare.contract.model import Contract, Party
    from fedshare.contract.network import NetworkModel
    from fedshare.contract.privacy import NetworkPrivacy

__all__ = [
    "LEDGER",
    "MAX_POINTS",
    "Leak",
    "Speaker",
    "bins_at_most",
    "columns_at_most",
    "summarise",
    "sums_at_most",
]

Speaker = Literal["feature_holder", "label_holder", "coordinator", "party"]


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


_NOTHING = "nothing"
_SENT = "nothing: sends it"
_SIZES = "number and size of the envelopes"
_SUMS = (
    "in every run first how many training customers are in each of its bins, small numbers included (0: no "
    "enterprise of the bin is one; as many as the bin has rows: all are), then sums of their residuals over bins of at least"
)
_HELD_OUT = (
    "how many banks have the minimum cohort of held-out customers in each range of scores; customers and outcomes over "
    "groups of scores in which two banks at least have it: if all of the others' outcomes in one are equal, each of them"
)
_EQUATIONS = (
    "where its columns alone nearly determine the score, it could set up and solve equations for who is a "
    "customer"
)
_TRAFFIC = (
    "which message goes from whom to whom, when, and its size; with that the sizes of universes, the number "
    "of identifiers asked for, the numbers of bins and of iterations"
)

LEDGER: tuple[Leak, ...] = (
    Leak(
        message="Hello",
        fields=("party", "contract_digest", "run_id", "ephemeral_key", "nonce", "model"),
        phase="hello",
        sender="party",
        recipient="party",
        sealed=False,
        feature_holder="who takes part in the run, under which key for this run, and which model it serves",
        label_holder="who takes part in the run, under which key for this run, and which model it serves",
        coordinator="who takes part in the run, and which model it serves; it is public and signed",
        auditor=_NOTHING,
        needed="keys between the parties that the coordinator cannot replace, and one model for all of them",
    ),
    Leak(
        message="BlindedIdentifiers",
        fields=("elements",),
        phase="align, serve",
        sender="label_holder",
        recipient="feature_holder",
        sealed=True,
        feature_holder="how many identifiers the bank asks for, and in serving when, not which",
        label_holder=_SENT,
        coordinator="the same, from size and time",
        auditor=_SIZES,
        needed="row keys of the bank's customers without naming them",
    ),
    Leak(
        message="EvaluatedIdentifiers",
        fields=("elements",),
        phase="align, serve",
        sender="feature_holder",
        recipient="label_holder",
        sealed=True,
        feature_holder=_SENT,
        label_holder="the row keys of the identifiers it asked for, whether or not they are its customers",
        coordinator="the number of identifiers asked for, from the size",
        auditor=_SIZES,
        needed="the bank opens the rows of its customers and no others",
    ),
    Leak(
        message="RowTags",
        fields=("tags",),
        phase="align",
        sender="feature_holder",
        recipient="label_holder",
        sealed=True,
        feature_holder=_SENT,
        label_holder="the size of the holder's universe, and which of the identifiers it asked for are in it",
        coordinator="the size of the universe, from the size",
        auditor=_SIZES,
        needed="the bank finds its customers' rows by itself",
    ),
    Leak(
        message="CustomerElements",
        fields=("elements",),
        phase="align",
        sender="label_holder",
        recipient="label_holder",
        sealed=True,
        feature_holder=_NOTHING,
        label_holder="between which two powers of two the number of the bank's customers lies",
        coordinator="the same, from the size",
        auditor=_SIZES,
        needed="a customer of two banks counts once per bank: how many there are",
        agreed="count_shared_customers",
    ),
    Leak(
        message="CustomerAnswer",
        fields=("again", "elements", "cap"),
        phase="align",
        sender="label_holder",
        recipient="label_holder",
        sealed=True,
        feature_holder=_NOTHING,
        label_holder="the same of the answering bank; the earlier bank's node can count, once per contract, exactly how many "
        "customers both have, not which, and shows a band",
        coordinator="the same, from the size",
        auditor=_SIZES,
        needed="as CustomerElements",
        agreed="count_shared_customers",
    ),
    Leak(
        message="SharedCustomers",
        fields=("at_least", "below"),
        phase="align",
        sender="label_holder",
        recipient="label_holder",
        sealed=True,
        feature_holder=_NOTHING,
        label_holder="between which two multiples of the minimum cohort the number of customers that both have lies, not "
        "which; only that there are many where they come near either bank's number",
        coordinator=_NOTHING,
        auditor=_SIZES,
        needed="both banks report the same band",
        agreed="count_shared_customers",
    ),
    Leak(
        message="DropOffer",
        fields=("transfer", "elements", "list"),
        phase="align",
        sender="label_holder",
        recipient="label_holder",
        sealed=True,
        feature_holder=_NOTHING,
        label_holder="between which two powers of two the number of the first bank's customers lies, and that they are those "
        "of earlier runs",
        coordinator="the same number, from the size",
        auditor=_SIZES,
        needed="a customer of both banks counts once: what the other bank drops stays hidden from both",
        agreed="drop_shared_customers",
    ),
    Leak(
        message="DropAnswer",
        fields=("transfers", "again", "elements"),
        phase="align",
        sender="label_holder",
        recipient="label_holder",
        sealed=True,
        feature_holder=_NOTHING,
        label_holder="the first bank's node: how many training customers of the other bank may be dropped, and of how many "
        "of them it has too, exactly, not which",
        coordinator="how many training customers of the other bank may be dropped, from the size",
        auditor=_SIZES,
        needed="as DropOffer",
        agreed="drop_shared_customers",
    ),
    Leak(
        message="DropChoice",
        fields=("columns",),
        phase="align",
        sender="label_holder",
        recipient="label_holder",
        sealed=True,
        feature_holder=_NOTHING,
        label_holder=_NOTHING,
        coordinator="the same again, from the size",
        auditor=_SIZES,
        needed="as DropOffer",
        agreed="drop_shared_customers",
    ),
    Leak(
        message="DropProduct",
        fields=("words",),
        phase="prepare, train",
        sender="label_holder",
        recipient="label_holder",
        sealed=True,
        feature_holder=_NOTHING,
        label_holder="nothing by itself: shares that only open in sums over both banks",
        coordinator="the number of sums, from the size",
        auditor=_SIZES,
        needed="sums over the training customers of both banks without those that the other bank shares",
        agreed="drop_shared_customers",
    ),
    Leak(
        message="SecretOffers",
        fields=("offers",),
        phase="prepare",
        sender="label_holder",
        recipient="feature_holder",
        sealed=True,
        feature_holder="nothing: the number of queries is in the contract",
        label_holder=_SENT,
        coordinator=_NOTHING,
        auditor=_SIZES,
        needed="one-time secrets for every query to come",
    ),
    Leak(
        message="SecretAnswer",
        fields=("answer",),
        phase="prepare",
        sender="feature_holder",
        recipient="label_holder",
        sealed=True,
        feature_holder=_SENT,
        label_holder="the number of the holder's bins",
        coordinator="the number of the holder's bins, from the size",
        auditor=_SIZES,
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
        label_holder=_SENT,
        coordinator="size of the universe and number of bins, from the size",
        auditor=_SIZES,
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
        label_holder=_SENT,
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
        feature_holder=_SENT,
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
        feature_holder=_NOTHING,
        label_holder="which bins the leading bank merged: where the other banks together have fewer training "
        "customers than the minimum cohort",
        coordinator="the size of the list",
        auditor=_SIZES,
        needed="no bin of the shared sub-model shows the leading bank a few customers of the others",
    ),
    Leak(
        message="SharedPoint",
        fields=("point", "settled", "stop", "reason", "train_loss", "holdout_loss"),
        phase="train",
        sender="label_holder",
        recipient="label_holder",
        sealed=True,
        feature_holder=_NOTHING,
        label_holder="the shared model so far and its mean loss over all banks; the leading bank learns from the "
        "answers the losses and gradients over all banks, over bins of at least the minimum cohort",
        coordinator="the number of evaluations",
        auditor=_SIZES,
        needed="the minimum over all banks' customers without any of them",
    ),
    Leak(
        message="SumKeys",
        fields=("purpose", "key", "key_share", "self_share"),
        phase="",
        sender="label_holder",
        recipient="label_holder",
        sealed=True,
        feature_holder=_NOTHING,
        label_holder="nothing by itself: a share of two random secrets",
        coordinator="the number of sums",
        auditor=_SIZES,
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
        feature_holder=_NOTHING,
        label_holder="nothing by itself: the leading bank learns the sum over all banks, which with two banks "
        "is the other's vector",
        coordinator="the length of the vector and the number of sums, from the size",
        auditor=_SIZES,
        needed="what all banks have together, without what any of them has",
    ),
    Leak(
        message="SumOutcome",
        fields=("lost", "again"),
        phase="",
        sender="label_holder",
        recipient="label_holder",
        sealed=True,
        feature_holder=_NOTHING,
        label_holder="whose vectors have come to the leading bank",
        coordinator="that a bank was lost, from the size",
        auditor=_SIZES,
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
        feature_holder=_NOTHING,
        label_holder="the leading bank alone, from the shares of enough banks: what it takes off the sum, which leaves every "
        "vector under masks",
        coordinator=_NOTHING,
        auditor=_SIZES,
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
        feature_holder=_NOTHING,
        label_holder="the sum over all banks, which with two banks is the other's vector",
        coordinator="the length of the vector and the number of sums, from the size",
        auditor=_SIZES,
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
        coordinator=_NOTHING,
        auditor="that all parties pinned down the same model; the metrics where the contract shows them",
        needed="nobody can keep another model than the one that all announced",
    ),
    Leak(
        message="ScoreColumn",
        fields=("tags", "values", "groups"),
        phase="publish, serve",
        sender="feature_holder",
        recipient="label_holder",
        sealed=True,
        feature_holder=_SENT,
        label_holder="the size of the holder's universe, and between two columns of a run how many enterprises came "
        "and went; for enterprises whose row keys it asked for: the sum over all holders of the scores, and how it "
        "changes from column to column; of the reason groups that the contract names, each holder's own points",
        coordinator="the size of the universe, and when scores are refreshed",
        auditor=_SIZES,
        needed="scores, and the reasons for them where the contract wants reasons",
    ),
    Leak(
        message="KeysRefused",
        fields=("code", "left"),
        phase="serve",
        sender="feature_holder",
        recipient="label_holder",
        sealed=True,
        feature_holder=_SENT,
        label_holder="that its quota of scoring is used up, or the contract over",
        coordinator="that an answer was short",
        auditor=_SIZES,
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
        label_holder=_SENT,
        coordinator="that a bank asks for a profile, not whose",
        auditor=_SIZES,
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
        feature_holder=_SENT,
        label_holder="of an enterprise that consented, and of this holder alone: whether it knows it, and, where the "
        "contract says so, how many of its columns have a value, in which fifth of its universe the partial score "
        "lies, which reason groups stand below neutral; when the holder read its rows",
        coordinator="that a holder answers",
        auditor=_SIZES,
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
        label_holder=_SENT,
        coordinator="that a short message was sent",
        auditor=_SIZES,
        needed="a withdrawal ends it at once, at every holder",
        agreed="profile",
    ),
    Leak(
        message="Envelope",
        fields=("run_id", "phase", "step", "sender", "recipient", "sequence", "last", "ciphertext"),
        phase="",
        sender="party",
        recipient="coordinator",
        sealed=False,
        feature_holder=_NOTHING,
        label_holder=_NOTHING,
        coordinator="which message goes from whom to whom, when, and its size; not its content",
        auditor="per phase and pair of parties: number, size and a digest of the envelopes",
        needed="delivery",
    ),
    Leak(
        message="Open",
        fields=("run_id", "instance", "received", "retained"),
        phase="",
        sender="party",
        recipient="coordinator",
        sealed=False,
        feature_holder=_NOTHING,
        label_holder=_NOTHING,
        coordinator="how far a party's messages have come, and whether its process was restarted",
        auditor=_NOTHING,
        needed="connections resume where they were cut",
    ),
    Leak(
        message="Ack",
        fields=("peer", "next_sequence"),
        phase="",
        sender="party",
        recipient="coordinator",
        sealed=False,
        feature_holder=_NOTHING,
        label_holder=_NOTHING,
        coordinator="how fast a party takes its messages",
        auditor=_NOTHING,
        needed="the coordinator forgets what has arrived",
    ),
    Leak(
        message="Reply",
        fields=("status", "code", "reason", "party", "hello", "metrics"),
        phase="",
        sender="party",
        recipient="coordinator",
        sealed=False,
        feature_holder="why a run ended, if another party ended it",
        label_holder="why a run ended, if another party ended it",
        coordinator="whether a party went through a phase, or why not, without data; where the contract "
        "shows metrics: iterations, AUC and KS of the shared and of the bank's own model",
        auditor="outcome of phases and runs, refusals, metrics that the contract lets out",
        needed="the run goes from phase to phase, and a failure names its cause",
    ),
    Leak(
        message="ReportProgressRequest",
        fields=("run_id", "phase", "iteration", "seconds", "bytes_sent", "bytes_received", "loss"),
        phase="",
        sender="party",
        recipient="coordinator",
        sealed=False,
        feature_holder=_NOTHING,
        label_holder=_NOTHING,
        coordinator="how far a party is and how long it takes; where the contract shows metrics: the "
        "training loss after each iteration",
        auditor=_NOTHING,
        needed="the operator sees that a run moves",
    ),
    Leak(
        message="SubmitEntriesRequest",
        fields=("entries",),
        phase="",
        sender="party",
        recipient="coordinator",
        sealed=False,
        feature_holder="what the auditor learns: the log is public",
        label_holder="what the auditor learns: the log is public",
        coordinator="what the auditor learns: the log is public",
        auditor="who takes part with which keys, decisions about contracts, number, size and digest of the "
        "envelopes of a phase, commitments to models and private logs, privacy spent, refusals with their reason, "
        "how many applicants were scored",
        needed="everything that happened can be checked afterwards without trusting the coordinator",
    ),
    Leak(
        message="GetOpeningRequest",
        fields=("run_id", "phase", "seen_size"),
        phase="",
        sender="party",
        recipient="coordinator",
        sealed=False,
        feature_holder=_NOTHING,
        label_holder=_NOTHING,
        coordinator="how much of the audit log a party has seen",
        auditor=_NOTHING,
        needed="no phase begins before the witnesses have seen that it does",
    ),
    Leak(
        message="WitnessAnswer",
        fields=("status", "body"),
        phase="",
        sender="party",
        recipient="coordinator",
        sealed=False,
        feature_holder=_NOTHING,
        label_holder=_NOTHING,
        coordinator="when a party's node is online, and how much of the audit log its witness has seen",
        auditor="when each witness saw the log",
        needed="the coordinator cannot show two parties two logs",
    ),
    Leak(
        message="ReportFailureRequest",
        fields=("run_id", "code", "reason"),
        phase="",
        sender="party",
        recipient="coordinator",
        sealed=False,
        feature_holder="why a run ended, if another party ended it",
        label_holder="why a run ended, if another party ended it",
        coordinator="why a party cannot go on, in a sentence without data",
        auditor="the code, if the party logs a refusal",
        needed="no party waits for one that has stopped",
    ),
)
"""In the order of a run; what the coordinator can read comes last."""


MAX_POINTS = 200
"""Points at which the leading bank may ask the others for the loss, in one iteration."""


def bins_at_most(party: Party) -> int:
    """Return the most bins that a party's columns are cut into, with one each for missing values."""
    return sum(column.bins + 1 for column in party.columns)


def sums_at_most(contract: Contract, holder: Party) -> int:
    """Return the most sums over customers that a holder is shown: its bins times the queries of every run."""
    return bins_at_most(holder) * (contract.model.max_iterations + 1) * contract.max_runs


def summarise(contract: Contract) -> str:
    """Return who learns what under ``contract``, as plain text to read before signing.

    Lines have 100 characters at most. Every number is an upper bound for all runs together.
    """
    runs = f"{contract.max_runs} run{'s' if contract.max_runs > 1 else ''}"
    parts = [f"What {runs} of contract {contract.name} ({contract.digest()[:12]}) tell each party, at most"]
    parts += [
        _section(f"{party.id} (feature_holder)", _holder_learns(contract, party))
        for party in contract.holders()
    ]
    parts += [_section(f"{party.id} (label_holder)", _bank_learns(contract)) for party in contract.banks()]
    parts.append(_section("the coordinator", _coordinator_learns(contract)))
    parts.append(
        _section(
            "an auditor with a copy of the log",
            [
                "this contract, who approved it, when runs and phases began and how they ended",
                "per phase and pair of parties the number and size of the messages, and a digest of them",
                "that all parties pinned down the same model"
                + ("; its metrics" if contract.outputs.coordinator_metrics else ""),
            ],
        )
    )
    parts.append("Message by message")
    parts += [_message(leak) for leak in LEDGER if leak.occurs(contract)]
    parts.append(
        _section(
            "Before you sign, compare these fingerprints with each institution, not through the coordinator",
            [f"{party.id}: {fingerprint(party.identity_key_bytes())}" for party in contract.parties],
        )
    )
    return "\n\n".join(parts) + "\n"


def _holder_learns(contract: Contract, holder: Party) -> list[str]:
    bins, queries = bins_at_most(holder), contract.model.max_iterations + 1
    sums, cohort = sums_at_most(contract, holder), contract.minimum_cohort
    counted = f"{bins:,} bins x {queries:,} queries x {contract.max_runs:,} runs = {sums:,} sums"
    return [
        f"how many identifiers each bank asks for, {contract.alignment.quota:,} or fewer, and not which",
        f"{counted} over all banks: {_SUMS} {cohort:,}",
        _differences(contract),
        f"if its universe has fewer than {sums:,} rows: {_EQUATIONS}",
        "how the bank weighs the directions of all holders together",
        *_label_noise(contract),
        *_scoring_shows_holder(contract),
    ]


def _differences(contract: Contract) -> str:
    """Return what runs say beside one another, to whoever sees sums over customers."""
    return (
        "by comparing runs, of any contract, sums over customers that came, left or have another outcome: of a bank over "
        f"{contract.minimum_cohort:,} or more together, which may be few in a single bin; if instead columns changed, what "
        "that moved between bins"
    )


def _label_noise(contract: Contract) -> list[str]:
    """Return what randomised response takes away from the sums."""
    epsilon = contract.label_epsilon()
    if epsilon is None:
        return []
    reach = "over all runs of this contract and of others with the same epsilon, within one label epoch"
    return [f"nothing of one outcome beyond label privacy of epsilon {epsilon:g}, {reach}"]


def _banks_learn(contract: Contract) -> list[str]:
    """Return what banks learn of one another; the first of them leads."""
    banks = contract.banks()
    if len(banks) == 1:
        return []
    if contract.privacy.network:
        return _private_banks_learn(contract.privacy.network, contract.max_runs)
    points = MAX_POINTS * (contract.model.max_iterations + 1)
    coarse, fine = (
        "customers of all banks in cells of its columns, each a factor of four wide",
        "in ranges with many customers 1/128 of the value",
    )
    leads = (
        f"{banks[0].id} only, which leads: training customers of all banks per bin and their weights and defaults in all; the "
        "loss and the gradient"
    )
    at = f"over all banks at {points:,} points at most, over bins with the minimum cohort of the others' customers"
    lines = [
        f"{coarse}, {fine}; small numbers included, not who",
        _differences(contract),
        f"{leads} {at}",
        _HELD_OUT,
    ]
    if contract.bank_model:
        lines.append(_network_updates(contract, contract.bank_model))
    if not contract.holders():
        lines = [line for line in lines if not line.startswith(leads)]  # nobody leads a search
    if contract.between_banks.count_shared_customers:
        lines.append(
            f"of each: about how many customers it shares with this bank, in steps of {contract.minimum_cohort:,} and once for "
            "all runs (exactly, at the node of the earlier of two banks), and how many it has to a factor of two"
        )
    if contract.between_banks.drop_shared_customers:
        lines += _dropping_shows(*(bank.id for bank in banks))
    if contract.between_banks.lost_bank != "end":
        lines.append(
            "of a bank that is lost: the weight of its customers, and about its last update and losses, from the sums before "
            "and after"
        )
    return [*lines, _banks_hide(contract)]


def _banks_hide(contract: Contract) -> str:
    """Return who together would see one bank's part of a sum."""
    banks = len(contract.banks())
    if banks == 2:
        return "by subtracting its own part, all of this of the other bank alone: accepted by accept_two"
    if contract.between_banks.lost_bank == "end":
        return f"of another bank alone only if all others help: {banks} banks hide each other"
    if contract.between_banks.lost_bank == "repeat":
        return (
            "of another bank alone only if all others that are left help, or if the first bank and the coordinator do not keep "
            f"to the protocol: {banks} banks, {contract.fewest_banks()} at least, hide each other"
        )
    from fedshare.sealed.recovery import threshold  # noqa: PLC0415 - the ledger itself needs no NumPy

    return (
        f"of another bank alone only if {threshold(banks)} of {banks} banks put together what they have, the first one among "
        "them; after a loss, more than half of those that are left"
    )


def _dropping_shows(first: str, second: str) -> list[str]:
    """Return what two banks learn where the second one drops the customers that both have, and what it costs that one."""
    together = (
        f"by comparing runs, nobody whom {second} drops, for all stay together: who of {second} may be dropped has to take "
        f"part, with the same outcome and noise, in every later run of {second} under any contract, and who {first} had in "
        "every later one that drops; without them none begins"
    )
    merged = (
        f"{second} only: from bins that {first} merged though it has the minimum cohort there, that it shares some of them, "
        "nearly all if few; from other bins, how many at most; from contracts with other cohorts, about how many"
    )
    beside = (
        f"beside a run of {first} and {second} that drops nobody: {second}, whether anyone is dropped, from the models; "
        f"{first} and holders, how many per bin of theirs, which where it is none or all says it of each"
    )
    return [
        f"{first} only: how many training customers of {second} it has too, exactly in its node's memory, not which",
        merged,
        beside,
        together,
    ]


def _portfolio_shows(contract: Contract) -> list[str]:
    """Return what every bank learns of the portfolio of all banks."""
    agreed = contract.portfolio
    if agreed is None:
        return []
    cells = len(agreed.cells("industry")) + len(agreed.cells("region"))
    cohort, everyone = f"{contract.minimum_cohort:,}", "of all banks together"
    changes = "small numbers included, and how many changed since each earlier run"
    amounts = f"exposure and expected loss of {cohort} customers or more at a time"
    return [
        f"{everyone}: customers in each of {cells:,} cells by industry or region, {changes}",
        f"{everyone}: {amounts}, and how they changed since an earlier run if {cohort} or more customers did",
        f"by subtracting its own part: the same of all others, again of {cohort} customers or more",
        f"{everyone}: which of these cells some bank objects to show, for lack of customers of the others",
        "of such an amount one large customer may be the most: then it shows about what that one owes",
        "the tables by industry and by region each keep this by themselves, not against one another",
        "of a bank that joins or leaves, by comparing with a contract without it: its own part of these sums",
    ]


def _network_updates(contract: Contract, model: NetworkModel) -> str:
    """Return what banks see of one another's training of their network."""
    rounds = model.rounds
    if contract.holders():
        rounds += model.rounds_per_iteration * contract.model.max_iterations
    return (
        f"the network of kind {model.kind} itself, and after each of {rounds:,} rounds the mean update and loss over "
        "all banks; a network may remember single customers, and no noise hides them here"
    )


def _private_banks_learn(private: NetworkPrivacy, runs: int) -> list[str]:
    """Return what banks learn of one another from a private network."""
    bound = f"epsilon {private.epsilon:g} and delta {private.delta:g}"
    number = f"{runs:,} run{'s' if runs > 1 else ''}"
    return [
        f"the network and its noisy gradients, with {bound} for the presence of each customer in each of {number}"
    ]


def _bank_learns(contract: Contract) -> list[str]:
    holders, quota = contract.holders(), contract.alignment.quota
    if not holders:
        return [
            *(f"of the other banks: {line}" for line in _banks_learn(contract)),
            *_portfolio_shows(contract),
        ]
    known = (
        "which of its customers are on the public roster or known to every holder"
        if contract.alignment.missing_enterprises == "impute"
        else "which of its customers each holder knows"
    )
    lines = [
        "the size of every holder's universe and the number of its bins",
        known,
        f"the same of any other enterprise: {quota:,} identifiers at each holder, and nobody sees which",
    ]
    iterations = f"{contract.model.max_iterations:,} directions"
    if len(holders) == 1:
        lines.append(
            f"for each of its customers the partial scores of {holders[0].id} itself along {iterations}: "
            "there is no second holder to hide behind"
        )
    else:
        lines.append(
            f"for each of its customers the sum of the partial scores of {len(holders)} holders along "
            f"{iterations}; a holder's own only if all other holders help the bank"
        )
    lines.append("which of its customers are in equal bins at all holders: they have equal sums")
    lines += [f"of the other banks: {line}" for line in _banks_learn(contract)]
    return [*lines, *_portfolio_shows(contract), *_scoring_shows_bank(contract)]


def _scoring_shows_holder(contract: Contract) -> list[str]:
    if contract.scoring is None:
        return []
    lines = [
        f"in scoring: how many identifiers each bank asks for and when, {contract.scoring.quota:,} or fewer each"
    ]
    if contract.scoring.profile is not None:
        lines.append(
            "in scoring: which enterprises consented to which bank's seeing a profile: they are named"
        )
    return lines


def _scoring_shows_bank(contract: Contract) -> list[str]:
    scoring = contract.scoring
    if scoring is None:
        return []
    columns = columns_at_most(contract)
    changes = (
        f"how each changes over {columns:,} columns or fewer, and one more for every further serving run in which it is "
        "asked for, and counted, again: one that changes tells that some holder's columns did"
    )
    lines = [
        f"in scoring: the sum of the holders' scores of any {scoring.quota:,} enterprises, customers or not, and {changes}"
    ]
    lines += [
        f"in scoring: for each of these enterprises what {', '.join(group.columns)} of {group.party} add up to, in "
        f"whole points (reason group {group.name})"
        for group in scoring.reasons
    ]
    hidden = _hidden_by_groups(contract)
    if len(hidden) < 2 <= len(contract.holders()):
        whose = hidden[0] if hidden else "every holder"
        lines.append(
            f"in scoring: with these groups, for each of these enterprises the own score of {whose} to within the rounding "
            "of points: the groups leave nothing else in the sum"
        )
    if scoring.profile is not None:
        lines.append(
            "in scoring: of enterprises that consented by name, from each holder alone: "
            + ", ".join(scoring.profile.releases)
        )
        lines.append(
            "in scoring and training: which of its customers withdrew a consent under this contract, to whichever bank: "
            "holders leave their rows out from then on"
        )
    return lines


def _hidden_by_groups(contract: Contract) -> list[str]:
    """Return the holders some of whose columns are in no reason group: the others show their whole score by groups."""
    scoring = contract.scoring
    grouped = (
        {(group.party, name) for group in scoring.reasons for name in group.columns} if scoring else set()
    )
    return [
        holder.id
        for holder in contract.holders()
        if any((holder.id, column.name) not in grouped for column in holder.columns)
    ]


def columns_at_most(contract: Contract) -> int:
    """Return how many columns of scores a holder releases in one serving run that lasts as long as the contract."""
    if contract.scoring is None:
        return 0
    seconds = (contract.valid_until - contract.valid_from).total_seconds()
    return 1 + int(seconds // contract.scoring.refresh_seconds)


def _coordinator_learns(contract: Contract) -> list[str]:
    shown = (
        "the training loss after every iteration; at the end the number of iterations, and AUC and KS of the "
        "shared and of the bank's own model"
        if contract.outputs.coordinator_metrics
        else "no loss, no AUC, no KS"
    )
    return [
        "this contract: parties, names of columns, terms",
        _TRAFFIC,
        "how far every party is, and why it stopped if it did, without data",
        shown,
    ]


def _section(title: str, lines: list[str]) -> str:
    return "\n".join([title, *(_wrap("  - ", line) for line in lines)])


def _message(leak: Leak) -> str:
    where = f"{leak.phase + ': ' if leak.phase else ''}{leak.sender} -> {leak.recipient}"
    return "\n".join(
        [
            f"  {leak.message}  ({where}, {'sealed' if leak.sealed else 'not sealed'})",
            _wrap("    needed for      ", leak.needed),
            _wrap("    feature_holder  ", leak.feature_holder),
            _wrap("    label_holder    ", leak.label_holder),
            _wrap("    coordinator     ", leak.coordinator),
            _wrap("    auditor         ", leak.auditor),
        ]
    )


def _wrap(head: str, text: str) -> str:
    return textwrap.fill(
        text, 100, initial_indent=head, subsequent_indent=" " * len(head), break_long_words=False
    )
