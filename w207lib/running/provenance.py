"""What is needed to repeat a run: commit, versions, machine, settings, command."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from w207lib import config
from w207lib.machine import devices

COMMAND_VARIABLE = "W207_COMMAND"
"""The command that a notebook's kernel works for; `w207 run` sets it."""
PACKAGES = (
    "w207lib", "tensorflow-cpu", "tensorflow", "jax", "torch", "keras", "keras-tuner", "numpy",
    "pandas", "scikit-learn", "scipy", "pillow", "pyarrow",
)  # fmt: skip
SETTINGS = (
    "KERAS_BACKEND", "ONEDNN_MAX_CPU_ISA", "TF_ENABLE_ONEDNN_OPTS", "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "TF_DETERMINISTIC_OPS", "TF_XLA_FLAGS",
    "XLA_FLAGS", "CUDA_VISIBLE_DEVICES", "W207_DEVICES",
)  # fmt: skip
"""Environment variables that numbers may depend on."""


def gather(**facts) -> dict:
    """Return what is needed to repeat a run.

    Args:
        **facts: More entries, such as ``seed`` and ``data_digest``.

    Returns:
        Time (UTC), commit (with ``+changes`` where the checkout differs), Python, platform,
        processors (how many, how many of them usable, which model and instruction sets),
        settings in the environment, package versions, the command, and ``facts``.
    """
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "processor": devices.cpu(),
        "environment": {name: os.environ[name] for name in SETTINGS if name in os.environ},
        "versions": versions,
        "command": command(),
        **facts,
    }


def command() -> str:
    """Return this process's command, or the one it works for, as a shell takes it."""
    name = Path(sys.argv[0]).name
    name = "w207" if name in ("cli.py", "w207.exe") else name
    return os.environ.get(COMMAND_VARIABLE) or shlex.join([name, *sys.argv[1:]])


def commit() -> str | None:
    """Return the checkout's commit, ``+changes`` behind it if it differs; None outside one."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=config.home(), capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "w207lib")
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
