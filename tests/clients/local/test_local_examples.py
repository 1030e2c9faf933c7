"""Every experiment of deploy/examples is one, and its contract would be drafted."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fedshare_clients.local.experiment import load_experiment

EXAMPLES = sorted((Path(__file__).parents[3] / "deploy" / "examples").glob("*.yaml"))
# A contract has a list of parties, and a comparison names an experiment.
EXPERIMENTS = [path for path in EXAMPLES if isinstance(yaml.safe_load(path.read_text()).get("parties"), dict)]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=[path.stem for path in EXPERIMENTS])
def test_the_example_is_an_experiment_with_a_contract(path, monkeypatch, tmp_path):
    monkeypatch.setenv("FEDSHARE_DATA", str(tmp_path))
    experiment = load_experiment(path)  # which refuses what would be no contract
    assert {party["id"] for party in experiment.contract_draft()["parties"]} == set(experiment.parties)
