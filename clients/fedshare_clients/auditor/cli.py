"""``fedshare-audit``: parse, call, print. Exit codes are listed in ``docs/operating-auditor.md``."""

from __future__ import annotations

import argparse
import base64
import binascii
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedshare.audit.checkpoint import Checkpoint
from fedshare.audit.entries import Entry
from fedshare.audit.notes import COSIGNATURE, NoteKey, NoteSigner, parse_note
from fedshare.audit.policy import Policy
from fedshare.audit.receipts import Receipt, make_receipt
from fedshare.audit.storage import FolderSource
from fedshare.audit.tiles import CHECKPOINT_PATH, TILE_WIDTH, read_bundle
from fedshare.errors import ConfigError, FedshareError, ParameterError, ProtocolError
from fedshare_clients.auditor.fetch import HttpSource
from fedshare_clients.auditor.findings import MEANINGS, FindingClass
from fedshare_clients.auditor.follow import follow_once
from fedshare_clients.auditor.verify import verify_log
from fedshare_clients.auditor.witness import Witness, WitnessServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fedshare_clients.auditor.verify import Report

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except FedshareError as error:
        if options.json:
            print(json.dumps({"error": str(error), "exit_code": error.exit_code}))
        else:
            print(f"fedshare-audit: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedshare-audit",
        description="Verify an audit log without trusting its operator. Needs no service and no account.",
        epilog="Findings exit with: "
        + ", ".join(f"{int(kind)} {kind.name.lower()}" for kind in MEANINGS)
        + "; the lowest one wins.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    verify = _verb(commands, "verify", "verify a whole log, offline")
    _folder(verify)
    _policy(verify)
    verify.add_argument(
        "--since", type=Path, metavar="FILE", help="an earlier checkpoint that it must continue"
    )
    verify.add_argument(
        "--keys", type=Path, metavar="FILE", help="identity keys known from elsewhere, as JSON"
    )
    _command(verify, _verify)

    show = _verb(commands, "show", "print the entries, unverified")
    _folder(show)
    show.add_argument("--from", type=_index, default=0, dest="start", metavar="INDEX", help="first entry")
    show.add_argument("--count", type=_index, metavar="N", help="at most so many entries")
    _command(show, _show)

    prove = _verb(commands, "prove", "write a receipt that an entry is in the log")
    _folder(prove)
    prove.add_argument("index", type=_index, metavar="INDEX", help="of the entry, from 0")
    prove.add_argument("--out", type=Path, metavar="FILE", help="instead of standard output")
    _command(prove, _prove)

    check = _verb(commands, "check-proof", "check a receipt")
    check.add_argument("file", type=Path, metavar="FILE", help="the receipt (.tlog-proof)")
    _policy(check)
    check.add_argument("--entry", type=Path, metavar="FILE", help="the entry, if not inside the receipt")
    _command(check, _check)

    follow = _verb(commands, "follow", "keep a verified copy of a log that is served over HTTP")
    follow.add_argument("url", metavar="URL", help="the log's prefix")
    _folder(follow)
    _policy(follow)
    follow.add_argument("--interval", type=_seconds, metavar="SECONDS", help="look again so often; else once")
    _command(follow, _follow)

    witness = _verb(commands, "witness", "cosign logs that only grow")
    witness.add_argument("--state", type=Path, required=True, metavar="DIR", help="its memory")
    witness.add_argument("--name", required=True, help="of the witness, e.g. audit.example.org/w1")
    witness.add_argument("--key", type=Path, required=True, metavar="FILE", help="its private key")
    witness.add_argument("--create-key", action="store_true", help="make the key file if it is not there")
    witness.add_argument("--log", action="append", required=True, metavar="VKEY", help="a log to watch")
    witness.add_argument(
        "--listen", default="127.0.0.1:8390", metavar="HOST:PORT", help="default %(default)s"
    )
    _command(witness, _witness)
    return parser


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, words: str
) -> argparse.ArgumentParser:
    return verbs.add_parser(name, help=words, description=f"{words[0].upper()}{words[1:]}.")


def _command(parser: argparse.ArgumentParser, run: object) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def _folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder with the copy of the log")


def _policy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--policy", type=Path, required=True, metavar="FILE", help="the log's key and witnesses"
    )


def _index(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise argparse.ArgumentTypeError("expected a number from 0")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError("expected a number of seconds") from error
    if not 1 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError("expected 1 to 86400 seconds")
    return seconds


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"could not read {what} {path}: {error.strerror}") from error


def _source(folder: Path) -> FolderSource:
    if not folder.is_dir():
        raise ConfigError(f"no such folder: {folder}; expected the copy of a log")
    return FolderSource(folder)


def _read_policy(options: argparse.Namespace) -> Policy:
    return Policy.parse(_read(options.policy, "the policy"))


def _read_keys(path: Path | None) -> dict[str, bytes]:
    if path is None:
        return {}
    try:
        keys = {
            str(party): base64.b64decode(key, validate=True)
            for party, key in dict(json.loads(_read(path, "the keys"))).items()
        }
    except (ValueError, TypeError, binascii.Error) as error:
        raise ConfigError('expected the keys as JSON, {"party": "base64 of 32 bytes"}') from error
    if any(len(key) != 32 for key in keys.values()):
        raise ConfigError("expected identity keys of 32 bytes")
    return keys


def _verify(options: argparse.Namespace) -> int:
    since = None if options.since is None else _read(options.since, "the earlier checkpoint")
    keys = _read_keys(options.keys)
    report = verify_log(_source(options.folder), _read_policy(options), since, keys)
    return _print_report(report, options.json)


