"""Charts: round ticks, exact labels, escaped text, the same bytes each time."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedshare_clients.node.report.charts import BLUE, Chart, bar_chart, ticks


def drawn(**changes):
    chart = Chart("across <x>", "up & down", (0, 1), (0, 0.1), **{"percent": "xy", **changes})
    chart.line([(0, 0), (1, 0.1)], BLUE, 'a "name"')
    chart.area([(0, 0.02), (1, 0.05)], BLUE)
    chart.dot((0.5, 0.05), BLUE)
    chart.spread(0.5, 0.01, 0.09, BLUE)
    chart.note((0.5, 0.05), "<note>")
    return chart.svg("title & more")


@given(st.floats(-1e4, 1e4), st.floats(1e-6, 1e6))
def test_ticks_are_few_even_and_within_the_range(low_in_widths, width):
    low = low_in_widths * width
    found = ticks(low, low + width)
    assert 2 <= len(found) <= 8
    assert low - 1e-6 * width <= found[0]
    assert found[-1] <= low + width * (1 + 1e-6)
    steps = [b - a for a, b in pairwise(found)]
    assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-3)


def test_labels_say_exactly_where_the_ticks_are():
    labels = re.findall(r">([0-9.]+ %)<", drawn())
    assert labels == [
        "0 %",
        "2 %",
        "4 %",
        "6 %",
        "8 %",
        "10 %",
        "0 %",
        "20 %",
        "40 %",
        "60 %",
        "80 %",
        "100 %",
    ]
    chart = Chart("x", "y", (0, 1), (0, 0.11), percent="y")
    assert "2.5 %" in chart.svg("t")


def test_a_chart_is_well_formed_whatever_its_words():
    for svg in (drawn(), bar_chart("bars & more", [("<b>", 1.0, BLUE), ("none", 0.0, BLUE)], "a < b")):
        root = ET.fromstring(svg)  # noqa: S314 - our own output
        assert root.get("aria-label")
        assert "<b>" not in svg


def test_the_same_chart_is_the_same_bytes():
    assert drawn() == drawn()


def test_a_range_of_no_width_is_widened():
    assert "nan" not in Chart("x", "y", (1, 1), (2, 2)).svg("t")
