"""Using a trained model: what banks are answered, what holders count, and parties that misbehave while they serve."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from simulation import Simulation, small_economy, split_banks, split_holders

from fedshare.errors import ConfigError, DataError
from fedshare.scoring.answer import Answer, Band, verify_receipt
from fedshare.wire.v1 import payload_pb2 as payload
from fedshare_clients.node.data import Table
from fedshare_clients.node.service import NodeService
from fedshare_clients.node.serving import ScoringSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from fedshare.identity.envelope import Envelope
    from fedshare_clients.node.scorer import Scorer

MODEL = {"max_iterations": 2, "tolerance": 1e-9}
REASONS = [
    {"name": "sales", "party": "tax", "columns": ["turnover", "margin"]},
    {"name": "history", "party": "registry", "columns": ["age"]},
]
OUTSIDE = b"enterprise nobody"


def trained(tables: Mapping[str, Table] | None = None, **scoring: Any) -> Simulation:
    """Return a federation with a trained model and a contract that lets the bank use it."""
    tables = tables or small_economy(200, 260)
    simulation = Simulation(
        tables, minimum_cohort=5, model=MODEL, scoring={"quota": 10_000, "refresh_seconds": 86_400} | scoring
    )
    replies = simulation.run()
    assert {reply["status"] for reply in replies.values()} == {"ok"}
    for platform in simulation.platforms.values():
        platform.scoring = ScoringSettings(
            bands=[Band("approve", 0.2), Band("review", 0.5), Band("decline", 1.0)], wait_seconds=5.0
        )
    return simulation


def served(simulation: Simulation) -> Scorer:
    replies = simulation.serve()
    assert {reply["status"] for reply in replies.values()} == {"ok"}, replies
    return simulation.platforms["bank"].scoring.desk.find("simulated")


def ask(scorer: Scorer, identifier: bytes, cells: Mapping[str, Any] | None = None) -> Answer:
    return asyncio.run(scorer.answer(identifier.decode(), cells or {}))


def ask_all(scorer: Scorer, identifiers: Iterable[bytes]) -> list[Answer]:
    async def together() -> list[Answer]:
        return await asyncio.gather(*(scorer.answer(each.decode(), {}) for each in identifiers))

    return asyncio.run(together())


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def end(simulation: Simulation) -> None:
    simulation.ask("close", 2)


@pytest.fixture(scope="module")
def serving() -> Iterator[tuple[Simulation, Scorer]]:
    simulation = trained(reasons=REASONS)
    yield simulation, served(simulation)
    end(simulation)


def known_to_all(simulation: Simulation) -> list[bytes]:
    tables = [platform.table.identifiers for platform in simulation.platforms.values()]
    return sorted(set.intersection(*map(set, tables)))


def test_the_customers_of_training_are_scored_as_training_scored_them(
    serving: tuple[Simulation, Scorer],
) -> None:
    simulation, scorer = serving
    kept = simulation.platforms["bank"].customers
    assert kept is not None
    answers = ask_all(scorer, [each.encode() for each in kept["identifier"]])
    probabilities = np.array([answer.probability for answer in answers], dtype=np.float64)
    np.testing.assert_allclose(np.log(probabilities / (1 - probabilities)), kept["score"], atol=1e-8)
    assert {(answer.status, answer.own_columns) for answer in answers} == {("scored", "table")}


@pytest.mark.parametrize("holders", [1, 3])
def test_scores_are_those_of_training_with_one_holder_and_with_three(holders: int) -> None:
    tables = small_economy(200, 260)
    tables = split_holders(tables) if holders == 3 else {"bank": tables["bank"], "tax": tables["tax"]}
    simulation = trained(tables)
    kept = simulation.platforms["bank"].customers
    assert kept is not None
    answers = ask_all(served(simulation), [each.encode() for each in kept["identifier"]])
    end(simulation)
    probabilities = np.array([answer.probability for answer in answers], dtype=np.float64)
    np.testing.assert_allclose(np.log(probabilities / (1 - probabilities)), kept["score"], atol=1e-8)


def test_several_banks_score_their_customers_with_the_model_that_they_share() -> None:
    tables = split_banks(small_economy(600, 700), [1, 1, 2])
    simulation = trained(tables)
    replies = simulation.serve()
    assert {reply["status"] for reply in replies.values()} == {"ok"}, replies
    for bank in simulation.contract.banks():
        platform = simulation.platforms[bank.id]
        assert platform.customers is not None
        scorer = platform.scoring.desk.find("simulated")
        answers = ask_all(scorer, [each.encode() for each in platform.customers["identifier"]])
        probabilities = np.array([answer.probability for answer in answers], dtype=np.float64)
        np.testing.assert_allclose(
            np.log(probabilities / (1 - probabilities)), platform.customers["score"], atol=1e-8
        )
        assert simulation.platforms["tax"].spent[simulation.contract.digest(), f"scored/{bank.id}"] >= len(
            answers
        )
    end(simulation)


def test_a_bank_that_is_lost_leaves_the_others_their_scores() -> None:
    tables = split_banks(small_economy(600, 700), [1, 1, 1])
    simulation = trained(tables, quota=500)
    assert {reply["status"] for reply in simulation.serve().values()} == {"ok"}
    left, lost = (simulation.platforms[name] for name in ("bank-a", "bank-c"))
    assert left.customers is not None
    scorer, names = left.scoring.desk.find(""), [each.encode() for each in left.customers["identifier"]]
    assert ask(scorer, names[0]).status == "scored"
    assert ask(lost.scoring.desk.find(""), names[0]).reason in {"", "unknown_enterprise"}
    simulation.exchange.lose("bank-c")
    # What a holder counted ahead for the bank that is gone it takes off again.
    counted = (simulation.contract.digest(), "scored/bank-c")
    wait_for(lambda: simulation.platforms["tax"].spent[counted] == 1)
    assert ask(scorer, names[1]).status == "scored"
    assert simulation.exchange.aborted is None
    end(simulation)


@pytest.mark.parametrize("banks", [1, 2])
def test_a_network_of_the_banks_is_part_of_their_scores(banks: int) -> None:
    tables = small_economy(600, 700)
    changes: dict[str, Any] = {
        "model": {"max_iterations": 2},
        "bank_model": {"kind": "mlp", "settings": {"hidden": 4}, "rounds": 2, "learning_rate": 0.2},
    }
    if banks == 2:
        tables, changes["between_banks"] = split_banks(tables, [1, 1]), {"accept_two": True}
    simulation = Simulation(
        tables, minimum_cohort=5, scoring={"quota": 5000, "fallback": "own_model"}, **changes
    )
    assert {reply["status"] for reply in simulation.run().values()} == {"ok"}
    assert {reply["status"] for reply in simulation.serve().values()} == {"ok"}
    bank = simulation.contract.banks()[0].id
    kept, scorer = simulation.platforms[bank].customers, simulation.platforms[bank].scoring.desk.find("")
    assert kept is not None
    answers = ask_all(scorer, [each.encode() for each in kept["identifier"]])
    probabilities = np.array([answer.probability for answer in answers], dtype=np.float64)
    np.testing.assert_allclose(np.log(probabilities / (1 - probabilities)), kept["score"], atol=1e-5)
    low, high = (ask(scorer, kept["identifier"][0].encode(), {"utilisation": value}) for value in (-2.0, 2.0))
    assert low.own_columns == "given"
    assert low.probability != high.probability
    end(simulation)
    assert ask(scorer, kept["identifier"][0].encode()).status == "fallback"


def test_an_answer_says_points_band_coverage_model_and_age(serving: tuple[Simulation, Scorer]) -> None:
    simulation, scorer = serving
    answer = ask(scorer, known_to_all(simulation)[0])
    assert answer.probability is not None
    good = (1 - answer.probability) / answer.probability
    assert answer.points == round(600 + 20 / np.log(2) * np.log(good / 50))
    expected = (
        "approve" if answer.probability <= 0.2 else "review" if answer.probability <= 0.5 else "decline"
    )
    assert answer.band == expected
    assert answer.coverage == {"registry": True, "tax": True}
    digest, run, commitment = answer.model.split("/")
    result = simulation.platforms["bank"].result
    assert result is not None
    assert (digest, run, commitment) == (simulation.contract.digest(), "1", result["commitment"]["digest"])
    assert answer.age_seconds is not None
    assert answer.age_seconds >= 0


def test_a_receipt_proves_the_answer_and_no_other(serving: tuple[Simulation, Scorer]) -> None:
    simulation, scorer = serving
    answer = ask(scorer, known_to_all(simulation)[0])
    verify_receipt(answer, simulation.platforms["bank"].identity.public_bytes())


def test_an_applicant_brings_own_columns_of_the_bank(serving: tuple[Simulation, Scorer]) -> None:
    simulation, scorer = serving
    strangers = set(simulation.platforms["registry"].table.identifiers) - set(
        simulation.platforms["bank"].table.identifiers
    )
    (name, *_) = sorted(strangers)
    low, high = (ask(scorer, name, {"utilisation": value}) for value in (-3.0, 3.0))
    assert low.own_columns == high.own_columns == "given"
    assert low.probability is not None
    assert high.probability is not None
    assert low.probability < high.probability
    assert ask(scorer, name).own_columns == "missing"


def test_own_columns_that_the_model_does_not_have_are_refused(serving: tuple[Simulation, Scorer]) -> None:
    simulation, scorer = serving
    with pytest.raises(DataError, match="utilisation"):
        ask(scorer, known_to_all(simulation)[0], {"mood": 1.0})


def test_an_enterprise_that_a_holder_does_not_know_is_not_scored(serving: tuple[Simulation, Scorer]) -> None:
    simulation, scorer = serving
    tax, registry = (set(simulation.platforms[name].table.identifiers) for name in ("tax", "registry"))
    (name, *_) = sorted(tax - registry)
    answer = ask(scorer, name)
    assert (answer.status, answer.reason, answer.probability) == ("withheld", "unknown_enterprise", None)
    assert answer.coverage == {"registry": False, "tax": True}
    nobody = ask(scorer, OUTSIDE)
    assert (nobody.reason, nobody.coverage) == ("unknown_enterprise", {"registry": False, "tax": False})


def test_reasons_are_the_groups_that_cost_most_points(serving: tuple[Simulation, Scorer]) -> None:
    simulation, scorer = serving
    names = known_to_all(simulation)
    answers = dict(zip(names, ask_all(scorer, names), strict=True))
    margin = dict(
        zip(
            simulation.platforms["tax"].table.identifiers,
            simulation.platforms["tax"].table.columns["margin"],
            strict=True,
        )
    )
    worst, best = min(names, key=lambda name: margin[name]), max(names, key=lambda name: margin[name])
    assert "sales" in answers[worst].reasons  # risk falls with the margin
    assert all(set(answer.reasons) <= {"sales", "history", "utilisation"} for answer in answers.values())
    assert answers[worst].reasons != answers[best].reasons


def test_no_reasons_of_holders_come_without_the_contracts_word() -> None:
    simulation = trained()
    answers = ask_all(served(simulation), known_to_all(simulation))
    end(simulation)
    assert {reason for answer in answers for reason in answer.reasons} <= {"utilisation"}


def test_an_enterprise_is_asked_for_once_and_a_holder_counts_it_once(
    serving: tuple[Simulation, Scorer],
) -> None:
    simulation, scorer = serving
    name = known_to_all(simulation)[1]
    ask(scorer, name)
    crossed = len(simulation.exchange.crossed)
    assert ask(scorer, name).status == "scored"
    ask_all(scorer, [name] * 20)
    assert len(simulation.exchange.crossed) == crossed


def test_questions_at_once_go_in_few_messages() -> None:
    simulation = trained()
    scorer = served(simulation)
    before = len(simulation.exchange.crossed)
    ask_all(scorer, known_to_all(simulation))
    asked = [
        each for each in simulation.exchange.crossed[before:] if each.step.startswith("BlindedIdentifiers")
    ]
    end(simulation)
    assert 2 <= len(asked) <= 40  # of nearly 200 enterprises at two holders


def test_the_quota_of_scoring_is_counted_over_serving_runs_and_apart_from_training() -> None:
    simulation = trained(quota=3)
    names = known_to_all(simulation)
    scorer = served(simulation)
    answers = ask_all(scorer, names[:5])
    assert [answer.status for answer in answers].count("scored") == 3
    assert {answer.reason for answer in answers if answer.status != "scored"} == {"quota_exceeded"}
    assert ask(scorer, names[0]).status == "scored"  # what was answered stays answered
    end(simulation)
    assert simulation.platforms["tax"].spent[simulation.contract.digest(), "scored/bank"] == 3
    replies = simulation.serve(3)
    assert {reply["status"] for reply in replies.values()} == {"ok"}
    again = ask(simulation.platforms["bank"].scoring.desk.find(""), names[0])
    assert (again.status, again.reason) == ("withheld", "quota_exceeded")
    simulation.ask("close", 3)


def test_a_refreshed_column_shows_what_has_changed_and_asks_for_no_keys() -> None:
    simulation = trained(refresh_seconds=1, max_age_seconds=5)
    names = known_to_all(simulation)
    scorer = served(simulation)
    before = ask_all(scorer, names)
    crossed = len(simulation.exchange.crossed)
    tax = simulation.platforms["tax"]
    tax.table = Table(
        "tax", tax.table.identifiers, {**tax.table.columns, "margin": -tax.table.columns["margin"]}
    )

    def has_changed() -> bool:
        return ask(scorer, names[0]).probability != before[0].probability

    wait_for(has_changed)
    after = ask_all(scorer, names)
    changed = [old.probability != new.probability for old, new in zip(before, after, strict=True)]
    assert sum(changed) > len(names) / 2
    later = simulation.exchange.crossed[crossed:]
    assert all(each.step.startswith("ScoreColumn/") for each in later)
    end(simulation)


def test_a_stale_column_is_refused_and_its_age_is_shown() -> None:
    simulation = trained(refresh_seconds=1, max_age_seconds=1)
    name = known_to_all(simulation)[0]
    scorer = served(simulation)
    assert ask(scorer, name).status == "scored"
    simulation.platforms["tax"].table = Table(
        "tax", [b"a"], {}
    )  # cannot be scored: no column comes from now on
    wait_for(lambda: ask(scorer, name).reason == "stale_scores")
    answer = ask(scorer, name)
    assert answer.status == "withheld"
    assert answer.age_seconds is not None
    assert answer.age_seconds > 1
    end(simulation)


def test_a_holder_whose_rows_could_not_be_read_for_a_while_is_level_with_the_others_again() -> None:
    simulation = trained(refresh_seconds=1, max_age_seconds=2)
    name = known_to_all(simulation)[0]
    scorer = served(simulation)
    before = ask(scorer, name)
    tax = simulation.platforms["tax"]
    rows, tax.table = tax.table, Table("tax", [b"a"], {})
    wait_for(lambda: ask(scorer, name).reason == "stale_scores")
    tax.table = rows
    wait_for(lambda: ask(scorer, name).status == "scored")
    answer = ask(scorer, name)
    assert answer.probability == before.probability
    assert answer.age_seconds is not None
    assert answer.age_seconds <= 2
    columns = scorer._bank._columns.values()
    assert all(len(kept) <= 2 for kept in columns)
    end(simulation)


def test_without_a_serving_run_the_bank_answers_as_the_contract_says() -> None:
    for fallback, status in (("withhold", "withheld"), ("own_model", "fallback")):
        simulation = trained(fallback=fallback)
        scorer = served(simulation)
        end(simulation)
        answer = ask(scorer, simulation.platforms["bank"].table.identifiers[0])
        assert (answer.status, answer.reason) == (status, "no_serving_run")
        assert (answer.probability is None) == (fallback == "withhold")
        # Nothing is made up for an enterprise of which the bank itself knows nothing.
        assert ask(scorer, OUTSIDE).status == "withheld"


def test_after_a_holder_was_lost_the_next_serving_run_scores_again_with_keys_of_its_own() -> None:
    simulation = trained()
    names = known_to_all(simulation)
    scorer = served(simulation)
    before = ask_all(scorer, names[:3])
    tags = [each for each in simulation.exchange.crossed if each.step.startswith("ScoreColumn")]
    simulation.services["tax"] = NodeService(simulation.platforms["tax"])  # type: ignore[arg-type] # its process was restarted
    for party in ("bank", "registry"):
        simulation.ask_each("close", 2, {party: {"reason": "party tax was lost"}})
    assert ask(scorer, names[0]).reason == "no_serving_run"
    replies = simulation.serve(3)
    assert {reply["status"] for reply in replies.values()} == {"ok"}, replies
    again = simulation.platforms["bank"].scoring.desk.find("simulated")
    asked = len(simulation.exchange.crossed)
    after = ask_all(again, names[:3])
    assert [answer.probability for answer in after] == [answer.probability for answer in before]
    assert any(each.step.startswith("BlindedIdentifiers") for each in simulation.exchange.crossed[asked:])
    assert len(tags) == 2
    simulation.ask("close", 3)


def test_the_fallback_is_the_model_that_the_bank_trained_alone() -> None:
    simulation = trained(fallback="own_model")
    scorer = served(simulation)
    end(simulation)
    kept = simulation.platforms["bank"].customers
    assert kept is not None
    answers = ask_all(scorer, [each.encode() for each in kept["identifier"]])
    probabilities = np.array([answer.probability for answer in answers], dtype=np.float64)
    np.testing.assert_allclose(np.log(probabilities / (1 - probabilities)), kept["bank_only"], atol=1e-9)


def test_a_holder_that_does_not_answer_is_named_as_offline() -> None:
    def silent(envelope: Envelope) -> list[Envelope]:
        return [] if (envelope.sender, envelope.phase) == ("tax", "serve") else [envelope]

    simulation = trained()
    simulation.exchange._tamper = silent
    simulation.platforms["bank"].scoring = ScoringSettings(wait_seconds=0.2)
    scorer = served(simulation)
    answer = ask(scorer, known_to_all(simulation)[0])
    assert (answer.status, answer.reason) == ("withheld", "holder_offline")
    end(simulation)


def test_an_expired_contract_scores_nothing_not_even_as_a_fallback() -> None:
    simulation = trained(fallback="own_model")
    names = known_to_all(simulation)
    scorer = served(simulation)
    assert ask(scorer, names[0]).status == "scored"
    for name in ("registry", "tax"):
        simulation.platforms[name].time += timedelta(days=365)
    refused = ask(scorer, names[1])
    assert (refused.status, refused.reason) == ("fallback", "contract_expired")
    simulation.platforms["bank"].time += timedelta(days=365)
    for name in names[:2]:
        answer = ask(scorer, name)
        assert (answer.status, answer.reason) == ("withheld", "contract_expired")
    end(simulation)


@pytest.mark.parametrize("party", ["bank", "tax"])
def test_a_party_that_takes_its_approval_back_serves_nothing_more(party: str) -> None:
    simulation = trained(fallback="own_model")
    names = known_to_all(simulation)
    scorer = served(simulation)
    assert ask(scorer, names[0]).status == "scored"
    simulation.platforms[party].has_revoked = True
    time.sleep(1.1)  # a node looks once a second
    answer = ask(scorer, names[1])
    assert (answer.reason, answer.status) == (
        "contract_revoked",
        "withheld" if party == "bank" else "fallback",
    )
    end(simulation)


def test_scores_are_counted_in_the_log_and_holders_learn_numbers_only() -> None:
    simulation = trained()
    names = known_to_all(simulation)
    scorer = served(simulation)
    ask_all(scorer, names[:7])
    end(simulation)
    counts = [each.count for each in simulation.platforms["bank"].said if each.kind == "scoring"]
    assert counts == [7]
    kept = simulation.platforms["tax"].results[2]
    assert kept["identifiers_answered"] == {"bank": 7}
    # Of what was counted ahead, the rest is given back.
    wait_for(lambda: simulation.platforms["tax"].spent[simulation.contract.digest(), "scored/bank"] == 7)
    assert not any(name.decode() in str(kept) for name in names)


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda platform: platform.results.clear(), "model_unknown"),
        (lambda platform: platform.results[1].update(contract_digest="00" * 32), "model_unknown"),
        (lambda platform: platform.results[1]["weights"].__setitem__(0, 9.0), "ProtocolError"),
        (lambda platform: setattr(platform, "table", Table("rows", [b"a"], {})), "DataError"),
    ],
    ids=["nothing kept", "another contract", "altered weights", "rows without columns"],
)
@pytest.mark.parametrize("party", ["bank", "tax"])
def test_a_party_that_cannot_serve_ends_the_run_at_hello(
    party: str, spoil: Callable[[Any], None], code: str
) -> None:
    simulation = trained()
    spoil(simulation.platforms[party])
    replies = simulation.serve()
    assert replies[party]["code"] == code
    assert all(not service._runs for service in simulation.services.values())


def test_a_contract_that_does_not_speak_of_scoring_is_not_served() -> None:
    simulation = Simulation(small_economy(200, 260), minimum_cohort=5, model=MODEL)
    simulation.run()
    replies = simulation.serve()
    assert {reply["code"] for reply in replies.values()} == {"scoring_not_agreed"}


def test_training_goes_on_beside_a_serving_run() -> None:
    simulation = trained()
    scorer = served(simulation)
    assert {reply["status"] for reply in simulation.run(run_id=5).values()} == {"ok"}
    assert ask(scorer, known_to_all(simulation)[0]).status == "scored"
    end(simulation)


@pytest.mark.parametrize("way", ["alter", "replay", "drop"])
def test_an_exchange_that_tampers_with_answers_ends_the_serving_run(way: str) -> None:
    def tamper(envelope: Envelope) -> list[Envelope]:
        if not (envelope.phase == "serve" and envelope.step.startswith("EvaluatedIdentifiers")):
            return [envelope]
        if way == "alter":
            damaged = bytes([envelope.ciphertext[0] ^ 1]) + envelope.ciphertext[1:]
            return [type(envelope)(**{**_fields(envelope), "ciphertext": damaged})]
        return [envelope, envelope] if way == "replay" else [] if envelope.step.endswith("/0") else [envelope]

    simulation = trained()
    simulation.exchange._tamper = tamper
    simulation.platforms["bank"].receive_timeout_seconds = 2.0
    simulation.platforms["bank"].scoring = ScoringSettings(wait_seconds=0.5)
    scorer = served(simulation)
    names = known_to_all(simulation)
    answers = [ask(scorer, name) for name in names[:3]]
    wait_for(lambda: simulation.exchange.aborted)
    assert simulation.platforms["bank"].failure is not None
    assert ask(scorer, names[4]).reason == "no_serving_run"
    assert all(answer.status in {"scored", "withheld"} for answer in answers)


def _fields(envelope: Envelope) -> dict[str, Any]:
    return {name: getattr(envelope, name) for name in type(envelope).__dataclass_fields__}


def lie(simulation: Simulation, party: str, message: type, change: Callable[[Any], None]) -> None:
    """Let ``party`` send messages of a kind that it has changed."""
    real = simulation.services[party]._take

    def take(run_id: int, run: Any, phase: str, content: Any) -> Any:
        role = run.role
        if not hasattr(role, "is_lying"):
            role.is_lying = True
            for name in ("publish", "serve"):
                method = getattr(role, name)

                def lying(channel: Any, method: Any = method) -> None:
                    send = channel.send

                    def changed(recipient: str, each: Any, index: int = 0) -> None:
                        if isinstance(each, message):
                            each = type(each).FromString(each.SerializeToString())
                            change(each)
                        send(recipient, each, index)

                    channel.send = changed
                    method(channel)

                setattr(role, name, lying)
        return real(run_id, run, phase, content)

    simulation.services[party]._take = take  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda column: setattr(column, "tags", column.tags[:-1]), "tags"),
        (
            lambda column: setattr(column, "tags", column.tags[16:32] + column.tags[:16] + column.tags[32:]),
            "ascending",
        ),
        (
            lambda column: setattr(column, "tags", column.tags[:16] + column.tags[:16] + column.tags[32:]),
            "ascending",
        ),
        (lambda column: setattr(column, "values", column.values[:-8]), "words"),
        (lambda column: column.groups.append(column.values), "reason groups"),
        (lambda column: (column.ClearField("tags"), column.ClearField("values")), "first one"),
    ],
    ids=[
        "cut tags",
        "unordered tags",
        "equal tags",
        "short column",
        "a group that nobody agreed to",
        "no rows",
    ],
)
def test_a_malformed_score_column_ends_the_run(change: Callable[[Any], None], said: str) -> None:
    simulation = trained()
    lie(simulation, "tax", payload.ScoreColumn, change)
    replies = simulation.serve()
    assert replies["bank"]["status"] == "failed"
    assert said in replies["bank"]["reason"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda reply: setattr(reply, "elements", reply.elements + reply.elements[:32]), "elements"),
        (lambda reply: setattr(reply, "elements", bytes(32)), "canonical"),
    ],
    ids=["too many", "the identity"],
)
def test_a_malformed_evaluation_ends_the_run(change: Callable[[Any], None], said: str) -> None:
    simulation = trained()
    lie(simulation, "tax", payload.EvaluatedIdentifiers, change)
    scorer = served(simulation)
    answer = ask(scorer, known_to_all(simulation)[0])
    assert answer.status == "withheld"
    failure = simulation.platforms["bank"].failure
    assert said in str(failure)


def test_a_bank_that_asks_for_what_is_no_element_ends_the_run() -> None:
    simulation = trained()
    lie(simulation, "bank", payload.BlindedIdentifiers, lambda asked: setattr(asked, "elements", bytes(32)))
    scorer = served(simulation)
    assert ask(scorer, known_to_all(simulation)[0]).status == "withheld"
    wait_for(lambda: simulation.platforms["tax"].failure or simulation.platforms["registry"].failure)


def test_a_defect_in_a_serving_thread_ends_the_run_at_every_party() -> None:
    def defect(*_: object) -> None:
        raise ZeroDivisionError

    simulation = trained()
    scorer = served(simulation)
    simulation.services["tax"]._runs[2].role._reply = defect  # type: ignore[union-attr, assignment]
    assert ask(scorer, known_to_all(simulation)[0]).status == "withheld"
    wait_for(lambda: simulation.platforms["bank"].failure)
    assert "unexpectedly" in str(simulation.platforms["tax"].failure)
    assert ask(scorer, known_to_all(simulation)[0]).reason == "no_serving_run"


def test_a_holder_that_lies_about_what_is_left_is_not_asked_for_ever() -> None:
    simulation = trained(quota=1)
    lie(simulation, "tax", payload.KeysRefused, lambda refused: setattr(refused, "left", 10**9))
    scorer = served(simulation)
    answers = ask_all(scorer, known_to_all(simulation)[:4])
    assert [answer.reason for answer in answers].count("quota_exceeded") >= 3
    end(simulation)


def test_a_serving_run_is_not_counted_as_a_run_of_training() -> None:
    simulation = trained()
    begun = simulation.platforms["tax"].spent[simulation.contract.digest(), "runs"]
    served(simulation)
    end(simulation)
    assert simulation.platforms["tax"].spent[simulation.contract.digest(), "runs"] == begun


def test_banks_without_a_feature_holder_have_nothing_to_serve() -> None:
    banks = split_banks({"bank": small_economy(200, 260)["bank"]}, [1, 1, 1])
    with pytest.raises(ConfigError, match="scoring needs a feature_holder"):
        Simulation(banks, bank_model={"kind": "mlp", "rounds": 2}, scoring={"quota": 5})


def serve_models(simulation: Simulation, run_id: int, models: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Ask for a serving run, each party with the model that ``models`` says; return what ``publish`` answered."""
    replies = simulation.ask_each(
        "hello", run_id, {party: {"model_run": model} for party, model in models.items()}
    )
    assert {reply["status"] for reply in replies.values()} == {"ok"}, replies
    return simulation.ask("publish", run_id, hellos=[reply["hello"] for reply in replies.values()])


