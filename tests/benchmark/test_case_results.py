"""A case's JSON and table."""

from types import SimpleNamespace

import pytest

from comigs_mlx.benchmark import case_results
from comigs_mlx.benchmark.measure import Measured
from comigs_mlx.benchmark.spread import Spread

FOUND = {
    "plain_lora_s": Spread(2.0, 1.0, 3.0),
    "ratio": Spread(0.5, 0.4, 0.6),
    "by_experts.2": Spread(0.5, 0.4, 0.6),
    "by_experts.4": Spread(0.7, 0.6, 0.8),
    "comigs_tps": Spread(9.0, 8.0, 10.0),
}


def test_a_section_nests_values_and_keeps_ranges_by_name():
    found = case_results.section(FOUND)
    assert found.pop("spread") == {n: [s.low, s.high] for n, s in FOUND.items()}
    assert found == {
        "plain_lora_s": 2.0,
        "ratio": 0.5,
        "by_experts": {"2": 0.5, "4": 0.7},
        "comigs_tps": 9.0,
    }


def test_a_section_can_be_read_back():
    assert case_results.read_section(case_results.section(FOUND)) == FOUND


def test_ratios_are_what_has_no_unit():
    assert case_results.ratios_only(FOUND).keys() == {
        "ratio",
        "by_experts.2",
        "by_experts.4",
    }


MEASURED = {
    "plain LoRA": Measured([2.0, 4.0, 3.0], [2 * 10**9] * 3),
    "ours": Measured([1.0, 2.0, 1.5], [10**9] * 3),
}


@pytest.mark.parametrize(
    ("tokens", "main", "expected"),
    [
        (0, (), ["ours", "1.500", "1.000", "to", "2.000", "0.50"]),
        (30, (), ["ours", "20.0", "15.0", "to", "30.0", "2.00"]),
        (
            0,
            ("peak_memory_ratio",),
            ["ours", "1.500", "1.000", "to", "2.000", "0.50", "1.00", "0.50"],
        ),
    ],
)
def test_a_table_has_a_line_for_each_variant(tokens, main, expected):
    case = SimpleNamespace(TOKENS=tokens, MAIN=main, SUMMARY="what it does")
    title, header, first, second = case_results.table(
        "case", case, MEASURED
    ).splitlines()
    assert title == "case: what it does"
    assert ("tokens/s" if tokens else "seconds") in header
    assert "x plain LoRA" in header
    assert first.split()[:2] == ["plain", "LoRA"]
    assert second.split() == expected


def test_a_variant_alone_has_no_ratio():
    case = SimpleNamespace(TOKENS=0, MAIN=(), SUMMARY="")
    alone = {"ours": MEASURED["ours"]}
    assert " x " not in case_results.table("case", case, alone)
