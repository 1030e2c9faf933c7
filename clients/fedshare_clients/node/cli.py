"""``fedshare-node``: parse, call, print. ``docs/operating-node.md`` lists the exit codes."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509

from fedshare.errors import ConfigError, FedshareError
from fedshare.identity.keys import fingerprint
from fedshare.privacy.budget import spent_by

from .config import load_config
from .state import NodeState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .config import NodeConfig

__all__ = ["main"]

_EPILOG = """\
A node is set up in this order: write node.yaml (samples in deploy/node), init, data check, enrol,
contract show, contract approve, run.

exit codes: 0 done, 2 fix a setting or the command line, 3 fix the data, 4 refused by a party or the
coordinator, 5 altered or malformed bytes from a peer, 6 something cannot be reached (try again),
7 the run failed, 8 the disk refused, 9 columns have shifted (drift), 1 anything else
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except FedshareError as error:
        if options.debug:
            raise
        _complain(options, str(error), error.exit_code)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if options.debug:
            raise
        # What it says may quote data, so only its kind is shown.
        _complain(options, f"unexpected {type(error).__name__}; run it again with --debug and report it", 1)
        return 1


def _complain(options: argparse.Namespace, message: str, exit_code: int) -> None:
    if options.json:
        print(json.dumps({"error": message, "exit_code": exit_code}))
    else:
        print(f"fedshare-node: {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedshare-node",
        description="An institution's node: its keys, its data, the contracts it signs and its runs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config",
        type=Path,
        default=Path("node.yaml"),
        metavar="FILE",
        help="this node's settings (default: %(default)s)",
    )
    parser.add_argument("--debug", action="store_true", help="show where an error comes from")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _command(
        commands, "init", "make the state folder and this node's keys; keeps those that are there", _init
    )
    enrol = _command(commands, "enrol", "exchange an invitation for this node's certificate", _enrol)
    enrol.add_argument(
        "invitation", type=Path, metavar="INVITATION", help="the file from the coordinator's operator"
    )
    data = commands.add_parser("data", help="this institution's rows").add_subparsers(
        required=True, metavar="COMMAND"
    )
    check = _command(data, "check", "read the rows and list everything that a run would refuse", _data_check)
    check.add_argument(
        "--minimum-cohort",
        type=_count,
        default=30,
        metavar="N",
        help="rows that each bin must have; the contract decides in a run (default: %(default)s)",
    )
    _contract_commands(commands)
    _command(commands, "run", "take part in runs until stopped (SIGTERM or Ctrl-C)", _run)
    report = _command(
        commands,
        "report",
        "validate a completed run's model: a page, its figures and a model card; at a feature holder, its columns' importance",
        _report,
    )
    report.add_argument("run_id", type=_count, metavar="RUN", help="its number, as status shows it")
    report.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where to write (default: the run's folder in the state folder)",
    )
    report.add_argument(
        "--challenger",
        type=Path,
        metavar="FILE",
        help="a Parquet file with identifier and score (log-odds of default) of the same customers, to compare with",
    )
    drift = _command(
        commands,
        "drift",
        "hold the own rows of today against those of a training run; nothing leaves",
        _drift,
    )
    drift.add_argument("run_id", type=_count, metavar="RUN", help="its number, as status shows it")
    _score_commands(commands)
    _profile_commands(commands)
    _command(commands, "status", "what this node is, has decided and has run; asks nobody", _status)
    return parser


