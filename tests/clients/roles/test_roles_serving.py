"""Parts of a serving run on their own: what a holder counts, and how a bank finds rows and waits for slow holders."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedshare.contract.scoring import Scoring
from fedshare.errors import FedshareError, ProtocolError, UnavailableError
from fedshare.sealed import blind
from fedshare.wire.v1 import payload_pb2 as payload
from fedshare_clients.node.serving_bank import ServingBank, _find, _Question
from fedshare_clients.node.serving_holder import Allowance, score_label
from fedshare_clients.node.serving_threads import start_threads


class Disk:
    """What a node's state counts."""

    def __init__(self, quota):
        self.quota, self.spent = quota, 0

    def spend(self, amount):
        earlier = self.spent
        if earlier + amount <= self.quota:
            self.spent += amount
        return earlier


STEPS = st.one_of(st.sampled_from(["kill", "refill"]), st.integers(0, 600))


@given(st.integers(1, 2000), st.lists(STEPS, max_size=30))
def test_what_was_answered_is_on_the_disk_before_and_never_beyond_the_quota(quota, steps):
    disk, answered, kills = Disk(quota), 0, 0
    allowance = Allowance(disk.spend, quota)
    for step in steps:
        if step == "kill":  # what was reserved is spent
            allowance, kills = Allowance(disk.spend, quota), kills + 1
        elif step == "refill":
            allowance.refill()
        elif (left := allowance.take(step)) is None:
            answered += step
        else:
            assert left < step
            assert allowance.take(left) is None  # and that many are answered
            answered += left
        assert answered <= disk.spent <= quota
    assert disk.spent - answered <= 256 * (kills + 1)
    allowance.close()
    assert answered <= disk.spent <= answered + 256 * kills
    allowance.refill()
    assert disk.spent <= answered + 256 * kills


def test_more_is_reserved_before_a_question_has_to_wait_for_the_disk():
    disk = Disk(10_000)
    allowance = Allowance(disk.spend, disk.quota)
    failures: list[FedshareError] = []
    start_threads("t", [allowance.keep_filled], lambda: False, failures.append)
    assert allowance.take(200) is None
    deadline = time.monotonic() + 10
    while disk.spent < 456:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    reached = disk.spent
    assert allowance.take(100) is None
    assert disk.spent == reached
    allowance.close()
    assert disk.spent == 300
    assert failures == []


@given(
    st.sets(st.binary(min_size=16, max_size=16), max_size=40),
    st.lists(st.binary(min_size=16, max_size=16), max_size=10),
)
def test_a_row_is_found_by_its_tag_and_no_other(tags, others):
    ordered = sorted(tags)
    wanted = [*ordered[::3], *others]
    found = _find(
        np.frombuffer(b"".join(ordered), dtype="S16"),
        np.frombuffer(b"".join(wanted), dtype=np.uint8).reshape(len(wanted), 16),
    )
    assert found.tolist() == [ordered.index(tag) if tag in tags else -1 for tag in wanted]


def test_no_two_columns_of_a_run_or_of_two_runs_share_a_label():
    labels = [
        score_label(session, epoch, group)
        for session in (b"a" * 32, b"b" * 32)
        for epoch in (0, 1, 256)
        for group in ("", "sales", "s")
    ]
    assert len(set(labels)) == len(labels)


def bank(fail=lambda _error: None):
    contract = SimpleNamespace(holders=lambda: [SimpleNamespace(id="court"), SimpleNamespace(id="tax")])
    return ServingBank(
        contract,
        Scoring(quota=1),
        "bank",
        os.urandom,
        time.monotonic,
        1.0,
        lambda _progress: None,
        fail,
    )


COLUMN = payload.ScoreColumn(tags=bytes(16), values=bytes(8))
NO_COLUMN = payload.ScoreColumn()