def _print_report(report: Report, as_json: bool) -> int:
    if as_json:
        print(
            json.dumps(
                {
                    "origin": report.origin,
                    "size": report.size,
                    "cosigners": report.cosigners,
                    "statements": dict(report.statements),
                    "findings": [finding.to_dict() for finding in report.findings],
                    "exit_code": report.exit_code,
                }
            )
        )
        return report.exit_code
    print(f"log {report.origin or '(unknown)'}: {report.size} entries,", end=" ")
    print(f"cosigned by {', '.join(report.cosigners) or 'no witness of the policy'}")
    for what, count in sorted(report.statements.items()):
        print(f"  {count:>8} {what}")
    for finding in report.findings:
        print(finding)
    for kind in sorted({finding.kind for finding in report.findings}):
        print(f"{kind.name.lower()}: {MEANINGS[FindingClass(kind)]}")
    found = len(report.findings)
    print(f"{found} finding{'s' if found > 1 else ''}" if found else "the log is good")
    return report.exit_code


def _entries(folder: Path, start: int, count: int | None) -> Iterator[tuple[int, bytes]]:
    source = _source(folder)
    size = Checkpoint.parse(parse_note(source.read(CHECKPOINT_PATH)).text).size
    end = size if count is None else min(size, start + count)
    for bundle in range(start // TILE_WIDTH, -(-end // TILE_WIDTH)):
        first = bundle * TILE_WIDTH
        entries = read_bundle(source, bundle, min(TILE_WIDTH, size - first))
        yield from (pair for pair in enumerate(entries, first) if start <= pair[0] < end)


def _show(options: argparse.Namespace) -> int:
    for index, data in _entries(options.folder, options.start, options.count):
        try:
            statement = json.loads(Entry.parse(data).statement.to_bytes())
        except ProtocolError as error:
            statement = {"kind": "unreadable", "error": str(error)}
        if options.json:
            print(json.dumps({"index": index, **statement}))
        else:
            what = {
                key: value for key, value in statement.items() if key not in ("kind", "issuer", "issued_at")
            }
            when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(statement.get("issued_at", 0)))
            print(f"{index} {when} {statement.get('issuer', '?')} {statement['kind']} {json.dumps(what)}")
    return 0


def _prove(options: argparse.Namespace) -> int:
    receipt = make_receipt(_source(options.folder), options.index).to_bytes()
    if options.out is None:
        sys.stdout.write(receipt.decode())
        return 0
    try:
        options.out.write_bytes(receipt)
    except OSError as error:
        raise ConfigError(f"could not write {options.out}: {error.strerror}") from error
    return 0


def _check(options: argparse.Namespace) -> int:
    receipt = Receipt.parse(_read(options.file, "the receipt"))
    entry = receipt.extra if options.entry is None else _read(options.entry, "the entry")
    if not entry:
        raise ParameterError("the receipt does not hold its entry: give it with --entry")
    checkpoint = receipt.verify(entry, _read_policy(options))
    statement = json.loads(Entry.parse(entry).statement.to_bytes())
    if options.json:
        print(json.dumps({"index": receipt.index, "size": checkpoint.size, "statement": statement}))
    else:
        print(f"entry {receipt.index} is in {checkpoint.origin} under its checkpoint of {checkpoint.size}:")
        print(json.dumps(statement, indent=1))
    return 0


def _follow(options: argparse.Namespace) -> int:
    source, policy = HttpSource(options.url), _read_policy(options)
    while True:
        held = options.folder / CHECKPOINT_PATH
        since = held.read_bytes() if held.is_file() else None
        step = follow_once(source, options.folder, policy)
        if step.new or options.interval is None:
            report = verify_log(FolderSource(options.folder), policy, since)
            code = _print_report(report, options.json)
            if code or options.interval is None:
                return code
        time.sleep(options.interval)


def _witness(options: argparse.Namespace) -> int:
    host, _, port = options.listen.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65_535 or not host:
        raise ConfigError("expected --listen HOST:PORT")
    signer = NoteSigner(options.name, _witness_key(options.key, options.create_key), COSIGNATURE)
    logs = [NoteKey.parse(vkey) for vkey in options.log]
    with Witness(options.state, signer, logs, time.time) as witness:
        try:
            server = WitnessServer((host.strip("[]"), int(port)), witness)
        except OSError as error:
            raise ConfigError(f"could not listen on {options.listen}: {error.strerror}") from error
        with server:
            bound = f"{host}:{server.server_address[1]}"
            facts = {"vkey": signer.key.vkey, "listen": bound}
            text = json.dumps(facts) if options.json else f"witness {signer.key.vkey} on http://{bound}"
            print(text, flush=True)
            # A background shell starts its children with SIGINT ignored: ask for it, and end on SIGTERM alike.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.default_int_handler)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                return 0
    return 0


def _witness_key(path: Path, create: bool) -> Ed25519PrivateKey:
    if create and not path.exists():
        key = Ed25519PrivateKey.generate()
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(base64.b64encode(key.private_bytes_raw()) + b"\n")
        except OSError as error:
            raise ConfigError(f"could not write the key {path}: {error.strerror}") from error
        return key
    try:
        return Ed25519PrivateKey.from_private_bytes(
            base64.b64decode(_read(path, "the key").strip(), validate=True)
        )
    except (ValueError, binascii.Error) as error:
        raise ConfigError(f"expected base64 of 32 bytes in the key file {path}") from error


if __name__ == "__main__":
    sys.exit(main())