def _score_commands(commands: Any) -> None:  # noqa: ANN401 - argparse's type is private
    score = _command(commands, "score", "score the applicants in a file by the running node", _score)
    score.add_argument("--contract", default="", metavar="NAME", help="needed if the node serves several")
    score.add_argument(
        "--in", dest="source", required=True, type=Path, metavar="FILE", help="applicants, .csv or .parquet"
    )
    score.add_argument("--out", required=True, type=Path, metavar="FILE", help="answers, .csv or .parquet")
    score.add_argument("--force", action="store_true", help="replace the answers that are in FILE")
    score.add_argument(
        "--identifier", metavar="COLUMN", help="names the enterprise (default: data.identifier of node.yaml)"
    )
    client = _command(
        commands,
        "score-client",
        "a certificate with which a system of the bank asks for scores",
        _score_client,
    )
    client.add_argument("name", metavar="NAME", help="of the system")
    client.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new folder for its files")
    receipts = _command(commands, "receipts", "check that this node gave the answers in a file", _receipts)
    receipts.add_argument("file", type=Path, metavar="FILE", help="answers, .parquet")


def _profile_commands(commands: Any) -> None:  # noqa: ANN401 - argparse's type is private
    profile = _command(commands, "profile", "what holders show of an enterprise that consented", _profile)
    profile.add_argument("--consent", required=True, type=Path, metavar="FILE", help="the signed consent")
    profile.add_argument("--out", required=True, type=Path, metavar="FILE", help="where to write, JSON")
    consent = commands.add_parser("consent", help="what enterprises agreed to")
    verbs = consent.add_subparsers(required=True, metavar="COMMAND")
    give = _command(
        verbs, "grant", "sign that an enterprise consented, if the contract names this key", _grant
    )
    give.add_argument("--bank", required=True, metavar="PARTY", help="who may see the profile")
    give.add_argument("--enterprise", required=True, metavar="CODE", help="its identifier")
    give.add_argument("--evidence", required=True, type=Path, metavar="FILE", help="in which it consented")
    give.add_argument(
        "--until", required=True, type=_day, metavar="YYYY-MM-DD", help="the first day without it"
    )
    take = _command(verbs, "withdraw", "take a consent back, here and at every holder", _withdraw)
    take.add_argument("consent", type=Path, metavar="CONSENT", help="the signed consent")
    note = _command(verbs, "apply", "note a withdrawal that was signed elsewhere", _apply_withdrawal)
    note.add_argument("withdrawal", type=Path, metavar="FILE", help="the signed withdrawal")
    for verb in (give, take):
        verb.add_argument("--out", required=True, type=Path, metavar="FILE", help="where to write it")
    for verb in (profile, give, take, note):
        verb.add_argument("--contract", required=True, metavar="CONTRACT", help="its name, or its digest")


def _contract_commands(commands: Any) -> None:  # noqa: ANN401 - argparse's type is private
    contract = commands.add_parser("contract", help="what this institution agrees to")
    verbs = contract.add_subparsers(required=True, metavar="COMMAND")
    _command(verbs, "list", "the contracts that name this party, newest first", _contract_list)
    show = _command(
        verbs,
        "show",
        "a contract, what each role learns under it, and fingerprints to compare",
        _contract_show,
    )
    approve = _command(
        verbs, "approve", "sign a contract that says what node.yaml and this node's keys say", _approve
    )
    approve.add_argument("--yes", action="store_true", help="do not ask")
    reject = _command(verbs, "reject", "refuse a contract, for good", _reject)
    reject.add_argument("--reason", default="", metavar="TEXT", help="shown to every party")
    reject.add_argument("--yes", action="store_true", help="do not ask")
    revoke = _command(
        verbs, "revoke", "take an approval back: no run begins, and those under way end", _revoke
    )
    revoke.add_argument("--reason", default="", metavar="TEXT", help="shown to every party")
    revoke.add_argument("--yes", action="store_true", help="do not ask")
    policy = _command(
        verbs, "policy", "the trust policy of an approved contract, for fedshare-audit", _contract_policy
    )
    for verb in (show, approve, reject, revoke, policy):
        verb.add_argument("contract", metavar="CONTRACT", help="its name, or its digest (8 digits or more)")


