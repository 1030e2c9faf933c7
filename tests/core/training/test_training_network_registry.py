"""Networks by name, and one of an institution's own: one file and one entry point."""

from __future__ import annotations

import hashlib
import sys

import numpy as np
import pytest
import torch

from fedshare.contract.network import NetworkModel
from fedshare.errors import ConfigError, RefusedError
from fedshare.training.network.inputs import Schema
from fedshare.training.network.registry import build_network, file_digest, verify_network

SCHEMA = Schema(4, (3, 5))
SOURCE = """
import torch

class Wide(torch.nn.Module):
    def __init__(self, schema, hidden):
        super().__init__()
        self.layer = torch.nn.Linear(schema.numeric, hidden)
        self.norm = torch.nn.BatchNorm1d(hidden) if hidden == 13 else torch.nn.Identity()
    def forward(self, numeric, categories):
        return self.norm(self.layer(numeric)).sum(dim=-1)

def wide(schema, *, hidden: int = 8):
    return Wide(schema, hidden)
"""


@pytest.fixture
def own_network(tmp_path, monkeypatch):
    """Install a distribution with one file and one entry point."""
    (tmp_path / "an_institutions_network.py").write_text(SOURCE)
    info = tmp_path / "institution-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: institution\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fedshare.networks]\nwide = an_institutions_network:wide\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield hashlib.sha256(SOURCE.encode()).hexdigest()
    sys.modules.pop("an_institutions_network", None)


@pytest.mark.parametrize("kind", ["logistic", "mlp", "resnet"])
def test_our_networks_give_one_score_per_row_and_a_gradient_for_every_parameter(kind):
    network = build_network(NetworkModel(kind=kind), SCHEMA)
    scores = network(torch.randn(7, 4), torch.zeros((7, 2), dtype=torch.int64))
    assert scores.shape == (7,)
    scores.square().sum().backward() if kind != "logistic" else scores.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("kind", ["logistic", "mlp", "resnet"])
def test_our_networks_need_no_categories(kind):
    network = build_network(NetworkModel(kind=kind), Schema(4, ()))
    assert network(torch.randn(3, 4), torch.zeros((3, 0), dtype=torch.int64)).shape == (3,)


def test_settings_reach_the_network():
    sizes = [
        sum(
            each.numel()
            for each in build_network(NetworkModel(kind="mlp", settings=given), SCHEMA).parameters()
        )
        for given in ({"hidden": 8}, {"hidden": 16})
    ]
    assert sizes[0] < sizes[1]


def test_a_network_of_ones_own_is_one_file_and_one_entry_point(own_network):
    model = NetworkModel(kind="wide", settings={"hidden": 5}, code_digest=own_network)
    verify_network(model, "bank")
    assert file_digest("wide") == own_network
    scores = build_network(model, SCHEMA)(torch.ones(2, 4), torch.zeros((2, 2), dtype=torch.int64))
    assert np.isfinite(scores.detach().numpy()).all()


@pytest.mark.parametrize("digest", [None, "00" * 32])
def test_a_network_whose_file_the_contract_does_not_name_is_refused(own_network, digest):
    with pytest.raises(RefusedError) as refusal:
        verify_network(NetworkModel(kind="wide", code_digest=digest), "bank")
    assert refusal.value.code == "network_differs"


def test_a_network_with_running_means_is_refused(own_network):
    with pytest.raises(ConfigError, match="buffers"):
        build_network(NetworkModel(kind="wide", settings={"hidden": 13}, code_digest=own_network), SCHEMA)


def test_an_unknown_network_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="logistic, mlp, resnet"):
        verify_network(NetworkModel(kind="transformer"), "bank")


def test_a_setting_that_the_network_does_not_have_is_refused():
    with pytest.raises(ConfigError, match=r"depth.*its settings are: hidden, layers, embedding, dropout"):
        verify_network(NetworkModel(kind="mlp", settings={"depth": 3}), "bank")


def test_a_setting_that_torch_refuses_is_refused():
    with pytest.raises(ConfigError, match="cannot be built"):
        build_network(NetworkModel(kind="mlp", settings={"hidden": "many"}), SCHEMA)
