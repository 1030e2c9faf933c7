"""The auditor's command in an environment that has the base dependencies and nothing else."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest
from audit_federation import Federation

ROOT = Path(__file__).parents[3]
ABSENT = ("flwr", "grpc", "torch", "numpy", "sqlalchemy", "pyarrow", "yaml")


def base_distributions():
    """Return the distributions that ``pip install fedshare`` would bring, by following what each requires."""
    found, names = {}, ["fedshare"]
    while names:
        name = names.pop()
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # for another platform or Python
            continue
        required = [each for each in found[name].requires or () if "extra ==" not in each]
        names += [re.match(r"[A-Za-z0-9._-]+", each).group().lower().replace("_", "-") for each in required]
    del found["fedshare"]
    return found


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    venv.create(folder, with_pip=False)
    site = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(folder)}))
    for distribution in base_distributions().values():
        for file in distribution.files:
            if ".." not in file.parts and file.suffix != ".pyc":
                target = site / file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(distribution.locate_file(file))
    (site / "fedshare.pth").write_text("".join(f"{ROOT / part}\n" for part in ("core", "clients")))
    return folder / "bin" / "python"


def audit(python, *arguments):
    command = [str(python), "-W", "error", "-m", "fedshare_clients.auditor.cli", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    made = Federation(tmp_path_factory.mktemp("log")).honest().log()
    (made.folder / "policy").write_text(made.policy_text)
    yield made
    made.close()


def test_the_environment_has_neither_flower_nor_grpc_nor_torch(python):
    for name in ABSENT:
        done = subprocess.run([str(python), "-c", f"import {name}"], capture_output=True, check=False)
        assert done.returncode == 1, name


def test_a_log_is_verified_shown_and_proved_there(python, federation):
    policy = ("--policy", federation.folder / "policy")
    verified = audit(python, "verify", federation.path, *policy, "--json")
    assert verified.returncode == 0, verified.stderr
    assert json.loads(verified.stdout)["findings"] == []
    assert audit(python, "show", federation.path, "--count", "1").returncode == 0
    receipt = federation.folder / "entry.tlog-proof"
    assert audit(python, "prove", federation.path, "3", "--out", receipt).returncode == 0
    checked = audit(python, "check-proof", receipt, *policy)
    assert checked.returncode == 0, checked.stderr


def test_a_cut_log_is_found_out_there(python, federation):
    cut = federation.copy("cut")
    shutil.rmtree(cut / "tile" / "entries")
    done = audit(python, "verify", cut, "--policy", federation.folder / "policy")
    assert done.returncode == 20, done.stderr
