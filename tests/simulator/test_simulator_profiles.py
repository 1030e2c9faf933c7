"""Profiles of enterprises that consented: what holders show, to whom, and that a withdrawal ends it at once."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from simulation import NOW, Simulation, small_economy

from fedshare.contract.model import parse_contract
from fedshare.errors import ProtocolError, RefusedError, UnavailableError
from fedshare.identity.keys import IdentityKey, encode_public_key
from fedshare.scoring.consent import (
    Consent,
    Withdrawal,
    consent_digest,
    sign_consent,
    sign_withdrawal,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fedshare.scoring.answer import Answer
    from fedshare.wire.v1 import payload_pb2 as payload
    from fedshare_clients.node.scorer import Scorer

KEY = IdentityKey.from_raw(bytes([7]) * 32)
REASONS = [{"name": "sales", "party": "tax", "columns": ["margin"]}]
EVERYTHING = ["coverage", "band", "reasons"]


def federation(releases: list[str] | None = EVERYTHING, **scoring: Any) -> Simulation:
    profile = (
        {"consent_key": encode_public_key(KEY.public_bytes()), "releases": releases} if releases else None
    )
    simulation = Simulation(
        small_economy(200, 260),
        minimum_cohort=5,
        model={"max_iterations": 2, "tolerance": 1e-9},
        scoring={"quota": 1000, "reasons": REASONS, "profile": profile, **scoring},
    )
    assert {reply["status"] for reply in simulation.run().values()} == {"ok"}
    assert {reply["status"] for reply in simulation.serve().values()} == {"ok"}
    return simulation


def scorer(simulation: Simulation) -> Scorer:
    return simulation.platforms["bank"].scoring.desk.find("")


def consent(simulation: Simulation, name: bytes, **changes: Any) -> Consent:
    fields = {
        "contract_digest": simulation.contract.digest(),
        "bank": "bank",
        "enterprise": name.decode(),
        "evidence": "cd" * 32,
        "given_at": NOW,
        "expires_at": NOW + timedelta(days=30),
        "nonce": "11" * 32,
    }
    return Consent.model_validate({**fields, **changes})


def show(
    simulation: Simulation, given: Consent, key: IdentityKey = KEY
) -> tuple[Answer, dict[str, payload.Profile]]:
    return asyncio.run(scorer(simulation).profile(sign_consent(given, key)))


def common(simulation: Simulation) -> list[bytes]:
    tables = [platform.table.identifiers for platform in simulation.platforms.values()]
    return sorted(set.intersection(*map(set, tables)))


@pytest.fixture(scope="module")
def served() -> Iterator[Simulation]:
    simulation = federation()
    yield simulation
    simulation.ask("close", 2)


def test_every_holder_shows_coverage_band_reasons_and_validity(served: Simulation) -> None:
    name = common(served)[0]
    answer, parts = show(served, consent(served, name))
    assert (answer.enterprise, answer.status) == (name.decode(), "scored")
    assert set(parts) == {"registry", "tax"}
    tax = served.platforms["tax"].table
    row = tax.identifiers.index(name)
    filled = sum(bool(np.isfinite(cells[row])) for cells in tax.columns.values())
    assert (parts["tax"].known, parts["tax"].columns_with_value, parts["tax"].columns) == (True, filled, 2)
    assert 1 <= parts["tax"].band <= 5
    assert (parts["tax"].as_of, parts["tax"].valid_until) == (
        NOW.isoformat(),
        (NOW + timedelta(days=2)).isoformat(),
    )


def test_bands_are_fifths_of_the_holders_universe_and_reasons_its_groups_below_neutral(
    served: Simulation,
) -> None:
    tax = served.platforms["tax"].table
    margin = dict(zip(tax.identifiers, tax.columns["margin"], strict=True))
    names = sorted(common(served), key=lambda name: margin[name])
    low, high = (show(served, consent(served, name))[1]["tax"] for name in (names[0], names[-1]))
    assert "sales" in low.reasons  # risk falls with the margin
    assert list(high.reasons) == []
    bands = [show(served, consent(served, name))[1]["tax"].band for name in names[::10]]
    assert set(bands) <= {1, 2, 3, 4, 5}
    assert len(set(bands)) >= 3


def test_an_enterprise_that_a_holder_does_not_know_has_no_more_than_that(served: Simulation) -> None:
    _, parts = show(served, consent(served, b"nobody"))
    assert not parts["tax"].known
    assert (parts["tax"].columns, parts["tax"].band, list(parts["tax"].reasons)) == (0, 0, [])


def test_a_holder_shows_nothing_that_the_contract_does_not_release() -> None:
    simulation = federation(["coverage"])
    _, parts = show(simulation, consent(simulation, common(simulation)[0]))
    simulation.ask("close", 2)
    assert (parts["tax"].columns, parts["tax"].band, list(parts["tax"].reasons)) == (2, 0, [])


def test_no_profile_is_shown_without_the_contracts_word() -> None:
    simulation = federation(None)
    with pytest.raises(RefusedError) as caught:
        show(simulation, consent(simulation, common(simulation)[0]))
    simulation.ask("close", 2)
    assert caught.value.code == "profile_not_agreed"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"bank": "other-bank"}, "consent_differs"),
        ({"contract_digest": "00" * 32}, "consent_differs"),
        ({"expires_at": NOW}, "consent_expired"),
        ({"given_at": NOW + timedelta(days=1)}, "consent_expired"),
    ],
)
def test_a_consent_that_does_not_count_names_nobody_to_a_holder(
    served: Simulation, changes: dict[str, Any], code: str
) -> None:
    crossed = len(served.exchange.crossed)
    with pytest.raises(RefusedError) as caught:
        show(served, consent(served, common(served)[0], **changes))
    assert caught.value.code == code
    assert len(served.exchange.crossed) == crossed


def test_a_consent_that_somebody_else_signed_names_nobody_to_a_holder(served: Simulation) -> None:
    crossed = len(served.exchange.crossed)
    with pytest.raises(ProtocolError):
        show(served, consent(served, common(served)[0]), IdentityKey.from_raw(bytes([8]) * 32))
    assert len(served.exchange.crossed) == crossed


def test_each_holder_checks_for_itself_and_notes_what_it_shows(served: Simulation) -> None:
    given = consent(served, common(served)[1])
    served.platforms["tax"].time = NOW + timedelta(days=40)  # over, by this holder's clock
    _, parts = show(served, given)
    served.platforms["tax"].time = NOW
    assert parts["tax"].refusal == "consent_expired"
    assert not parts["tax"].known
    assert parts["registry"].known
    noted = [each for each in served.platforms["registry"].said if each.kind == "private_event"]
    assert noted[-1].facts == {"consent": consent_digest(given), "bank": "bank"}
    assert not any(common(served)[1].decode() in str(each) for each in noted)


def withdrawal_of(given: Consent, **changes: Any) -> Withdrawal:
    fields = {
        "contract_digest": given.contract_digest,
        "consent": consent_digest(given),
        "enterprise": given.enterprise,
        "withdrawn_at": NOW,
    }
    return Withdrawal.model_validate(fields | changes)


def take_back(simulation: Simulation, given: Consent) -> None:
    """Withdraw a consent, and wait until every node knows."""
    scorer(simulation).withdraw(sign_withdrawal(withdrawal_of(given), KEY))
    for platform in simulation.platforms.values():
        wait_for(lambda platform=platform: platform.withdrawals.is_withdrawn(consent_digest(given)))


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_a_withdrawal_ends_it_at_once_everywhere_and_drops_the_enterprise_from_the_next_training() -> None:
    simulation = federation()
    name = common(simulation)[0]
    given = consent(simulation, name)
    show(simulation, given)
    taken = withdrawal_of(given)
    scorer(simulation).withdraw(sign_withdrawal(taken, KEY))
    for platform in simulation.platforms.values():
        wait_for(lambda platform=platform: platform.withdrawals.is_withdrawn(taken.consent))
    with pytest.raises(RefusedError) as caught:
        show(simulation, given)
    assert caught.value.code == "consent_withdrawn"
    # Even a bank that does not check is shown nothing.
    simulation.platforms["bank"].withdrawals.taken.clear()
    _, parts = show(simulation, given)
    assert {part.refusal for part in parts.values()} == {"consent_withdrawn"}
    assert {reply["status"] for reply in simulation.run(run_id=5).values()} == {"ok"}
    kept = simulation.platforms["bank"].customers
    assert kept is not None
    assert name.decode() not in kept["identifier"]
    assert simulation.platforms["tax"].results[5]["rows"] == len(simulation.platforms["tax"].table) - 1
    simulation.ask("close", 2)


def test_a_withdrawal_drops_the_enterprise_from_no_other_contract() -> None:
    """Else a bank of another contract would see its own customer vanish, and know that it dealt with somebody."""
    simulation = federation()
    name = common(simulation)[0]
    take_back(simulation, consent(simulation, name))
    other = parse_contract(simulation.contract.model_dump(mode="json") | {"nonce": "22" * 32})
    for platform in simulation.platforms.values():
        assert name not in platform.load_table(simulation.contract).identifiers
        assert name in platform.load_table(other).identifiers
    # Nor does a withdrawal count under a contract that it was not signed for.
    elsewhere = withdrawal_of(consent(simulation, common(simulation)[1]), contract_digest=other.digest())
    with pytest.raises(RefusedError) as caught:
        scorer(simulation).withdraw(sign_withdrawal(elsewhere, KEY))
    assert caught.value.code == "consent_differs"
    simulation.ask("close", 2)


def test_a_later_consent_lets_the_enterprise_in_again_and_the_one_taken_back_stays_so() -> None:
    simulation = federation()
    name = common(simulation)[0]
    first = consent(simulation, name)
    take_back(simulation, first)
    for platform in simulation.platforms.values():
        platform.time = NOW + timedelta(days=2)
    show(simulation, consent(simulation, name, given_at=NOW + timedelta(days=1), nonce="22" * 32))
    for platform in simulation.platforms.values():
        assert name in platform.load_table(simulation.contract).identifiers
    with pytest.raises(RefusedError) as caught:
        show(simulation, first)
    assert caught.value.code == "consent_withdrawn"
    simulation.ask("close", 2)


def test_the_consenting_bank_stops_scoring_at_once_and_before_the_next_column() -> None:
    simulation = federation(refresh_seconds=86_400)
    name, other = common(simulation)[:2]
    given = consent(simulation, name)
    assert show(simulation, given)[0].status == "scored"
    take_back(simulation, given)
    answer = asyncio.run(scorer(simulation).answer(name.decode(), {"utilisation": 0.5}))
    assert (answer.status, answer.reason, answer.probability) == ("withheld", "consent_withdrawn", None)
    assert asyncio.run(scorer(simulation).answer(other.decode(), {})).status == "scored"
    simulation.ask("close", 2)


def test_a_bank_keeps_nothing_of_the_profiles_that_it_has_shown(served: Simulation) -> None:
    for name in common(served)[:5]:
        show(served, consent(served, name))
    assert scorer(served)._bank._profiles == {}


def test_a_withdrawal_that_somebody_else_signed_changes_nothing(served: Simulation) -> None:
    taken = Withdrawal(
        contract_digest=served.contract.digest(), consent="ab" * 32, enterprise="x", withdrawn_at=NOW
    )
    with pytest.raises(ProtocolError):
        scorer(served).withdraw(sign_withdrawal(taken, IdentityKey.from_raw(bytes([8]) * 32)))
    assert served.platforms["bank"].withdrawals.taken == {}


def test_without_a_serving_run_no_profile_is_shown() -> None:
    simulation = federation()
    simulation.ask("close", 2)
    with pytest.raises(UnavailableError):
        show(simulation, consent(simulation, common(simulation)[0]))