def _command(
    commands: Any,  # noqa: ANN401 - argparse's type is private
    name: str,
    words: str,
    run: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=words, description=f"{words[0].upper()}{words[1:]}."
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _init(options: argparse.Namespace) -> int:
    config = load_config(options.config)
    state = NodeState(config.state)
    state.create(config.role, os.urandom)
    public = fingerprint(state.identity().public_bytes())
    _print(
        options,
        {"party": config.party, "state": str(config.state), "fingerprint": public},
        f"{config.party}: keys are in {config.state} (keep a copy of identity.pem in a safe)\n"
        f"identity fingerprint, for the other institutions: {public}",
    )
    return 0


def _enrol(options: argparse.Namespace) -> int:
    # gRPC is imported by the commands that talk to the coordinator only.
    from .enrolment import enrol, read_invitation  # noqa: PLC0415

    config, state = _opened(options)
    parties = enrol(read_invitation(options.invitation), config, state)
    rows = [f"  {each.party:32}  {each.role:14}  {each.fingerprint}" for each in parties]
    _print(
        options,
        {"party": config.party, "parties": [asdict(each) for each in parties]},
        "\n".join(
            [
                f"{config.party} is enrolled; delete {options.invitation}, it is used up",
                "enrolled so far (compare fingerprints with each institution, not with the coordinator):",
                *rows,
            ]
        ),
    )
    return 0


def _data_check(options: argparse.Namespace) -> int:
    from .report_data import check_data  # noqa: PLC0415

    report = check_data(load_config(options.config), options.minimum_cohort)
    _print(options, report.to_json(), report.to_text())
    return report.exit_code


def _contract_list(options: argparse.Namespace) -> int:
    from .contracts import ContractClient  # noqa: PLC0415

    config, state = _opened(options)
    found = ContractClient(config, state).summaries()
    lines = [
        f"{each.digest[:12]}  {each.status:10}  {each.name}  signed by: {', '.join(each.approved_by) or '-'}"
        for each in found
    ]
    _print(options, [asdict(each) for each in found], "\n".join(lines) or "no contract names this party")
    return 0


def _contract_show(options: argparse.Namespace) -> int:
    from .contract_text import contract_json, contract_text  # noqa: PLC0415
    from .contracts import ContractClient  # noqa: PLC0415

    config, state = _opened(options)
    fetched = ContractClient(config, state).find(options.contract)
    _print(options, contract_json(fetched, config), contract_text(fetched, config))
    return 0


def _approve(options: argparse.Namespace) -> int:
    return _decide(options, "approve", "")


def _reject(options: argparse.Namespace) -> int:
    return _decide(options, "reject", options.reason)


def _decide(options: argparse.Namespace, verdict: Any, reason: str) -> int:  # noqa: ANN401 - one of two words
    from .contract_text import contract_text  # noqa: PLC0415
    from .contracts import ContractClient, decide, verify_approvable  # noqa: PLC0415

    config, state = _opened(options)
    client = ContractClient(config, state)
    fetched = client.find(options.contract)
    digest = fetched.contract.digest()
    if verdict == "approve":
        verify_approvable(fetched.contract, config, state)
    if not options.yes:
        if options.json or not sys.stdin.isatty():
            raise ConfigError(f"to {verdict} without being asked, add --yes")
        print(contract_text(fetched, config))
        if input(f"\n{verdict} contract {digest[:12]}, for good? Type {verdict}: ").strip() != verdict:
            print("nothing was signed")
            return 0
    status = decide(fetched, config, state, client, verdict=verdict, reason=reason, now=datetime.now(UTC))
    past = {"approve": "approved", "reject": "rejected"}[verdict]
    _print(
        options,
        {"contract": digest, "verdict": verdict, "status": status},
        f"{config.party} has {past} contract {fetched.contract.name} ({digest[:12]}); it is {status} now",
    )
    return 0


def _revoke(options: argparse.Namespace) -> int:
    from .audit_client import AuditClient  # noqa: PLC0415
    from .contracts import ContractClient, revoke, tls_identity  # noqa: PLC0415

    config, state = _opened(options)
    contract = state.find_approved(options.contract)
    digest = contract.digest()
    # One that the coordinator has not heard of yet is handed in again.
    if state.revocation(digest) and config.party in ContractClient(config, state).fetch(digest).revoked_by():
        raise ConfigError(f"contract {digest[:12]}: this party has taken its approval back already")
    if not options.yes:
        if options.json or not sys.stdin.isatty():
            raise ConfigError("to revoke without being asked, add --yes")
        if (
            input(f"revoke the approval of contract {digest[:12]}, for good? Type revoke: ").strip()
            != "revoke"
        ):
            print("nothing was signed")
            return 0
    client = AuditClient(config.coordinator.address, tls_identity(config, state))
    revoke(contract, config, state, client, reason=options.reason, now=datetime.now(UTC))
    _print(
        options,
        {"contract": digest, "verdict": "revoke", "status": "revoked"},
        f"{config.party} has taken back its approval of contract {contract.name} ({digest[:12]})",
    )
    return 0


def _contract_policy(options: argparse.Namespace) -> int:
    _, state = _opened(options)
    contract = state.find_approved(options.contract)
    text = contract.log.policy_text()
    _print(options, {"contract": contract.digest(), "policy": text}, text.rstrip("\n"))
    return 0


def _run(options: argparse.Namespace) -> int:
    config, state = _opened(options)
    state.certificate_pem()  # the clear refusal of a node that is not enrolled, before anything starts
    # Imported by this command only: it brings torch and Flower.
    from .platform import run_node  # noqa: PLC0415

    run_node(config, state)
    return 0


def _report(options: argparse.Namespace) -> int:
    # Imported by this command only: it brings numpy and pyarrow.
    from .report import holder_importance, report_run  # noqa: PLC0415

    config, state = _opened(options)
    if config.role == "feature_holder":
        if options.out or options.challenger:
            raise ConfigError("a feature_holder's report is printed: leave out --out and --challenger")
        rows = holder_importance(state, options.run_id)
        lines = [f"{row['spread']:8.4f}  {row['name']}" for row in rows]
        _print(
            options,
            {"importance": rows},
            "\n".join(["spread of each own column over training customers, in log-odds", *lines]),
        )
        return 0
    document, page = report_run(config, state, options.run_id, out=options.out, challenger=options.challenger)
    auc = {name: each["auc"]["auc"] for name, each in document["models"].items()}
    figures = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in auc.items())
    _print(options, {"page": str(page), "auc": auc}, f"AUC {figures}\nread {page}")
    return 0


