"""The roles' commands where only the audit library is installed: they say what is missing."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from fedshare_clients.start import node

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("module", "function", "extra", "missing"),
    [
        ("fedshare_clients.start", "node", "node", "pyarrow"),
        ("fedshare_clients.start", "local", "local", "sqlalchemy"),
        ("fedshare_server.start", "server", "server", "psycopg"),
    ],
)
def test_a_command_without_its_extra_says_what_to_install(tmp_path, module, function, extra, missing):
    (tmp_path / "fedshare-0.1.0.dist-info").mkdir()
    metadata = importlib.metadata.distribution("fedshare").read_text("METADATA")
    (tmp_path / "fedshare-0.1.0.dist-info" / "METADATA").write_text(metadata, encoding="utf-8")
    folders = [str(tmp_path), *(str(ROOT / part) for part in ("core", "clients", "server"))]
    # -S leaves out what is installed: nothing but the standard library and our own code is there.
    code = f"import sys; sys.path[:0] = {folders}; from {module} import {function}; sys.exit({function}())"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"fedshare-{extra}: this command needs more than the audit library: ")
    assert f'pip install ".[{extra}]"' in done.stderr
    assert missing in done.stderr
    assert ("install torch first" in done.stderr) == (extra != "server")
    assert "Traceback" not in done.stderr


def test_with_everything_installed_the_command_runs(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fedshare-node", "--help"])
    with pytest.raises(SystemExit) as ended:
        node()
    assert ended.value.code == 0
    assert "An institution's node" in capsys.readouterr().out
