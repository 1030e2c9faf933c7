"""The witness policy of a contract: it cannot be so weak that a coordinator with one ally could show two logs."""

from __future__ import annotations

import itertools

import pytest
from contract_documents import LOG, contract

from fedshare.audit.notes import COSIGNATURE, NoteSigner
from fedshare.contract.log import LogTerms, least_quorum
from fedshare.errors import ConfigError
from fedshare.identity.keys import IdentityKey


def vkey(number: int, name: str = "w", kind: int = COSIGNATURE) -> str:
    return NoteSigner(name, IdentityKey.from_raw(bytes([number]) * 32).signing_key, kind).key.vkey


def terms(witnesses: int, quorum: int) -> dict[str, object]:
    return {**LOG, "witnesses": {f"w{n}": vkey(n) for n in range(witnesses)}, "quorum": quorum}


@pytest.mark.parametrize("witnesses", range(2, 9))
def test_any_two_least_quorums_share_two_witnesses_and_smaller_ones_do_not(witnesses: int) -> None:
    quorum = least_quorum(witnesses)
    every = range(witnesses)
    pairs = itertools.product(itertools.combinations(every, quorum), repeat=2)
    assert min(len(set(one) & set(other)) for one, other in pairs) >= 2
    smaller = itertools.product(itertools.combinations(every, quorum - 1), repeat=2)
    assert min(len(set(one) & set(other)) for one, other in smaller) < 2


@pytest.mark.parametrize(("witnesses", "quorum"), [(2, 1), (3, 2), (4, 2), (4, 5), (5, 3)])
def test_a_quorum_that_is_too_small_or_too_large_is_refused(witnesses: int, quorum: int) -> None:
    with pytest.raises(ConfigError, match="expected a quorum between"):
        contract(log=terms(witnesses, quorum))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"key": vkey(1)}, "type 0x01"),
        ({"key": "no key"}, "expected a key"),
        ({"coordinator_key": "AAAA"}, "Ed25519"),
        ({"witnesses": {"tax": vkey(1), "bank": vkey(2, kind=1)}, "quorum": 2}, "type 0x04"),
        ({"witnesses": {"tax": vkey(1), "bank": vkey(1)}, "quorum": 2}, "same key"),
        ({"witnesses": {"tax": vkey(1), "none": vkey(2)}, "quorum": 2}, "called none"),
        ({"witnesses": {"tax": vkey(1)}, "quorum": 1}, "witnesses"),
        ({"witnesses": {"tax": vkey(1), "QUORUM": vkey(2)}, "quorum": 2}, "witnesses"),
    ],
)
def test_a_wrong_log_is_refused_by_its_field(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        contract(log={**LOG, **changes})


def test_the_policy_asks_for_the_quorum_of_the_named_witnesses() -> None:
    agreed = LogTerms.model_validate(terms(4, 3))
    policy = agreed.policy()
    assert [log.key.vkey for log in policy.logs] == [LOG["key"]]
    assert policy.is_met_by(frozenset({"w0", "w1", "w3"}))
    assert not policy.is_met_by(frozenset({"w0", "w1"}))
    assert {name: entry.key.vkey for name, entry in policy.witnesses.items()} == agreed.witnesses
