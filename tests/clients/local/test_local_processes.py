"""Processes of the local harness: whose end is noticed, and how it is told."""

import signal
import time

import pytest

from fedshare.errors import RunFailedError
from fedshare_clients.local.processes import Processes


@pytest.fixture
def processes(tmp_path):
    with Processes(tmp_path / "logs", {}) as found:
        yield found


def await_end(processes, name):
    while not processes.has_ended(name):
        time.sleep(0.01)


def test_a_process_that_was_killed_is_named_with_its_signal(processes):
    node = processes.start("tax", ["sleep", "60"])
    assert processes.verify_alive() == ""
    node.send_signal(signal.SIGKILL)
    await_end(processes, "tax")
    assert processes.verify_alive() == "tax: its process was killed by SIGKILL"


def test_a_process_that_ended_by_itself_is_an_error_with_its_last_words(processes):
    processes.start("tax", ["sh", "-c", "echo no room on the disk; exit 8"])
    await_end(processes, "tax")
    with pytest.raises(RunFailedError, match="tax: no room on the disk") as caught:
        processes.verify_alive()
    assert caught.value.exit_code == 8


def test_a_process_that_may_end_is_not_missed(processes):
    processes.start("bank-b", ["false"])
    processes.start("tax", ["sleep", "60"])
    await_end(processes, "bank-b")
    assert processes.verify_alive(["bank-b"]) == ""
