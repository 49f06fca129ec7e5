"""`w207 doctor`: what this machine has, and what is missing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path

from w207lib import config
from w207lib.machine import devices

OK = "ok"
GIB = devices.GIB
Row = tuple[str, str, str]  # name, value, verdict: "ok", "note: ..." or "fix: ..."


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _installed() -> dict[str, str]:
    found = importlib.metadata.distributions()
    return {_normal(item.metadata["Name"]): item.version for item in found if item.metadata["Name"]}


def _requirements(installed: dict[str, str]) -> Row:
    """Compare what is installed with the list of dependencies in pyproject.toml."""
    from packaging.requirements import Requirement

    if "w207lib" not in installed:
        return "dependencies", "w207lib itself is not installed", "fix: python make.py setup"
    wanted = [Requirement(text) for text in importlib.metadata.requires("w207lib") or []]
    wrong = []
    wanted = [need for need in wanted if not need.marker or need.marker.evaluate({"extra": ""})]
    for need in wanted:
        name = _normal(need.name)
        if name == "tensorflow-cpu" and "tensorflow" in installed:
            name = "tensorflow"  # the GPU build stands in for it
        if name not in installed:
            wrong.append(f"{need.name} missing")
        elif not need.specifier.contains(installed[name], prereleases=True):
            wrong.append(f"{name} {installed[name]} is not {need.specifier}")
    if wrong:
        return "dependencies", ", ".join(wrong), "fix: python make.py setup"
    return "dependencies", f"all {len(wanted)} installed", OK


def _pins(installed: dict[str, str], constraints: Path) -> Row:
    """Compare what is installed with the versions that were tested together."""
    if not constraints.is_file():
        return "pinned versions", "no constraints.txt here", "note: not compared"
    lines = constraints.read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line and line[0] != "#")
    other = [
        f"{name} {installed[name]} (pinned {version})"
        for name, version in pins.items()
        if name in installed and installed[name] != version
    ]
    if not other:
        return "pinned versions", "all as in constraints.txt", OK
    more = f" and {len(other) - 3} more" if len(other) > 3 else ""
    return "pinned versions", ", ".join(other[:3]) + more, "note: other than tested"


def _folder(name: str, path: Path) -> Row:
    """Say where a folder lies, and whether it can be written and has room."""
    free = devices.free_bytes(path)
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    value = f"{path} ({free / GIB:.1f} GiB free)"
    if not os.access(existing, os.W_OK):
        return name, value, "fix: not writable; set W207_HOME to a folder that is"
    if free < GIB:
        return name, value, "fix: less than 1 GiB free"
    return name, value, OK if free > 5 * GIB else "note: under 5 GiB is little for large data"


def _computing() -> list[Row]:
    """Load Keras and measure; a failure is a row, too."""
    try:
        found = devices.devices()
        speed = devices.measure_bfloat16()
    except Exception as error:  # whatever breaks a backend's import is what is asked here
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        return [("devices", text, "fix: python make.py clean-env, then setup")]
    value = "{ratio:.2f} times as fast as float32 ({ratio_low:.2f} to {ratio_high:.2f})"
    pays = speed["ratio"] > devices.WORTH_IT
    return [
        ("devices", ", ".join(found), OK),
        ("bfloat16", value.format(**speed), OK if pays else "note: does not pay here"),
    ]


def doctor() -> list[Row]:
    """Return rows of name, value and verdict: "ok", "note: ..." or "fix: ..."."""
    installed = _installed()
    versions = devices.versions()
    python = platform.python_version_tuple()[:2] in (("3", "11"), ("3", "12"), ("3", "13"))
    shown = [f"{name} {versions[name]}" for name in ("tensorflow", "keras", "numpy", "pandas")]
    memory = devices.memory()
    cpu = devices.cpu()
    sample = config.data_root() / "sample"
    sets = ", ".join(cpu["instruction_sets"]) or "not known"
    return [
        ("Python", f"{versions['python']} ({platform.platform()})",
         OK if python else "fix: 3.11, 3.12 or 3.13 is needed"),
        ("versions", ", ".join(shown) + f", backend {versions['backend']}", OK),
        _requirements(installed),
        _pins(installed, config.home() / "constraints.txt"),
        ("processor", f"{cpu['model']}, {cpu['cores']} cores, {sets}", OK),
        *_computing(),
        ("memory", f"{memory['available'] / GIB:.1f} of {memory['total'] / GIB:.1f} GiB available",
         OK if memory["available"] > 3 * GIB else "note: 3 GiB are needed for the sample's models"),
        _folder("data", config.data_root()),
        _folder("runs", config.runs_root()),
        ("sample", str(sample), OK if sample.is_dir() else "fix: git checkout -- data/sample"),
    ]  # fmt: skip


def print_doctor() -> int:
    """Print the doctor's table and one closing line; return 1 when something must be fixed."""
    rows = doctor()
    width = max(len(name) for name, _, _ in rows)
    for name, value, verdict in rows:
        print(
            f"{name:<{width}}  {value}" + ("" if verdict == OK else f"\n{'':<{width}}  {verdict}")
        )
    broken = [f"{name} ({verdict[5:]})" for name, _, verdict in rows if verdict.startswith("fix:")]
    print("to fix: " + "; ".join(broken) if broken else "ready")
    return int(bool(broken))