def trained_twice() -> Simulation:
    simulation = Simulation(
        small_economy(200, 260), minimum_cohort=5, model=MODEL, scoring={"quota": 1000}, max_runs=3
    )
    for run_id in (1, 2):
        assert {reply["status"] for reply in simulation.run(run_id).values()} == {"ok"}
    return simulation


@pytest.mark.parametrize("odd", ["bank", "registry", "tax"])
def test_parties_that_were_told_different_models_add_nothing_up(odd: str) -> None:
    """Else the bank subtracts two sums that differ in one holder's model, and has this holder's own scores."""
    simulation = trained_twice()
    crossed = len(simulation.exchange.crossed)
    replies = serve_models(simulation, 10, {"bank": 1, "registry": 1, "tax": 1} | {odd: 2})
    assert {reply["status"] for reply in replies.values()} == {"failed"}
    assert all("another model" in reply["reason"] for reply in replies.values())
    assert len(simulation.exchange.crossed) == crossed


def test_a_party_that_was_told_to_train_and_those_that_were_told_to_serve_say_nothing_to_one_another() -> (
    None
):
    simulation = trained_twice()
    crossed = len(simulation.exchange.crossed)
    models: dict[str, dict[str, int]] = {"bank": {"model_run": 1}, "registry": {"model_run": 1}, "tax": {}}
    hellos = [reply["hello"] for reply in simulation.ask_each("hello", 10, models).values()]
    phases = {"bank": "publish", "registry": "publish", "tax": "align"}
    replies = {
        party: simulation.ask_each(phase, 10, {party: {"hellos": hellos}})[party]
        for party, phase in phases.items()
    }
    assert all("another model" in reply["reason"] for reply in replies.values())
    assert len(simulation.exchange.crossed) == crossed


def test_a_model_that_the_witnessed_log_does_not_name_is_not_served() -> None:
    simulation = trained_twice()
    for platform in simulation.platforms.values():
        platform.logged[10] = 1
    replies = simulation.ask("hello", 10, model_run=2)
    assert {reply["code"] for reply in replies.values()} == {"opening_not_witnessed"}
    assert {reply["code"] for reply in simulation.ask("hello", 10).values()} == {"opening_not_witnessed"}


def test_a_model_that_is_not_what_its_manifest_lists_is_not_served() -> None:
    simulation = trained_twice()
    tax = simulation.platforms["tax"]
    # Another model with a commitment of its own, in the place of the one that was announced.
    tax.results[1] = {
        **tax.results[2],
        "commitment": tax.results[2]["commitment"] | {"manifest": tax.results[1]["commitment"]["manifest"]},
    }
    reply = simulation.ask("hello", 10, model_run=1)["tax"]
    assert reply["status"] == "failed"
    assert "manifest" in reply["reason"]
