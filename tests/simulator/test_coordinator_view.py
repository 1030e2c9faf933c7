"""What a coordinator holds after two runs over the same data: ciphertexts that never repeat, sizes and timing.

The promise is that it learns nothing but sizes and timing. These tests read every byte that crossed it: envelopes
with their headers, hellos and replies. They would find a secret or a value that goes out as it is, a key stream that
is used twice, and a size that depends on more than sizes; that ciphertexts hide what is in them rests on AES-GCM.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from simulation import Simulation, overlapping_banks, small_economy, split_banks

from fedshare.identity.session import Session, _derive
from fedshare.sealed import OprfKey, derive
from fedshare_clients.node.data import Table
from fedshare_clients.node.label_holder import LabelHolder
from fedshare_clients.node.service import PHASES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedshare.identity.envelope import Envelope

CUSTOMERS, UNIVERSE = 300, 420
# No bin is merged, so that the number of bins follows from the holders' data alone; the number of iterations is fixed.
SETTINGS: dict[str, Any] = {"minimum_cohort": 1, "model": {"max_iterations": 3, "tolerance": 1e-15}}


class Recorded:
    """Two runs of one federation, what crossed the coordinator, and the secrets that must not have."""

    def __init__(self, tables: dict[str, Table], runs: int = 2, **settings: Any) -> None:
        self.secrets: dict[str, bytes] = {}
        self.simulation = Simulation(tables, receive_timeout_seconds=60.0, **SETTINGS, **settings)
        for run_id in range(1, runs + 1):
            self._run(run_id)
        self.crossed: list[Envelope] = self.simulation.exchange.crossed

    def _run(self, run_id: int) -> None:
        simulation = self.simulation
        simulation.run(run_id, until="evaluate")
        assert simulation.results() == sorted(simulation.services)
        for party, service in simulation.services.items():
            run = service._runs[run_id]
            session = run.session
            assert session is not None
            for peer, secret in session._secrets.items():
                self.secrets[f"agreed secret of {party} and {peer}, run {run_id}"] = secret
                for pair in ((party, peer), (peer, party)):
                    key = _derive(secret, session.id, b"fedshare envelope v1", *pair)
                    self.secrets[f"envelope key of {pair}, run {run_id}"] = key
                self.secrets[f"mask of {party} and {peer}, run {run_id}"] = session.shared_secret(
                    peer, "row masks"
                )
            if isinstance(run.role, LabelHolder):
                for holder, keys in run.role._pad_keys.items():
                    self._add(f"pad key at {holder}, run {run_id}", keys)
            else:
                self._add(f"pad key of {party}, run {run_id}", run.role._sealer._pad_keys)  # type: ignore[union-attr]
        simulation.ask("close", run_id)

    def _add(self, name: str, keys: Any) -> None:
        for row in range(0, len(keys), 7):
            self.secrets[f"{name}, row {row}"] = keys[row].tobytes()

    def transcript(self) -> bytes:
        """Return every byte that the coordinator saw."""
        envelopes = b"".join(envelope.to_wire().SerializeToString() for envelope in self.crossed)
        replies = b"".join(
            value if isinstance(value, bytes) else str(value).encode()
            for phase in self.simulation.replies
            for reply in phase.values()
            for value in (*reply, *reply.values())
        )
        return envelopes + replies

    def banks(self) -> list[str]:
        return [bank.id for bank in self.simulation.contract.banks()]

    def sizes(self) -> dict[tuple[str, str], list[tuple[str, str, int, bool, int]]]:
        """Return what an observer can count, per direction, in the order of sequence numbers."""
        seen: dict[tuple[str, str], list[tuple[str, str, int, bool, int]]] = {}
        for envelope in self.crossed:
            seen.setdefault((envelope.sender, envelope.recipient), []).append(
                (envelope.phase, envelope.step, envelope.sequence, envelope.last, len(envelope.ciphertext))
            )
        return seen


@pytest.fixture(scope="module")
def oblivious_keys() -> list[bytes]:
    return []


@pytest.fixture(scope="module")
def tags() -> list[bytes]:
    return []


ECONOMIES = {
    "one bank": small_economy(CUSTOMERS, UNIVERSE),
    "three banks": split_banks(small_economy(CUSTOMERS, UNIVERSE), (0.5, 0.3, 0.2)),
    "distinct": overlapping_banks(60, CUSTOMERS, UNIVERSE),
}
AGREED: dict[str, dict[str, Any]] = {
    "distinct": {"between_banks": {"accept_two": True, "drop_shared_customers": True}}
}


@pytest.fixture(scope="module", params=ECONOMIES)
def recorded(
    request: pytest.FixtureRequest, oblivious_keys: list[bytes], tags: list[bytes]
) -> Iterator[Recorded]:
    """Two runs, in which every oblivious key and every tag was also written down."""
    oblivious_keys.clear()
    tags.clear()
    with pytest.MonkeyPatch.context() as patch:
        generate = OprfKey.generate

        def noted(randomness: Any) -> OprfKey:
            key = generate(randomness)
            oblivious_keys.append(key.to_bytes())
            return key

        def noted_rows(*arguments: Any, **settings: Any) -> Any:
            rows = derive(*arguments, **settings)
            tags.extend(row.tobytes() for row in rows.tags[::7])
            return rows

        patch.setattr("fedshare_clients.node.feature_holder.derive", noted_rows)
        patch.setattr("fedshare_clients.node.feature_holder.OprfKey.generate", noted)
        yield Recorded(ECONOMIES[request.param], **AGREED.get(request.param, {}))


@pytest.fixture(scope="module")
def transcript(recorded: Recorded) -> bytes:
    return recorded.transcript()


def spellings(values: Any) -> Iterator[bytes]:
    """Return the ways in which distinct numbers could stand in a message, four bytes at least."""
    numbers = np.unique(np.asarray(values, dtype=np.float64))
    for number in numbers[np.isfinite(numbers)][::19]:
        text = repr(float(number)).encode()
        if len(text) >= 6:
            yield text
        for kind in ("<f8", ">f8", "<f4", ">f4"):
            yield np.array([number]).astype(kind).tobytes()
        for bits in (24, 30, 40, 44):
            for kind in ("<i8", ">i8"):
                yield np.rint(np.array([number * 2.0**bits])).astype(kind).tobytes()


def test_both_runs_crossed_completely(recorded: Recorded, transcript: bytes) -> None:
    assert {envelope.run_id for envelope in recorded.crossed} == {1, 2}
    assert {envelope.phase for envelope in recorded.crossed} == {"align", "prepare", "train", "evaluate"}
    assert len(transcript) > 5_000_000


def test_no_ciphertext_repeats_within_or_across_runs(recorded: Recorded) -> None:
    # 16 aligned bytes agree by chance with probability below 2^-80 over all pairs.
    blocks = [
        envelope.ciphertext[start : start + 16]
        for envelope in recorded.crossed
        for start in range(0, len(envelope.ciphertext) - 15, 16)
    ]
    assert len(set(blocks)) == len(blocks)


def test_both_runs_have_the_same_plaintext_sizes_and_no_common_byte_string(recorded: Recorded) -> None:
    runs = [
        {
            (each.sender, each.recipient, each.sequence): each.ciphertext
            for each in recorded.crossed
            if each.run_id == run_id
        }
        for run_id in (1, 2)
    ]
    assert runs[0].keys() == runs[1].keys()
    # The difference of two ciphertexts under one key stream would be that of their plaintexts: mostly zero bytes.
    for place in runs[0]:
        first, second = (np.frombuffer(run[place], dtype=np.uint8) for run in runs)
        assert len(first) == len(second)
        equal = np.count_nonzero(first == second)
        mean = len(first) / 256
        # Normal bound at 7 deviations: false alarm below 1e-9 for all envelopes together.
        assert equal < mean + 7 * np.sqrt(mean) + 7


def test_every_envelope_looks_uniform(recorded: Recorded) -> None:
    counts = np.zeros(256)
    for envelope in recorded.crossed:
        counts += np.bincount(np.frombuffer(envelope.ciphertext, dtype=np.uint8), minlength=256)
    expected = counts.sum() / 256
    statistic = float(((counts - expected) ** 2 / expected).sum())
    # Chi-square with 255 degrees of freedom exceeds 420 with probability 3e-10.
    assert statistic < 420


def test_no_identifier_crosses(recorded: Recorded, transcript: bytes) -> None:
    assert b"enterprise" not in transcript
    for platform in recorded.simulation.platforms.values():
        for identifier in platform.table.identifiers[::5]:
            assert identifier not in transcript


def test_no_value_of_a_column_crosses(recorded: Recorded, transcript: bytes) -> None:
    sampled = 0
    for platform in recorded.simulation.platforms.values():
        for name, cells in platform.table.columns.items():
            # Shorter words occur by chance.
            words = {name, *(cell for cell in cells if cells.dtype == object and cell)}
            assert not any(word.encode() in transcript for word in words if len(word) >= 6)
            if cells.dtype == object:
                continue
            # 4-byte spellings of some numbers occur by chance; a column that crossed has all of them.
            found = {len(spelling): 0 for spelling in spellings(cells)}
            for spelling in spellings(cells):
                sampled += 1
                found[len(spelling)] += spelling in transcript
            assert all(count == 0 for length, count in found.items() if length >= 6)
            assert found[4] <= 8
    assert sampled > 500


def test_the_search_would_find_a_column_that_crosses(recorded: Recorded) -> None:
    turnover = recorded.simulation.platforms["tax"].table.columns["turnover"]
    for kind in ("<f8", ">f8", "<f4", ">f4"):
        crossed = b"noise" + turnover.astype(kind).tobytes()
        assert sum(spelling in crossed for spelling in spellings(turnover)) >= 20
    text = ",".join(map(repr, turnover.tolist())).encode()
    assert sum(spelling in text for spelling in spellings(turnover)) >= 20


@pytest.mark.parametrize("kind", ["u1", "<i4", ">i4", "<i8", ">i8", "<f4", ">f4", "<f8", ">f8"])
def test_no_piece_of_the_label_vector_crosses(kind: str, recorded: Recorded, transcript: bytes) -> None:
    for bank in recorded.banks():
        label = recorded.simulation.platforms[bank].table.label
        size = 64 if kind == "u1" else 16
        for start in range(0, len(label) - size, size):
            assert label[start : start + size].astype(kind).tobytes() not in transcript
        assert np.packbits(label.astype(np.uint8))[:12].tobytes() not in transcript


def test_no_score_or_weight_of_the_model_crosses(recorded: Recorded, transcript: bytes) -> None:
    for platform in recorded.simulation.platforms.values():
        assert platform.result is not None
        for spelling in spellings(platform.result["weights"]):
            assert len(spelling) < 6 or spelling not in transcript
    for bank in recorded.banks():
        customers = recorded.simulation.platforms[bank].customers
        assert customers is not None
        for spelling in spellings(customers["score"]):
            assert len(spelling) < 6 or spelling not in transcript


def test_no_pad_key_mask_or_session_key_crosses(recorded: Recorded, transcript: bytes) -> None:
    assert len(recorded.secrets) > 300
    for name, secret in recorded.secrets.items():
        assert secret not in transcript, name


def test_no_oblivious_key_crosses(recorded: Recorded, oblivious_keys: list[bytes], transcript: bytes) -> None:
    # Two holders in two runs, each with a fresh one; two banks that drop have one each, and 1 and 128 for their transfers.
    banks = 2 + 1 + 128 if recorded.simulation.contract.between_banks.drop_shared_customers else 0
    assert len(set(oblivious_keys)) == 2 * (2 + banks)
    for key in oblivious_keys:
        assert key not in transcript
        assert key[::-1] not in transcript


def test_no_row_tag_crosses(recorded: Recorded, tags: list[bytes], transcript: bytes) -> None:
    assert len(set(tags)) == len(tags) > 200
    assert not any(tag in transcript for tag in tags)


def test_no_identity_key_crosses(recorded: Recorded, transcript: bytes) -> None:
    for platform in recorded.simulation.platforms.values():
        assert platform.identity._key.private_bytes_raw() not in transcript


def test_no_pad_key_repeats_between_holders_or_runs(recorded: Recorded) -> None:
    secrets = [secret for name, secret in recorded.secrets.items() if name.startswith("pad key of")]
    assert len(set(secrets)) == len(secrets)


def test_replies_hold_hellos_and_what_the_contract_lets_out_only(recorded: Recorded) -> None:
    for phase, replies in zip(itertools.cycle(PHASES), recorded.simulation.replies, strict=False):
        for party, reply in replies.items():
            extra = {"hello": {"hello"}, "evaluate": {"metrics"} if party in recorded.banks() else set()}.get(
                phase, set()
            )
            assert set(reply) == {"status", "party", *extra}


def test_no_seed_of_a_mask_between_banks_crosses_and_none_repeats() -> None:
    seeds: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        shared_secret = Session.shared_secret

        def noted(self: Session, peer: str, purpose: str) -> bytes:
            secret = shared_secret(self, peer, purpose)
            if self.party < peer and purpose.startswith("mask|"):
                seeds.append(secret)
            return secret

        patch.setattr(Session, "shared_secret", noted)
        transcript = Recorded(ECONOMIES["three banks"]).transcript()
    assert len(set(seeds)) == len(seeds) > 100
    assert not any(seed in transcript for seed in seeds)


@pytest.mark.parametrize("recorded", ["one bank"], indirect=True)
def test_sizes_depend_on_sizes_only(recorded: Recorded) -> None:
    """Other labels and other customers, as many as before, known to the holders as well as before."""
    tables = small_economy(CUSTOMERS, UNIVERSE)
    rng = np.random.default_rng(99)
    known = tables["registry"].identifiers
    chosen = sorted(rng.permutation(len(known))[:CUSTOMERS].tolist())
    tables["bank"] = Table(
        "bank",
        [known[row] for row in chosen],
        {"utilisation": rng.normal(size=CUSTOMERS)},
        (rng.random(CUSTOMERS) < 0.4).astype(np.float64),
    )
    other = Recorded(tables, runs=1)
    mine = {
        direction: seen[: len(seen) // 2] for direction, seen in recorded.sizes().items()
    }  # the first of the two runs
    assert other.sizes() == mine
