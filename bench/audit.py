"""What the audit finds of faults planted on purpose, and what it finds where there is nothing.

    python bench/audit.py [--trials 3] [--clean 25] [--set sample|random] [--csv FILE]

Clean sets: the sample's photographs' crops with labels dealt by lot within each photograph, and
random pictures with a spectrum of 1/f. A set is clean by construction, so whatever is found there
is false. Writes one row a set, fault and rate.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from w207lib import audit, datasets, manifest, runs
from w207lib.auditing import faults

RATES = (0.02, 0.1, 0.25, 0.5, 1.0)
SMALL = (0.01, 0.05, 0.2)
"""For faults of single files; the others say which share of a class is stored otherwise."""


def photographs(name: str, seed: int) -> tuple[list[np.ndarray], list[str], set[str]]:
    if name == "random":
        groups = [f"g{i // 8:03}" for i in range(800)]
        return faults.power_law(800, 64, seed=seed), groups, {f"g{i:03}" for i in range(80, 100)}
    dataset = datasets.locate("sample")
    table = manifest.load(dataset)
    table = table[table["class_name"] == "REAL"]
    test = set(table.loc[table["split"] == "test", "group"])
    return dataset.read(table["path"]), table["group"].tolist(), test


def audited(folder: Path) -> audit.Audit:
    with tempfile.TemporaryDirectory() as cache:
        return audit.audit(datasets.Dataset("planted", folder, Path(cache)), processes=1)


def found_share(done: audit.Audit, checks: tuple[str, ...], planted: list[str], rows: bool):
    hits = [f for f in done.findings if f.check in checks and f.found]
    if not rows:
        return float(bool(hits)), 0
    named = set().union(*(set(f.rows["path"]) for f in hits)) if hits else set()
    return len(named & set(planted)) / len(planted), len(planted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=3, metavar="N", help="sets a fault and rate")
    parser.add_argument("--clean", type=int, default=25, metavar="N", help="clean sets audited")
    parser.add_argument("--set", choices=["sample", "random"], action="append", dest="sets")
    parser.add_argument("--only", metavar="FAULT", action="append")
    parser.add_argument("--csv", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "set"
        for name in options.sets or ["sample", "random"]:
            for seed in range(options.clean):
                faults.clean_set(*_arguments(name, 1000 + seed, folder))
                started = time.perf_counter()
                done = audited(folder)
                false = [f.check for f in done.findings if f.found]
                rows.append({"set": name, "fault": "none", "rate": 0.0, "trial": seed,
                             "planted": 0, "found": np.nan, "checks": len(done.findings),
                             "false": len(false), "which": " ".join(false),
                             "seconds": time.perf_counter() - started})  # fmt: skip
            for fault, (plant, checks, by_row) in faults.FAULTS.items():
                if options.only and fault not in options.only:
                    continue
                if name == "sample" and fault.startswith("aliased"):
                    continue  # half of its 32 pixels have too little spectrum
                for rate in SMALL if by_row else RATES:
                    for seed in range(options.trials):
                        faults.clean_set(*_arguments(name, seed, folder))
                        planted = plant(folder, rate, np.random.default_rng(seed))
                        started = time.perf_counter()
                        done = audited(folder)
                        share, count = found_share(done, checks, planted, by_row)
                        rows.append({"set": name, "fault": fault, "rate": rate, "trial": seed,
                                     "planted": count, "found": share,
                                     "checks": len(done.findings),
                                     "seconds": time.perf_counter() - started})  # fmt: skip
                    print(name, fault, rate, np.mean([r["found"] for r in rows[-options.trials :]]),
                          flush=True)  # fmt: skip
            if options.csv:
                runs.write_table(options.csv, pd.DataFrame(rows).round(4))
    table = pd.DataFrame(rows)
    clean = table[table["fault"] == "none"]
    if len(clean):
        print(clean.groupby("set")[["false", "checks"]].sum(), clean["which"].value_counts())
    planted = table[table["fault"] != "none"]
    print(planted.pivot_table(index=["set", "fault"], columns="rate", values="found").round(3))


def _arguments(name: str, seed: int, folder: Path):
    pictures, groups, test = photographs(name, seed)
    return pictures, groups, folder, test, seed


if __name__ == "__main__":
    main()
