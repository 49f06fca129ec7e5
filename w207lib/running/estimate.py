"""What a run will take: time, disk and memory of each notebook, from a few measured steps.

``plans.WORK`` says what each notebook does; its costs are measured here and now, on this data
set and machine. Times are *at most*: a training that stops early takes less. Nothing is written
but to temporary folders.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from pathlib import Path

import pandas as pd

from w207lib import clean, config, datasets, manifest, runs, split, train
from w207lib.machine import devices
from w207lib.running.costs import Bench, free_memory
from w207lib.running.plans import SEARCHED, WORK, Plan, explored, tried

PROCESS_MEMORY = 1.2e9
"""Bytes of a kernel that has loaded TensorFlow and done nothing yet."""
PAGES = 5e6
"""Bytes of an executed notebook, its page and its figures."""


def estimate(
    profile: str, notebooks: list, *, parameters: dict | None = None, root: Path,
    bench: Bench | None = None,
) -> dict:  # fmt: skip
    """Estimate what notebooks will take on a profile's data, here.

    Args:
        profile: Its name.
        notebooks: From ``notebook_files.choose``.
        parameters: Values for their ``parameters`` cells.
        root: The run's folder, which need not exist.
        bench: Measures; None for one of this machine and data.

    Returns:
        ``notebooks``: a dict each with ``notebook``, ``seconds`` (at most), ``least`` (seconds,
        where all goes well), ``disk`` (bytes that stay), ``passing`` (that are removed again),
        ``memory`` and ``device_memory`` (bytes), ``mostly`` (what takes longest), ``known``;
        ``total``: ``seconds, least, disk, memory, device_memory``; ``free``: ``disk, memory,
        device_memory``; ``short``: a line for each thing there is not enough of.

    Raises:
        ValueError: The data set is not here, or its splits leak.
    """
    given = dict(parameters or {})
    own = {k: given[k] for k in ("seed", "validation_fraction") if k in given}
    settings = config.load(profile, **own)
    dataset = datasets.locate(settings.dataset)
    with tempfile.TemporaryDirectory() as scratch:
        known = (dataset.cache / "manifest.json").is_file()
        source = dataset if known else dataclasses.replace(dataset, cache=Path(scratch))
        begun = time.perf_counter()
        manifest.load(source)
        read = time.perf_counter()
        table = split.assign(
            clean.mark(manifest.load(source)),
            validation_fraction=settings.validation_fraction, seed=settings.seed,
        )  # fmt: skip
        index = time.perf_counter() - read
        if bench is None:
            precision = train.choose_precision(settings)
            bench = Bench(dataset, table, manifest.statistics(source), precision)
    counts = {name: len(manifest.usable(table, name)) for name in ("train", "validation", "test")}
    rows, memory = [], free_memory()
    for place, notebook in enumerate(notebooks):
        values = notebook.parameters | {k: v for k, v in given.items() if k in notebook.parameters}
        make = WORK.get(notebook.path.stem)
        trained = None if "05" in {other.number for other in notebooks} else Path(root) / "models"
        plan = Plan(settings, given, trained, values, counts)
        items = make(plan) if make else []
        if make in SEARCHED and len(set(explored(plan, plan.settings()))) > 1:
            bench.between(tried(plan, plan.settings()))
        base = bench.startup() + index + (0 if known or place else read - begun)
        row = _row(items, base, bench, shared=memory["device"] is None)
        facts = {"number": notebook.number, "notebook": notebook.path.name}
        rows.append(facts | row | {"known": make is not None})
    total = {key: sum(row[key] for row in rows) for key in ("seconds", "least", "disk")}
    total["disk"] += max((row["passing"] for row in rows), default=0)
    for key in ("memory", "device_memory"):
        total[key] = max((row[key] for row in rows), default=0)
    free = {
        "disk": min(devices.free_bytes(root), devices.free_bytes(dataset.cache)),
        "memory": memory["host"], "device_memory": memory["device"] or 0,
    }  # fmt: skip
    return {
        "profile": profile, "counts": counts, "notebooks": rows, "total": total, "free": free,
        "short": _short(rows, total, free),
    }  # fmt: skip


def _row(items: list, base: float, bench, *, shared: bool) -> dict:
    uses = [item.use(bench) for item in items]
    least = [use.seconds if use.least is None else use.least for use in uses]
    longest = max(zip(uses, items, strict=True), key=lambda pair: pair[0].seconds, default=None)
    host = max((use.host + use.device * shared for use in uses), default=0)
    return {
        "seconds": base + sum(use.seconds for use in uses), "least": base + sum(least),
        "disk": int(PAGES + sum(use.disk for use in uses)),
        "passing": int(max((use.passing for use in uses), default=0)),
        "memory": int(PROCESS_MEMORY + host),
        "device_memory": 0 if shared else int(max((use.device for use in uses), default=0)),
        "mostly": str(longest[1]) if longest and longest[0].seconds > base else "starting",
    }  # fmt: skip


def _short(rows: list[dict], total: dict, free: dict) -> list[str]:
    """Return a line for each thing there is not enough of."""
    short = []
    if total["disk"] > free["disk"]:
        short.append(
            f"NOT ENOUGH disk: {gib(total['disk'])} are needed and {gib(free['disk'])} are free; "
            "free some, or run elsewhere with W207_HOME and --out."
        )
    for key, where in (("memory", "memory"), ("device_memory", "memory of the GPU")):
        worst = [row["number"] for row in rows if row[key] > free[key]]
        if worst:
            short.append(
                f"NOT ENOUGH {where}: notebook {', '.join(worst)} may need {gib(total[key])} and "
                f"{gib(free[key])} are free; give a smaller batch_size or image_size in the "
                "profile (w207lib/config.py), or end other programs."
            )
    return short


def gib(count: float) -> str:
    """Return bytes for people: ``0.3 GiB``."""
    return f"{count / devices.GIB:.1f} GiB"


def lines(found: dict) -> list[str]:
    """Return an estimate as a table for people."""
    table = pd.DataFrame(
        {
            "notebook": row["notebook"].removesuffix(".ipynb"), "at most": _time(row["seconds"]),
            "disk": gib(row["disk"] + row["passing"]),
            "memory": gib(row["memory"] + row["device_memory"]), "mostly": _mostly(row),
        }
        for row in found["notebooks"]
    )  # fmt: skip
    left = {name: f"{{:<{table[name].str.len().max()}}}".format for name in ("notebook", "mostly")}
    total, free, counts = found["total"], found["free"], found["counts"]
    text = [
        f"{counts['train']:,} images for training, {counts['validation']:,} for validation, "
        f"{counts['test']:,} for testing",
        *table.to_string(index=False, justify="left", formatters=left).splitlines(),
        f"all together at most {_time(total['seconds'])}: every training takes all its epochs; "
        "one that stops early takes less",
        f"disk    {gib(total['disk'])} needed, {gib(free['disk'])} free",
        f"memory  {gib(total['memory'])} needed, {gib(free['memory'])} free",
    ]  # fmt: skip
    if total["device_memory"]:
        text.append(
            f"GPU     {gib(total['device_memory'])} needed, {gib(free['device_memory'])} free"
        )
    return [*(line.rstrip() for line in text), *found["short"]]


def _time(seconds: float) -> str:
    return "unknown" if math.isnan(seconds) else runs.duration(seconds)


def _mostly(row: dict) -> str:
    if not row["known"]:
        return "a notebook of your own: its start alone is counted"
    if row["least"] < 0.8 * row["seconds"]:
        return f"{row['mostly']}; from {_time(row['least'])}, by the combinations tried"
    return row["mostly"]