def test_a_bank_opens_the_latest_column_that_every_holder_has_released():
    serving = bank()
    for holder, epoch, expected in [("tax", 0, -1), ("tax", 1, -1), ("court", 0, 0), ("court", 1, 1)]:
        serving._take_column(holder, epoch, COLUMN)
        assert serving._epoch == expected
    assert [sorted(columns) for columns in serving._columns.values()] == [[1], [1]]


def test_a_holder_that_is_far_behind_ends_the_run_and_is_named():
    serving = bank()
    for holder in ("court", "tax"):
        serving._take_column(holder, 0, COLUMN)
    for epoch in range(1, 9):
        serving._take_column("tax", epoch, COLUMN)
    with pytest.raises(UnavailableError, match="court has not refreshed"):
        serving._take_column("tax", 9, COLUMN)


def test_an_epoch_in_which_a_holder_has_no_column_is_opened_by_nobody_and_kept_by_nobody():
    serving = bank()
    for holder in ("court", "tax"):
        serving._take_column(holder, 0, COLUMN)
    for epoch in range(1, 20):
        serving._take_column("court", epoch, COLUMN)
        serving._take_column("tax", epoch, NO_COLUMN)
        assert serving._epoch == 0
        assert [sorted(columns) for columns in serving._columns.values()] == [[0], [0]]
    serving._take_column("tax", 20, COLUMN)
    serving._take_column("court", 20, COLUMN)
    assert serving._epoch == 20


def test_an_answer_to_no_question_is_refused():
    with pytest.raises(ProtocolError, match="not asked"):
        bank()._take_answer("tax", 0, payload.EvaluatedIdentifiers())
    with pytest.raises(ProtocolError, match="not asked"):
        bank()._take_profile("tax", 0, payload.Profile())


def test_whoever_waits_when_the_run_ends_is_told_why():
    async def ask() -> None:
        serving = bank()
        waiting = [asyncio.ensure_future(serving.ask(b"enterprise")) for _ in range(2)]
        await asyncio.sleep(0)
        serving.close("the operator ended it")
        for question in (*waiting, serving.ask(b"another")):
            with pytest.raises(UnavailableError, match="the operator ended it"):
                await asyncio.wait_for(question, 5)

    asyncio.run(ask())


def test_callers_that_were_answered_together_ask_again_in_one_message(monkeypatch):
    monkeypatch.setattr("fedshare_clients.node.serving_bank._GATHER_SECONDS", 20.0)
    serving, sent, is_asked = bank(), [], threading.Event()
    first = [b"first", b"second", b"third"]
    serving._question = _Question(0, first, blind(first, os.urandom)[0], serving._clock())
    for holder in ("court", "tax"):
        serving._take_answer(holder, 0, payload.KeysRefused(code="quota_exceeded"))

    def send(holder, message, number):
        sent.append((holder, len(message.elements) // 32, number))
        if holder == "tax":
            is_asked.set()

    channel = SimpleNamespace(send=send)

    async def ask_a_little_apart():
        start_threads(
            "t", [lambda: serving._ask(channel)], lambda: bool(serving._closed), lambda _error: None
        )
        asked = []
        for name in (b"a", b"b", b"c"):
            asked.append(asyncio.ensure_future(serving.ask(name)))
            await asyncio.sleep(0.02)
        await asyncio.to_thread(is_asked.wait, 10)
        serving.close("the test is over")
        await asyncio.gather(*asked, return_exceptions=True)

    asyncio.run(ask_a_little_apart())
    assert sent == [("court", 3, 0), ("tax", 3, 0)]


def test_errors_of_a_thread_end_the_run_unless_it_is_over():
    def refuse():
        raise UnavailableError("gone")

    def break_down():
        raise KeyError("a defect")

    told: list[FedshareError] = []
    start_threads("t", [refuse], lambda: True, told.append)
    start_threads("t", [refuse, break_down], lambda: False, told.append)
    deadline = time.monotonic() + 10
    while len(told) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert {type(error) for error in told} == {FedshareError, UnavailableError}
    assert "a defect" not in str(told[0]) + str(told[1])
