"""What the commands about scores do; ``cli`` parses and prints."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from fedshare.contract.enforcement import verify_not_revoked
from fedshare.errors import ConfigError, StorageError, UnavailableError

from .enrolment import connect
from .score_files import check_receipts, read_applicants, score_applicants, write_answers
from .score_tls import client_identity, open_authority
from .state import write_private

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import grpc

    from fedshare.scoring.answer import Answer
    from fedshare.wire.v1 import scoring_pb2 as wire

    from .config import NodeConfig, ScoringConfig
    from .state import NodeState

__all__ = ["issue_client_files", "own_channel", "receipts", "score"]

_OWN_LIFETIME: Final = timedelta(hours=12)
_NOBODY: Final = frozenset({"no_serving_run", "holder_offline"})


def score(
    config: NodeConfig, state: NodeState, contract: str, source: Path, out: Path, identifier: str | None
) -> tuple[dict[str, Any], str]:
    """Score the applicants of a file by the running node and write the answers to another; return what to print.

    Raises:
        FedshareError: as ``read_applicants``, ``score_applicants`` and ``write_answers``; ``UnavailableError`` if nobody was
            scored because there is no serving run or no holder answers, ``RefusedError`` if this party has taken its
            approval back by then. Nothing is written then.
    """
    questions = read_applicants(source, config, identifier or config.data.identifier)
    try:
        answers = _ask(config, state, contract, questions)
    except UnavailableError:
        _verify_not_revoked(config, state, contract)
        raise
    write_answers(out, answers)
    statuses = Counter(answer.status for answer in answers)
    reasons = Counter(answer.reason for answer in answers)
    because = {reason: count for reason, count in sorted(reasons.items()) if reason}
    document = {"out": str(out), "answers": len(answers), "status": dict(statuses), "reasons": because}
    said = ", ".join(f"{reason}: {count:,}" for reason, count in because.items())
    text = (
        f"{len(answers):,} applicants: {statuses['scored']:,} scored, {statuses['fallback']:,} by the bank's own model "
        f"alone, {statuses['withheld']:,} withheld{f' ({said})' if said else ''}; in {out}"
    )
    return document, text


def _ask(
    config: NodeConfig, state: NodeState, contract: str, questions: Sequence[wire.Question]
) -> list[Answer]:
    with own_channel(config, state) as channel:
        answers = score_applicants(channel, contract, questions)
    reasons = {answer.reason for answer in answers}
    if answers and reasons <= _NOBODY and all(answer.status == "withheld" for answer in answers):
        raise UnavailableError(
            f"nobody was scored ({', '.join(sorted(reasons))}): the coordinator's operator has to start a serving run, or "
            "a holder its node; nothing was written"
        )
    return answers


def _verify_not_revoked(config: NodeConfig, state: NodeState, contract: str) -> None:
    """Check that there can be a serving run again, as far as this node knows."""
    with suppress(ConfigError):  # not called by a name or digest that is one contract's
        agreed = state.find_approved(contract)
        own = [config.party] if state.revocation(agreed.digest()) is not None else []
        verify_not_revoked(agreed, config.party, own)


@contextmanager
def own_channel(config: NodeConfig, state: NodeState) -> Iterator[grpc.Channel]:
    """Yield a channel to this node's own score service, with a certificate of its own for some hours.

    Raises:
        ConfigError: the node has no score service.
    """
    settings, now = _settings(config), datetime.now(UTC)
    authority = open_authority(state.folder, now, create=False)
    tls = client_identity(authority, "fedshare-node", now, _OWN_LIFETIME)
    with connect(settings.listen, tls) as channel:
        yield channel


def issue_client_files(
    config: NodeConfig, state: NodeState, name: str, out: Path
) -> tuple[dict[str, Any], str]:
    """Write what one of the bank's systems needs to ask the running node; return what to print.

    Raises:
        ConfigError: the node has no score service, or the folder exists.
        StorageError: the disk refused.
    """
    settings = _settings(config)
    now = datetime.now(UTC)
    tls = client_identity(open_authority(state.folder, now, create=True), name, now)
    try:
        out.mkdir(mode=0o700, parents=True)
    except FileExistsError as error:
        raise ConfigError(f"{out}: exists already; name a folder that does not exist") from error
    except OSError as error:
        raise StorageError(f"{out}: cannot be made ({error.strerror})") from error
    for file, content in (
        ("ca.pem", tls.ca_pem),
        ("certificate.pem", tls.certificate_pem),
        ("key.pem", tls.key_pem),
    ):
        write_private(out / file, content)
    text = f"{name} may ask {settings.listen} for scores with the files in {out} (mutual TLS, 398 days)"
    return {"name": name, "address": settings.listen, "out": str(out)}, text


def receipts(state: NodeState, path: Path) -> tuple[dict[str, Any], str]:
    """Check the receipts in a file of answers; return what to print. Raises as ``check_receipts``."""
    count = check_receipts(path, state.identity().public_bytes())
    return {"file": str(path), "answers": count}, f"{path}: this node gave all {count:,} answers"


def _settings(config: NodeConfig) -> ScoringConfig:
    if config.scoring is None:
        raise ConfigError("this node has no score service: a label_holder sets `scoring` in node.yaml")
    return config.scoring