def _drift(options: argparse.Namespace) -> int:
    from .drift import check_drift  # noqa: PLC0415 - as above

    report = check_drift(*_opened(options), options.run_id)
    _print(options, report.to_json(), report.to_text())
    return report.exit_code


def _score(options: argparse.Namespace) -> int:
    from .cli_scores import score  # noqa: PLC0415 - brings gRPC

    config, state = _opened(options)
    if options.out.exists() and not options.force:  # before anybody is asked and a quota used
        raise ConfigError(f"{options.out}: exists already; name another file, or replace it with --force")
    _print(options, *score(config, state, options.contract, options.source, options.out, options.identifier))
    return 0


def _score_client(options: argparse.Namespace) -> int:
    from .cli_scores import issue_client_files  # noqa: PLC0415 - as above

    config, state = _opened(options)
    _print(options, *issue_client_files(config, state, options.name, options.out))
    return 0


def _receipts(options: argparse.Namespace) -> int:
    from .cli_scores import receipts  # noqa: PLC0415 - as above

    _, state = _opened(options)
    _print(options, *receipts(state, options.file))
    return 0


def _profile(options: argparse.Namespace) -> int:
    from .cli_profiles import show_profile  # noqa: PLC0415 - brings gRPC

    config, state = _opened(options)
    _print(options, *show_profile(config, state, options.contract, options.consent, options.out))
    return 0


