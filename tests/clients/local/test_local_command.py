"""``fedshare-local run`` from the command line, as far as it goes before any process starts."""

import pytest
import yaml

from fedshare.errors import ConfigError
from fedshare_clients.local.cli import main
from fedshare_clients.local.experiment import load_experiment

EXPERIMENT = {
    "name": "small",
    "seed": 1,
    "alignment": {"identifier": "opaque", "quota": 10},
    "parties": {
        "tax": {
            "role": "feature_holder",
            "source": {"kind": "csv", "path": "nowhere.csv", "identifier": "code"},
            "columns": ["turnover"],
        },
        "bank": {
            "role": "label_holder",
            "source": {"kind": "csv", "path": "nowhere.csv", "identifier": "code", "label": "bad"},
            "columns": ["usage"],
        },
    },
}


def run(folder, capsys):
    (folder / "small.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    code = main(["run", str(folder / "small.yaml"), "--out", str(folder / "out")])
    return code, capsys.readouterr().err


def test_after_a_mistake_in_the_data_the_same_command_may_be_given_again(tmp_path, capsys):
    first = run(tmp_path, capsys)
    assert first[0] == 3
    assert "nowhere.csv" in first[1]
    assert run(tmp_path, capsys) == first


def test_a_missing_file_of_any_party_is_told_before_another_partys_rows_are_read(tmp_path, capsys):
    (tmp_path / "nowhere.csv").write_text("no rows that could be read")
    holder = {**EXPERIMENT["parties"]["tax"], "source": {"kind": "csv", "path": "gone.csv"}}
    experiment = {**EXPERIMENT, "parties": {**EXPERIMENT["parties"], "tax": holder}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(experiment))
    assert main(["run", str(tmp_path / "small.yaml"), "--out", str(tmp_path / "out")]) == 3
    said = capsys.readouterr().err
    assert "party tax" in said
    assert "gone.csv: there is no such file" in said


@pytest.mark.parametrize(
    ("name", "columns", "said"),
    [
        ("Tax Bureau", ["age"], "'Tax Bureau' cannot be a party's name"),
        ("coordinator", ["age"], "'coordinator' cannot be a party's name"),
        ("tax", ["age", {"name": "age", "bins": 5}], "parties.tax.columns: listed twice: age"),
        ("tax", [{"name": "age", "bin": 5}], "parties.tax.columns.0.bin: unknown field; did you mean bins?"),
    ],
)
def test_parties_and_columns_that_no_contract_could_have_are_told_before_anything_starts(
    tmp_path, name, columns, said
):
    parties = {**EXPERIMENT["parties"], name: {**EXPERIMENT["parties"]["tax"], "columns": columns}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({**EXPERIMENT, "parties": parties}))
    with pytest.raises(ConfigError) as caught:
        load_experiment(tmp_path / "small.yaml")
    assert said in str(caught.value)
    assert "small.yaml" in str(caught.value)


def test_a_folder_of_data_that_is_named_by_an_empty_variable_is_asked_for(tmp_path, monkeypatch):
    (tmp_path / "small.yaml").write_text("name: ${FEDSHARE_DATA}")
    monkeypatch.setenv("FEDSHARE_DATA", "")
    with pytest.raises(ConfigError, match="FEDSHARE_DATA, which is not set or empty"):
        load_experiment(tmp_path / "small.yaml")


def test_an_economy_too_small_to_train_on_is_refused(tmp_path, capsys):
    assert main(["economy", "--out", str(tmp_path / "data"), "--enterprises", "10"]) == 2
    assert "at least 1,000 enterprises" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_a_folder_with_a_run_in_it_is_refused(tmp_path, capsys):
    (tmp_path / "out" / "coordinator").mkdir(parents=True)
    code, said = run(tmp_path, capsys)
    assert code == 2
    assert "holds the results of an earlier run (coordinator)" in said


def test_an_experiment_that_says_a_thing_twice_is_refused(tmp_path):
    (tmp_path / "experiment.yaml").write_text("name: a\nname: b\n")
    with pytest.raises(ConfigError, match="the key name is there twice"):
        load_experiment(tmp_path / "experiment.yaml")


def test_banks_whose_columns_differ_are_told_which_before_anything_starts(tmp_path, capsys):
    bank = EXPERIMENT["parties"]["bank"]
    others = {"bank-b": [{"name": "usage", "kind": "categorical"}], "bank-c": ["usage", "age"]}
    parties = {
        **EXPERIMENT["parties"],
        **{name: {**bank, "columns": columns} for name, columns in others.items()},
    }
    (tmp_path / "banks.yaml").write_text(yaml.safe_dump({**EXPERIMENT, "parties": parties}))
    assert main(["run", str(tmp_path / "banks.yaml"), "--out", str(tmp_path / "out")]) == 2
    assert "usage has kind numeric at bank and categorical at bank-b" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        (
            {"bank_model": {"kind": "mlp"}, "between_banks": {"lost_bank": "recover"}},
            "contract: lost_bank: recover goes without feature holders",
        ),
        (
            {"scoring": {"quota": 9, "profile": {"consent_key": "nobody", "releases": ["band"]}}},
            "contract: scoring.profile.consent_key: expected an Ed25519 public key in base64 or, in a draft, the id of",
        ),
    ],
)
def test_terms_that_no_contract_could_have_are_told_before_anything_starts(tmp_path, capsys, terms, said):
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({**EXPERIMENT, **terms}))
    assert main(["run", str(tmp_path / "small.yaml"), "--out", str(tmp_path / "out")]) == 2
    assert f"small.yaml: {said}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_party_may_attest_consents_by_its_name(tmp_path):
    profile = {"consent_key": "tax", "releases": ["band"]}
    experiment = {**EXPERIMENT, "scoring": {"quota": 9, "profile": profile}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(experiment))
    assert load_experiment(tmp_path / "small.yaml").scoring.profile.consent_key == "tax"


def test_a_folder_without_a_run_cannot_be_served(tmp_path, capsys):
    assert main(["serve", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_a_model_whose_contract_does_not_speak_of_scoring_is_not_served(tmp_path, capsys):
    (tmp_path / "contract.yaml").write_text(yaml.safe_dump({"name": "small", "parties": [], "scoring": None}))
    assert main(["serve", str(tmp_path)]) == 2
    assert "no section `scoring`" in capsys.readouterr().err


def test_what_only_a_bank_decides_is_refused_at_a_holder(tmp_path):
    tax = {**EXPERIMENT["parties"]["tax"], "bands": [{"name": "all"}]}
    (tmp_path / "small.yaml").write_text(
        yaml.safe_dump({**EXPERIMENT, "parties": {**EXPERIMENT["parties"], "tax": tax}})
    )
    with pytest.raises(ConfigError, match=r"parties\.tax: .*bands .*belong to a label_holder"):
        load_experiment(tmp_path / "small.yaml")
