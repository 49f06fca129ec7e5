"""The benches' arithmetic, and that docs/benchmarks.md says what their tables say."""

import importlib.util
import sys
from pathlib import Path

import ledger
import pandas as pd
import pytest
import test_processes

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))

    def find(name):
        spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return find


def test_the_page_says_what_the_tables_say(load, monkeypatch):
    page, written = load("_page"), []
    stored = page.PAGE.read_text(encoding="utf-8")
    monkeypatch.setattr(Path, "write_text", lambda self, text, **_: written.append(text))
    page.main()
    assert written == [stored], "run: python bench/_page.py"


def test_numbers_are_shown_with_four_digits(load):
    shown = load("_page").shown
    assert [shown(v) for v in (0.98765, 12345.6, 3, float("nan"), "x", 2.0)] == [
        "0.9877", "12,346", "3", "–", "x", "2"
    ]  # fmt: skip


def test_a_way_is_compared_with_the_spread_of_the_baselines_seeds(load):
    rows = pd.DataFrame({
        "way": ["compact", "compact", "compact", "better"], "seed": [1, 2, 3, 1],
        "accuracy": [0.94, 0.95, 0.96, 0.97], "mirrored": [0.95, 0.96, 0.97, 0.98],
        "seconds": [10, 11, 12, 20],
    })  # fmt: skip
    found = load("ablation").summary(rows)
    assert found.loc["better", ["seeds", "difference", "in_sd"]].tolist() == [1, 0.02, 2.0]
    assert found.index[0] == "better" and found.loc["compact", "mirrored"] == 0.96


def test_every_way_of_the_ablation_differs_from_the_recipe(load):
    ways = load("ablation").WAYS
    assert [name for name, way in ways.items() if way == ways["compact"]] == ["compact"]
    assert len({repr(way) for way in ways.values()}) == len(ways)


def test_growth_is_the_slope_between_the_smallest_and_the_largest_count(load):
    rows = pd.DataFrame({
        "stage": "near", "images": [10, 100, 1000], "seconds": [1.0, 50.0, 10_000.0],
        "measured_on": [10, 100, 1000], "peak_mb": [100, 200, 1000],
    })  # fmt: skip
    (found,) = load("scale").exponents(rows).to_dict("records")
    assert found["time_exponent"] == 2 and found["memory_exponent"] == 0.5
    assert found["kb_an_image"] == pytest.approx(909.09)


def test_the_ceiling_is_work_over_time(load):
    import tensorflow as tf

    way, work = load("training")._convolution(tf, "float32", 8, 16)
    sums = way()
    assert len(sums) == 4
    batch = work / (3 * 4 * 2 * 9 * 8 * 8 * 16 * 16)
    assert batch == max(8, 2**21 // (8 * 8 * 16))


def test_a_hundred_million_images_are_the_unit_costs_times_their_number(load):
    page = load("cloud")
    table, stored = pd.read_csv(page.RESULTS), page.PAGE.read_text(encoding="utf-8")
    assert page.filled(stored, table) == stored, "run: python bench/cloud.py --page"
    hours = table.set_index(["step", "side"])["value"]
    one = (hours["judge", 32] + hours["GET", 32]) * 1e8 / 3600
    assert f"| verdicts | {one:,.0f} |" in stored


def test_the_page_of_faults_says_what_the_last_full_run_counted(load):
    page = load("_reliability")
    if not page.RESULTS.is_file():
        pytest.skip("no full run is kept yet")
    stored, rows = page.PAGE.read_text(encoding="utf-8"), pd.read_csv(page.RESULTS)
    assert page.filled(stored, rows) == stored
    assert (rows["tried"] == rows["survived"]).all() and not rows["lost"].any()
    assert set(rows["part"]) == set(ledger.PARTS)
    kills = rows[rows["fault"].str.startswith("killed at any moment")]
    assert len(kills) == len(test_processes.COMMANDS)
    for fault, tried in zip(kills["fault"], kills["tried"], strict=True):
        assert tried >= (3 if fault.endswith("sample") else 30), fault


def test_a_part_of_a_full_run_replaces_its_own_rows_and_leaves_the_others(monkeypatch, tmp_path):
    monkeypatch.setattr(ledger, "_counts", {})
    monkeypatch.setenv(ledger.VARIABLE, str(tmp_path / "table.csv"))
    for fault, tries in (("killed", 1), ("full, disk", 2), ("killed", 3)):
        ledger._counts.clear()
        with ledger.tally("processes", fault) as tried:
            for number in range(tries):
                tried(survived=number > 0)
        ledger.write()
    table = pd.read_csv(tmp_path / "table.csv")
    assert table.to_dict("records") == [
        {"part": "processes", "fault": "full, disk", "tried": 2, "survived": 1, "lost": 0},
        {"part": "processes", "fault": "killed", "tried": 3, "survived": 2, "lost": 0},
    ]
