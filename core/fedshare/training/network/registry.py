"""Networks by name: entry points of the group ``fedshare.networks``.

An entry point names a builder: a function that takes a ``Schema`` and settings by keyword and returns a ``torch.nn.Module``
whose ``forward(numeric, categories)`` returns one log-odds per row. A network of one's own is one file and one entry point:

    [project.entry-points."fedshare.networks"]
    wide = "our_networks:wide"

    def wide(schema: Schema, *, hidden: int = 256) -> nn.Module: ...

The contract's code digest covers fedshare's own files only. For any other network the contract therefore names the digest
of the file that defines it, and a bank refuses to run another one.
"""

from __future__ import annotations

import hashlib
import inspect
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from fedshare.errors import ConfigError, RefusedError

from .inputs import Schema

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedshare.contract.network import NetworkModel

__all__ = ["GROUP", "build_network", "file_digest", "verify_network"]

GROUP = "fedshare.networks"
_OWN = "fedshare.training.network.kinds."


def build_network(model: NetworkModel, schema: Schema) -> nn.Module:
    """Return a network with fresh parameters, drawn from torch's generator.

    Raises:
        ConfigError: no such network is installed, its settings are others, or it cannot be trained across banks.
    """
    builder = _builder(model.kind)
    _verify_settings(builder, model)
    try:
        network = builder(schema, **model.settings)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"network {model.kind}: cannot be built with these settings: {error}") from error
    if not isinstance(network, nn.Module) or not any(True for _ in network.parameters()):
        raise ConfigError(f"network {model.kind}: expected a torch module with parameters")
    if any(True for _ in network.buffers()):
        raise ConfigError(
            f"network {model.kind}: has buffers, as batch normalisation does; they would differ between banks and "
            "cannot be private: use layer normalisation"
        )
    return network


def verify_network(model: NetworkModel, party: str) -> None:
    """Check that this party has the contract's network.

    Raises:
        ConfigError: it is not installed, or its settings are others.
        RefusedError: ``network_differs``: its file is not the one that the contract names.
    """
    builder = _builder(model.kind)
    _verify_settings(builder, model)
    if builder.__module__.startswith(_OWN):
        return
    if file_digest(model.kind) != model.code_digest:
        raise RefusedError(
            "network_differs",
            f"the file of network {model.kind} is not the one whose code_digest the contract's bank_model names",
            party=party,
        )


def file_digest(kind: str) -> str:
    """Return the SHA-256 of the file that defines a network, hexadecimal.

    Raises:
        ConfigError: no such network is installed.
    """
    source = inspect.getsourcefile(_builder(kind))
    if source is None:
        raise ConfigError(f"network {kind}: expected its builder in a Python file")
    return hashlib.sha256(Path(source).read_bytes()).hexdigest()


def _builder(kind: str) -> Callable[..., nn.Module]:
    found = entry_points(group=GROUP)
    if kind not in found.names:
        known = ", ".join(sorted(found.names)) or "none"
        raise ConfigError(f"network {kind} is not installed here; there are: {known}")
    builder: Callable[..., nn.Module] = found[kind].load()
    return builder


def _verify_settings(builder: Callable[..., nn.Module], model: NetworkModel) -> None:
    signature = inspect.signature(builder)
    try:
        signature.bind(Schema(1, ()), **model.settings)
    except TypeError as error:
        known = ", ".join(list(signature.parameters)[1:]) or "none"
        raise ConfigError(f"network {model.kind}: {error}; its settings are: {known}") from error
