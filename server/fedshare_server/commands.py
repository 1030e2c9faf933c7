"""The commands that set a coordinator up: ``init``, ``enrol``, ``parties``."""

from __future__ import annotations

import re
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import yaml

from fedshare.errors import ConfigError
from fedshare.identity.keys import fingerprint
from fedshare_server.authority import create_invitation, initialise, load_authority
from fedshare_server.config import ServerConfig, StateFolder, load_config, write_new_file
from fedshare_server.storage import InvitationRecord, open_store

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from fedshare_server.storage import Store

__all__ = ["State", "enrol", "init", "open_state", "parties", "print_table"]

_PARTY = re.compile(r"[a-z][a-z0-9-]{0,31}")


def init(arguments: argparse.Namespace) -> int:
    """Create a coordinator's state: settings, authority, server certificate and database."""
    now = datetime.now(UTC)
    folder = StateFolder(arguments.state)
    settings = load_config(arguments.config) if arguments.config else ServerConfig()
    if arguments.name:
        settings = ServerConfig.model_validate(settings.model_dump() | {"name": arguments.name})
    if (arguments.ca_cert is None) != (arguments.ca_key is None):
        raise ConfigError("--ca-cert and --ca-key belong together: give both or neither")
    imported = (arguments.ca_cert, arguments.ca_key) if arguments.ca_cert else None
    folder.create()
    initialise(folder, settings, now, imported)
    open_store(folder.database_url(settings)).close()
    # The settings come last: a folder without them was not finished and is not taken for a coordinator's.
    write_new_file(folder.config_file, yaml.safe_dump(settings.model_dump(), sort_keys=False).encode())
    print(f"The coordinator {settings.name} is set up in {folder.path}.")
    print(f"Read {folder.config_file}, then start it: fedshare-server run --state {folder.path}")
    return 0


def enrol(arguments: argparse.Namespace) -> int:
    """Write a one-time invitation for a party."""
    party, role, out = arguments.party, arguments.role, arguments.out
    if not _PARTY.fullmatch(party):
        raise ConfigError(
            f"{party!r} is no party id: expected a lower-case letter, then at most 31 lower-case letters, "
            "digits and hyphens"
        )
    if out.exists():
        raise ConfigError(f"{out}: exists already and is never overwritten: name another file")
    now = datetime.now(UTC)
    with open_state(arguments.state) as state:
        invitation = create_invitation(load_authority(state.folder, now), state.settings, party, role, now)
        state.store.add_invitation(
            InvitationRecord(invitation.key_digest, party, role, arguments.replace, invitation.expires_at)
        )
    write_new_file(out, invitation.document)
    print(f"{out} invites {party} as {role}, once, until {invitation.expires_at:%Y-%m-%d %H:%M} UTC.")
    print("It holds a secret key: hand it over by a private way. There: fedshare-node enrol FILE")
    return 0


def parties(arguments: argparse.Namespace) -> int:
    """List the enrolled parties and the open invitations."""
    now = datetime.now(UTC)
    with open_state(arguments.state) as state:
        rows = [
            (
                party.party,
                party.role,
                f"enrolled {party.enrolled_at:%Y-%m-%d}",
                fingerprint(party.identity_key),
            )
            for party in state.store.parties()
        ]
        rows += [
            (one.party, one.role, f"invited until {one.expires_at:%Y-%m-%d}", "")
            for one in state.store.invitations()
            if one.used_at is None and one.expires_at > now
        ]
    print_table(("PARTY", "ROLE", "STATE", "FINGERPRINT OF ITS IDENTITY KEY"), rows)
    return 0


@dataclass(frozen=True, slots=True)
class State:
    """An opened state folder."""

    folder: StateFolder
    settings: ServerConfig
    store: Store


@contextmanager
def open_state(path: Path) -> Iterator[State]:
    """Yield the coordinator's state at ``path`` and close its database in the end."""
    folder = StateFolder(path)
    settings = folder.load()
    with closing(open_store(folder.database_url(settings))) as store:
        yield State(folder, settings, store)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a head, columns aligned."""
    for line in _aligned([head, *rows]):
        print(line)


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
