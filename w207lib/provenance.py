"""What is needed to repeat a run: commit, versions, machine, settings, command."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from w207lib import config


def gather(**facts) -> dict:
    """Return what is needed to repeat a run.

    Args:
        **facts: More entries, such as ``seed`` and ``data_digest``.

    Returns:
        Time (UTC), commit (with ``+changes`` where the checkout differs), Python, platform,
        processor count, backend settings and package versions, and ``facts``.
    """
    packages = ("w207lib", "tensorflow-cpu", "tensorflow", "jax", "torch", "keras",
                "keras-tuner", "numpy", "pandas", "scikit-learn", "pillow")  # fmt: skip
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    settings = ("KERAS_BACKEND", "ONEDNN_MAX_CPU_ISA", "TF_ENABLE_ONEDNN_OPTS",
                "TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS")  # fmt: skip
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "environment": {name: os.environ[name] for name in settings if name in os.environ},
        "versions": versions,
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        **facts,
    }


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