def _grant(options: argparse.Namespace) -> int:
    from .cli_profiles import grant  # noqa: PLC0415 - as above

    config, state = _opened(options)
    words = (options.contract, options.bank, options.enterprise, options.evidence, options.until, options.out)
    _print(options, *grant(config, state, *words))
    return 0


def _withdraw(options: argparse.Namespace) -> int:
    from .cli_profiles import withdraw  # noqa: PLC0415 - as above

    config, state = _opened(options)
    _print(options, *withdraw(config, state, options.contract, options.consent, options.out))
    return 0


def _apply_withdrawal(options: argparse.Namespace) -> int:
    from .cli_profiles import apply_withdrawal  # noqa: PLC0415 - as above

    config, state = _opened(options)
    _print(options, *apply_withdrawal(config, state, options.contract, options.withdrawal))
    return 0


def _day(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)


def _status(options: argparse.Namespace) -> int:
    config, state = _opened(options)
    document = _status_document(config, state)
    runs = [
        f"  {each['run_id']}  {each['status']:9}  {each['phase']:8}  {each['changed_at']}  {each['message']}"
        for each in document["runs"]
    ]
    decisions = [
        f"  {each['digest'][:12]}  {each['verdict']:7}  {each['decided_at']}  {each['name']}, "
        f"{each['runs_begun']} of {each['max_runs']} run(s) begun"
        + "".join(
            f", {count:,} of {each['scoring_quota']:,} scored for {bank}"
            for bank, count in each["scored"].items()
        )
        for each in document["decisions"]
    ]
    privacy = [
        f"privacy       {mechanism}: "
        + ", ".join(
            f"{what} {each['spent'][what]:g} of {limit:g}" for what, limit in each["limit"].items() if limit
        )
        + " spent"
        for mechanism, each in document["privacy"].items()
    ]
    lines = [
        f"party         {config.party} ({config.role})",
        f"coordinator   {config.coordinator.address}",
        f"fingerprint   {document['fingerprint']}",
        f"certificate   {document['certificate_until'] or 'none: not enrolled'}",
        *privacy,
        "decisions",
        *(decisions or ["  none"]),
        "runs",
        *(runs or ["  none"]),
    ]
    _print(options, document, "\n".join(lines))
    return 0


def _status_document(config: NodeConfig, state: NodeState) -> dict[str, Any]:
    until = None
    if state.is_enrolled:
        certificate = x509.load_pem_x509_certificate(state.certificate_pem())
        until = certificate.not_valid_after_utc.isoformat(timespec="seconds")
    return {
        "party": config.party,
        "role": config.role,
        "coordinator": config.coordinator.address,
        "state": str(config.state),
        "fingerprint": fingerprint(state.identity().public_bytes()),
        "certificate_until": until,
        "privacy": _privacy_spent(config, state),
        "decisions": state.decisions(),
        "runs": [asdict(each) for each in state.runs()],
    }


def _privacy_spent(config: NodeConfig, state: NodeState) -> dict[str, Any]:
    """Return what runs have taken of the privacy of a label holder's customers, and this node's limits, by mechanism."""
    if config.role != "label_holder":
        return {}
    spendings = state.privacy_spent()
    return {
        mechanism: {"spent": asdict(spent_by(spendings, mechanism)), "limit": asdict(limit)}
        for mechanism, limit in config.privacy.limits().items()
    }


def _opened(options: argparse.Namespace) -> tuple[NodeConfig, NodeState]:
    """Return the settings and the state folder, which only this node's user may read."""
    config = load_config(options.config)
    state = NodeState(config.state)
    state.verify_private()
    return config, state


def _print(options: argparse.Namespace, document: object, text: str) -> None:
    print(json.dumps(document, indent=2) if options.json else text)
