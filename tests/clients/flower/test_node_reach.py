"""The node says when the coordinator cannot be reached, and when it can be again."""

from __future__ import annotations

import logging
import socket
import threading

import pytest

from fedshare.errors import UnavailableError
from fedshare_clients.node.reach import Watch, await_coordinator, probe

ADDRESS = "coordinator.example:9092"


def test_a_port_that_listens_can_be_reached_and_one_that_does_not_cannot():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert probe(address) == ""
    assert probe(address) == "Connection refused"


def test_a_name_that_means_nothing_is_a_cause_and_no_exception():
    assert probe("no-such-host.invalid:9092")


def test_the_start_waits_for_a_coordinator_that_comes_later():
    causes = iter(["Connection refused", "Connection refused", ""])
    await_coordinator(ADDRESS, 60.0, threading.Event(), lambda _: next(causes))
    assert next(causes, None) is None


def test_a_coordinator_that_stays_away_is_named_with_the_cause():
    with pytest.raises(
        UnavailableError, match=r"coordinator.example:9092 .* 0.1 seconds \(No route to host\)"
    ):
        await_coordinator(ADDRESS, 0.1, threading.Event(), lambda _: "No route to host")


def test_a_node_that_is_stopped_waits_no_longer():
    stopping = threading.Event()
    stopping.set()
    await_coordinator(ADDRESS, 60.0, stopping, lambda _: "Connection refused")


def test_a_watch_says_once_that_the_coordinator_has_gone_and_once_that_it_is_back(caplog):
    now, cause, asked = [0.0], [""], []

    def look_every_second(seconds):
        for _ in range(seconds):
            now[0] += 1.0
            watch.look()

    def port(address):
        asked.append(now[0])
        return cause[0]

    watch = Watch(ADDRESS, probe=port, clock=lambda: now[0])
    with caplog.at_level(logging.WARNING):
        look_every_second(100)
        assert caplog.messages == []
        cause[0] = "Connection refused"
        look_every_second(100)
        cause[0] = ""
        look_every_second(100)
    gone, back = caplog.messages
    assert "cannot be reached (Connection refused)" in gone
    assert "can be reached again" in back
    assert len(asked) < 20
