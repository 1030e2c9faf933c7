"""``fedshare-server``: the operator's command. It parses, calls and prints.

Exit codes are those of ``fedshare.errors`` (``docs/operating.md``); 130 means that the operator interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fedshare.errors import FedshareError
from fedshare_server import commands, commands_contract, commands_run

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main", "parser"]

_INTERRUPTED = 130
_STATE = "FEDSHARE_STATE"
_DESCRIPTION = """\
Run the coordinator of a federation: enrol institutions, keep their contracts, carry their
sealed messages and start the training that a contract allows. It holds no data and no key to any payload.

In this order:
  init               create the coordinator's state
  run                serve, in the foreground
  enrol              invite an institution
  contract draft     propose a contract for the institutions to sign
  train              train what every party has approved
  serve              let the parties use the model, where the contract says how
"""
_EPILOG = """\
exit codes: 0 done, 2 fix a setting or the command line, 4 refused by a party, 6 something cannot be
reached (try again), 7 the run failed, 8 the disk or the database refused, 1 anything else
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = parser().parse_args(argv)
    try:
        return int(arguments.command(arguments))
    except FedshareError as error:
        if arguments.debug:
            raise
        print(f"fedshare-server: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output has left, e.g. `| head`; Python would complain again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if arguments.debug:
            raise
        print(f"fedshare-server: a defect ({type(error).__name__}): report it with --debug", file=sys.stderr)
        return FedshareError.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    root = argparse.ArgumentParser(
        prog="fedshare-server",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--debug", action="store_true", help="show where in the code an error arose")
    verbs = root.add_subparsers(metavar="COMMAND", required=True)
    state = argparse.ArgumentParser(add_help=False)
    state.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        default=os.environ.get(_STATE),
        required=_STATE not in os.environ,
        help=f"the coordinator's state folder (or set {_STATE})",
    )
    _add_setup(verbs, state)
    _add_contract(verbs, state)
    _add_runs(verbs, state)
    return root


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    state: argparse.ArgumentParser,
    words: str,
) -> argparse.ArgumentParser:
    return verbs.add_parser(name, parents=[state], help=words, description=f"{words[0].upper()}{words[1:]}.")


def _add_setup(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], state: argparse.ArgumentParser
) -> None:
    init = _verb(verbs, "init", state, "create the coordinator's state")
    init.add_argument("--name", metavar="HOST", help="the host name or address that institutions connect to")
    init.add_argument("--config", type=Path, metavar="FILE", help="settings to start from, as server.yaml")
    init.add_argument("--ca-cert", type=Path, metavar="FILE", help="take this certificate authority (PEM)")
    init.add_argument("--ca-key", type=Path, metavar="FILE", help="and its key (PEM, unencrypted)")
    init.set_defaults(command=commands.init)

    run = _verb(verbs, "run", state, "serve, in the foreground, until SIGTERM or ctrl-C")
    run.add_argument("--ready-file", type=Path, metavar="FILE", help="write the gRPC address here when ready")
    run.set_defaults(command=commands_run.run)

    enrol = _verb(verbs, "enrol", state, "write a one-time invitation for an institution")
    enrol.add_argument("party", metavar="PARTY", help="its id in contracts: a-z, 0-9 and hyphens")
    enrol.add_argument("--role", required=True, choices=["feature_holder", "label_holder"])
    enrol.add_argument(
        "--out", required=True, type=Path, metavar="FILE", help="where to write the invitation"
    )
    enrol.add_argument("--replace", action="store_true", help="it is enrolled and has to bring new keys")
    enrol.set_defaults(command=commands.enrol)

    parties = _verb(verbs, "parties", state, "list institutions and open invitations")
    parties.set_defaults(command=commands.parties)


def _add_contract(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], state: argparse.ArgumentParser
) -> None:
    contract = verbs.add_parser("contract", help="draft and look at contracts")
    actions = contract.add_subparsers(metavar="ACTION", required=True)

    draft = _verb(actions, "draft", state, "propose a contract to its parties")
    draft.add_argument("file", type=Path, metavar="FILE", help="the contract as YAML, without keys")
    draft.set_defaults(command=commands_contract.draft)

    show = _verb(actions, "show", state, "print a contract and what each role learns")
    show.add_argument(
        "contract", metavar="CONTRACT", help="its name if no other has it, its digest, or 8 digits of it"
    )
    show.set_defaults(command=commands_contract.show)

    status = _verb(actions, "status", state, "list contracts and who has decided")
    status.set_defaults(command=commands_contract.status)


def _add_runs(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], state: argparse.ArgumentParser
) -> None:
    train = _verb(verbs, "train", state, "train what every party has approved")
    train.add_argument(
        "contract", metavar="CONTRACT", help="its name if no other has it, its digest, or 8 digits of it"
    )
    train.add_argument("--follow", action="store_true", help="show progress and exit as the run ends")
    train.set_defaults(command=commands_run.train)

    serve = _verb(verbs, "serve", state, "let the parties use a trained model")
    serve.add_argument(
        "contract", metavar="CONTRACT", help="its name if no other has it, its digest, or 8 digits of it"
    )
    serve.add_argument(
        "--model", type=int, metavar="RUN", help="its training run (default: the newest complete one)"
    )
    serve.set_defaults(command=commands_run.serve_model)

    end = _verb(verbs, "end", state, "end a serving run")
    end.add_argument("run", type=int, metavar="RUN", help="its number")
    end.set_defaults(command=commands_run.end)

    runs = _verb(verbs, "runs", state, "list runs, newest first")
    runs.set_defaults(command=commands_run.runs)

    logs = _verb(verbs, "logs", state, "print what happened in a run")
    logs.add_argument("run", type=int, metavar="RUN", help="its number")
    logs.set_defaults(command=commands_run.logs)
