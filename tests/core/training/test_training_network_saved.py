"""A saved network gives the scores that it was kept with, and damage is refused."""

from __future__ import annotations

import base64
import struct

import numpy as np
import pytest

from fedshare.contract.network import NetworkModel
from fedshare.credit.column import ColumnBins
from fedshare.errors import ConfigError
from fedshare.training.network.saved import SavedNetwork

MODEL = NetworkModel(kind="logistic", rounds=1)
AGE = ColumnBins("age", "numeric", (1.0, 2.0), (), 3)


class Rows:
    source = "rows"

    def __init__(self, **columns):
        self.columns = columns

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def column(self, name):
        return self.columns[name]


def document(*parameters, **changes):
    packed = base64.b64encode(struct.pack(f"<{len(parameters)}f", *parameters)).decode()
    return {"inputs": [AGE.to_dict()], "parameters": packed, "intercept": 0.25, **changes}


def test_a_saved_network_is_its_parameters():
    # One weight for the scaled number, one for the flag of a missing one, and a bias.
    network = SavedNetwork(document(2.0, 3.0, 0.5), MODEL)
    scores = network.scores(Rows(age=np.array([1.5, np.nan])))
    assert network.column_names == ["age"]
    np.testing.assert_allclose(scores, [2.0 * 0.0 + 0.5 + 0.25, 3.0 + 0.5 + 0.25], atol=1e-6)


@pytest.mark.parametrize(
    "damaged",
    [
        document(2.0, 3.0),
        document(2.0, 3.0, float("nan")),
        document(2.0, 3.0, 0.5, intercept=float("inf")),
        document(2.0, 3.0, 0.5, parameters="!"),
        {"inputs": []},
    ],
)
def test_a_damaged_network_is_refused(damaged):
    with pytest.raises(ConfigError, match="saved network"):
        SavedNetwork(damaged, MODEL)
