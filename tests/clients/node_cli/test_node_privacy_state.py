"""What was spent of the privacy budget stays spent, whatever happens to the process."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from functools import partial

import pytest

from fedshare.errors import RefusedError
from fedshare.privacy.budget import Amount, Spending, spent_by, verify_affordable
from fedshare_clients.node.state import NodeState

NOW = datetime(2026, 6, 1, tzinfo=UTC)
RUN = Spending("network", "", 1.0, 1e-6)
VERIFY = partial(
    verify_affordable,
    asked=[RUN],
    limits={"network": Amount(3.0, 1.0), "labels": Amount(0.0, 0.0)},
    party="bank",
)


@pytest.fixture
def state(tmp_path):
    state = NodeState(tmp_path / "state")
    state.create("label_holder", os.urandom)
    return state


def test_what_was_spent_is_there_after_a_restart(state):
    state.spend_privacy(1, [RUN], VERIFY, NOW)
    assert NodeState(state.folder).privacy_spent() == [RUN]


def test_a_node_that_is_killed_right_after_spending_has_spent(state):
    script = """
        import os, signal, sys
        from datetime import UTC, datetime
        from pathlib import Path
        from fedshare.privacy.budget import Spending
        from fedshare_clients.node.state import NodeState
        asked = [Spending("labels", "1", 2.0, 0.0)]
        NodeState(Path(sys.argv[1])).spend_privacy(7, asked, lambda spent: None, datetime.now(UTC))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(state.folder)], check=False, capture_output=True
    )
    assert ended.returncode == -9
    assert state.privacy_spent() == [Spending("labels", "1", 2.0, 0.0)]


def test_runs_at_once_never_spend_more_than_the_limit(state):
    def spend(run_id):
        try:
            state.spend_privacy(run_id, [RUN], VERIFY, NOW)
        except RefusedError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        allowed = list(pool.map(spend, range(8)))
    assert allowed.count(True) == 3
    assert spent_by(state.privacy_spent(), "network").epsilon == 3.0


@pytest.mark.parametrize("statement", ["DELETE FROM privacy", "UPDATE privacy SET epsilon = 0"])
def test_the_database_itself_takes_nothing_back(state, statement):
    state.spend_privacy(1, [RUN], VERIFY, NOW)
    refused = pytest.raises(sqlite3.IntegrityError, match="spent is spent")
    with closing(sqlite3.connect(state.folder / "node.sqlite")) as database, refused:
        database.execute(statement)
    assert state.privacy_spent() == [RUN]


def test_outcomes_are_pinned_per_epoch_and_new_customers_may_come(state):
    assert state.pin_outcomes("1", {b"a": b"0", b"b": b"1"}) == 0
    assert state.pin_outcomes("1", {b"a": b"0", b"c": b"1"}) == 0
    assert state.pin_outcomes("1", {b"a": b"1", b"b": b"0", b"d": b"0"}) == 2
    assert state.pin_outcomes("1", {b"d": b"1"}) == 0  # what was refused was not pinned
    assert state.pin_outcomes("2", {b"a": b"1"}) == 0


def test_the_key_of_the_noise_is_drawn_once(state):
    key = state.label_key()
    state.create("label_holder", os.urandom)
    assert len(key) == 32
    assert state.label_key() == key != state.holdout_seed()
