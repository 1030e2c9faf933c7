"""``fedshare-server run`` with its real SuperLink: it answers, says why it ends, and leaves nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import psutil
import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.system

SERVER = [sys.executable, "-c", "import sys; from fedshare_server.cli import main; sys.exit(main())"]


def call(state: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"FEDSHARE_STATE": str(state)}
    return subprocess.run(
        [*SERVER, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def state(tmp_path: Path) -> Path:
    with socket.socket() as one, socket.socket() as two, socket.socket() as three:
        sockets = dict(zip(("grpc_port", "fleet_port", "superlink_port"), (one, two, three), strict=True))
        for each in sockets.values():
            each.bind(("127.0.0.1", 0))
        ports = {name: each.getsockname()[1] for name, each in sockets.items()}
    (tmp_path / "server.yaml").write_text(yaml.safe_dump({"name": "127.0.0.1", **ports}))
    state = tmp_path / "state"
    assert call(state, "init", "--config", str(tmp_path / "server.yaml")).returncode == 0
    return state


@contextmanager
def running(state: Path) -> Iterator[psutil.Popen]:
    server = psutil.Popen(
        [*SERVER, "run", "--state", str(state)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        while not (state / "ready").exists():
            assert server.poll() is None, server.communicate()[1]
            time.sleep(0.05)
        yield server
    finally:
        for process in [*server.children(recursive=True), server] if server.is_running() else []:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        server.communicate()


def ended(children: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(children, timeout=10)[1]


def test_a_coordinator_serves_on_two_outside_ports_and_ends_with_everything_it_started(state: Path) -> None:
    with running(state) as server:
        children = server.children(recursive=True)
        outside = {
            connection.laddr.port
            for process in [server, *children]
            for connection in process.net_connections()
            if connection.status == psutil.CONN_LISTEN and not connection.laddr.ip.endswith("127.0.0.1")
        }
        second = call(state, "run")
        server.send_signal(signal.SIGTERM)
        out, err = server.communicate(timeout=30)
    assert (server.returncode, err) == (0, "")
    assert out.startswith("Ready: gRPC at 127.0.0.1:")
    assert (second.returncode, "another fedshare-server runs" in second.stderr) == (2, True)
    assert len(children) >= 2
    settings = yaml.safe_load((state / "server.yaml").read_text())
    assert outside == {settings["grpc_port"], settings["fleet_port"]}
    assert ended(children)
    assert not (state / "ready").exists()


def test_a_dead_superlink_ends_the_coordinator_with_one_readable_cause(state: Path) -> None:
    with running(state) as server:
        children = server.children(recursive=True)
        next(child for child in children if "superlink_child" in " ".join(child.cmdline())).kill()
        _, err = server.communicate(timeout=30)
    assert server.returncode == 6
    assert err.startswith("fedshare-server: a part of Flower has ended")
    assert err.count("\n") == 1
    assert ended(children)


def test_a_killed_coordinator_leaves_no_process(state: Path) -> None:
    with running(state) as server:
        children = server.children(recursive=True)
        server.kill()
        server.communicate()
        assert ended(children)


def test_a_taken_port_is_the_one_readable_cause(state: Path) -> None:
    port = yaml.safe_load((state / "server.yaml").read_text())["grpc_port"]
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        done = call(state, "run")
    assert done.returncode == 6
    assert f"cannot listen on 0.0.0.0:{port}" in done.stderr
    assert done.stderr.count("\n") == 1
