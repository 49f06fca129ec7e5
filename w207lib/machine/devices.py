"""What this machine has: versions, devices, memory, disk, and the precision that pays here.

TensorFlow is loaded only by the functions that need it, and quietly.
"""

from __future__ import annotations

import ctypes
import errno
import importlib.metadata
import json
import logging
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

log = logging.getLogger(__name__)

DEVICES_VARIABLE = "W207_DEVICES"
PACKAGES = ("numpy", "pandas", "scikit-learn", "pillow", "matplotlib", "keras-tuner", "papermill")
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16")  # bf16: Arm's name
WORTH_IT = 1.15  # below this ratio, the rounding of bfloat16 buys nothing
GIB = 2**30
CGROUP = Path("/sys/fs/cgroup")
_LIMITS = (  # of a container, version 2 and 1: limit, use, and of that what files left there
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat",
     "total_inactive_file"),
)  # fmt: skip


@contextmanager
def quiet_stderr():
    """Hold back what C++ code writes to file descriptor 2; show it after an exception."""
    try:
        saved = os.dup(2)
    except OSError:  # no standard error, as under pythonw
        yield
        return
    with tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(saved, held.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def wanted_devices() -> tuple[bool, int | None]:
    """Read ``W207_DEVICES``: what a training may compute on.

    ``<n>`` uses at most n of the GPUs there are (1: no spreading). ``cpu:<n>`` cuts the processor
    into n logical devices instead, which is slower, and is there to try the spreading without
    a GPU. Unset, all GPUs are used.

    Returns:
        Whether logical processors are asked for, and the most devices, None for all.

    Raises:
        ValueError: It is set to something else.
    """
    text = os.environ.get(DEVICES_VARIABLE, "").strip().lower()
    if not text:
        return False, None
    number = text.removeprefix("cpu:")
    if not number.isdecimal() or int(number) < 1:
        raise ValueError(
            f"{DEVICES_VARIABLE} is {text!r}; expected a number of devices such as 1, or cpu:2 for "
            "two logical processors. Set it so, or unset it to use every GPU."
        )
    return number != text, int(number)


def quiet_keras():
    """Import Keras without its backend's start-up lines, set devices up, and return the module.

    ``TF_CPP_MIN_LOG_LEVEL`` alone doesn't silence TensorFlow 2.21, so the first import, and the
    first look for devices, run with standard error held back.
    """
    _set_environment()
    if "keras" not in sys.modules:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        with quiet_stderr():
            import keras

            if keras.backend.backend() == "tensorflow":
                import tensorflow as tf

                tf.config.list_physical_devices()
                tf.get_logger().setLevel("ERROR")
        # so that networks with our layer and our optimizer load
        from w207lib.nets import optimizers, recompression  # noqa: F401
    _set_devices_up()
    return sys.modules["keras"]


@lru_cache(maxsize=1)
def _set_environment() -> None:
    """Let JAX take GPU memory as it needs it; what the environment says already, stands."""
    if backend() != "jax":
        return
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    logical, count = wanted_devices()
    flag = "--xla_force_host_platform_device_count"
    if logical:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        if flag not in os.environ.get("XLA_FLAGS", ""):
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}={count}".strip()


@lru_cache(maxsize=1)
def _set_devices_up() -> None:
    """Let TensorFlow take GPU memory as it needs it, and make logical processors where asked."""
    logical, count = wanted_devices()
    if sys.modules["keras"].backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    try:
        if "TF_FORCE_GPU_ALLOW_GROWTH" not in os.environ:
            for gpu in tf.config.list_physical_devices("GPU"):
                tf.config.experimental.set_memory_growth(gpu, True)
        if logical and count:
            parts = [tf.config.LogicalDeviceConfiguration()] * count
            processor = tf.config.list_physical_devices("CPU")[0]
            tf.config.set_logical_device_configuration(processor, parts)
    except (RuntimeError, ValueError) as error:  # something has computed already
        log.info("devices stay as they were set up before: %s", error)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def backend() -> str:
    """Return the name of Keras's backend, without loading it."""
    if "KERAS_BACKEND" in os.environ:
        return os.environ["KERAS_BACKEND"]
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    try:
        return json.loads((home / "keras.json").read_text())["backend"]
    except (OSError, ValueError, KeyError, TypeError):
        return "tensorflow"


def versions() -> dict[str, str | None]:
    """Return the versions that results depend on, None for what is not installed."""
    found = {
        "python": platform.python_version(),
        "tensorflow": _version("tensorflow") or _version("tensorflow-cpu"),
        "keras": _version("keras"),
        "backend": backend(),
    }
    return found | {name: _version(name) for name in PACKAGES}


def devices() -> list[str]:
    """Return what Keras can compute on, such as ``["CPU:0", "GPU:0 NVIDIA H200"]``."""
    keras = quiet_keras()
    if keras.backend.backend() != "tensorflow":
        return list(keras.distribution.list_devices())
    import tensorflow as tf

    found = []
    for device in tf.config.list_physical_devices():
        details = tf.config.experimental.get_device_details(device)
        name = device.name.removeprefix("/physical_device:")
        found.append(f"{name} {details.get('device_name', '')}".strip())
    return found


def has_gpu() -> bool:
    """Whether Keras computes on a GPU or TPU: backends call them GPU:0, gpu:0 and cuda:0."""
    return any(name.lower().startswith(("gpu", "cuda", "rocm", "tpu")) for name in devices())


def nvidia(query: str) -> list[str]:
    """Ask NVIDIA's driver about each GPU, without a network library.

    Args:
        query: Fields of ``nvidia-smi --query-gpu``, such as ``name,memory.total``.

    Returns:
        A line a GPU; empty where there is no driver, or it gives no answer.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    words = [program, f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def memory() -> dict[str, int]:
    """Return ``total`` and ``available`` memory in bytes, within a container's limit.

    What a container keeps of files that were read counts as used there, but the kernel drops it
    when memory is asked for: it is available.
    """
    import psutil

    found = psutil.virtual_memory()
    total, available = found.total, found.available
    for most, now, stat, idle in _LIMITS:
        try:
            limit = int((CGROUP / most).read_text())  # "max" where there is no limit
            used = int((CGROUP / now).read_text())
        except (OSError, ValueError):
            continue
        used -= _counted(CGROUP / stat, idle)
        total, available = min(total, limit), min(available, max(limit - used, 0))
    return {"total": total, "available": available}


def _counted(path: Path, name: str) -> int:
    """Return a line's number in a file of names and numbers; 0 where it is not there."""
    try:
        lines = dict(line.split() for line in path.read_text().splitlines())
        return int(lines.get(name, 0))
    except (OSError, ValueError):
        return 0


def disk(path: str | Path) -> dict[str, int]:
    """Return ``total`` and ``free`` bytes of the disk that holds, or will hold, ``path``."""
    path = Path(path).absolute()
    while not path.exists():
        path = path.parent
    usage = shutil.disk_usage(path)
    return {"total": usage.total, "free": usage.free}


def free_bytes(path: str | Path) -> int:
    """Return the free bytes of the disk that holds, or will hold, ``path``."""
    return disk(path)["free"]


def require_disk(path: str | Path, needed: int) -> None:
    """Refuse to begin what the disk can't hold.

    Args:
        path: Where it will be written; need not exist yet.
        needed: Bytes that will be written.

    Raises:
        OSError: With ``errno.ENOSPC`` when fewer bytes are free.
    """
    free = free_bytes(path)
    if free < needed:
        error = OSError(
            f"the disk of {path} has {free / GIB:.2f} GiB free and {needed / GIB:.2f} GiB are "
            "needed: free some space, or choose another folder."
        )
        error.errno = errno.ENOSPC
        raise error


def _cpu_text() -> tuple[str, set[str]]:
    """Return the processor's name and all its flags, as far as this system tells them."""
    if sys.platform == "linux":
        facts: dict[str, str] = {}
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip().lower(), value.strip())
        flags = facts.get("flags") or facts.get("features") or ""
        return facts.get("model name", ""), set(flags.lower().split())
    if sys.platform == "darwin":
        names = ("machdep.cpu.brand_string", "hw.optional.arm.FEAT_BF16")
        answers = [
            subprocess.run(["sysctl", "-n", name], capture_output=True, text=True).stdout.strip()
            for name in names
        ]
        return answers[0], {"bf16"} if answers[1] == "1" else set()
    if sys.platform == "win32":
        import winreg

        key = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, key) as handle:
            name = winreg.QueryValueEx(handle, "ProcessorNameString")[0].strip()
        features = {"avx2": 40, "avx512f": 41}  # PF_AVX2_…, PF_AVX512F_INSTRUCTIONS_AVAILABLE
        present = ctypes.windll.kernel32.IsProcessorFeaturePresent
        return name, {flag for flag, number in features.items() if present(number)}
    return "", set()


def cpu() -> dict:
    """Return the processor's ``model``, usable ``cores`` and ``instruction_sets`` that matter."""
    try:
        name, flags = _cpu_text()
    except OSError:
        name, flags = "", set()
    usable = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
    return {
        "model": name or platform.processor() or platform.machine(),
        "cores": len(usable),
        "instruction_sets": [flag for flag in INSTRUCTION_SETS if flag in flags],
    }


def _timed_model(precision: str, width: int):
    """Build the small network that is timed; named and seeded, so that nothing global moves."""
    keras = quiet_keras()
    layers, stem = keras.layers, f"timed_{precision}"
    stack = [keras.Input((32, 32, 3), name=f"{stem}_input")]
    for block, filters in enumerate((width, 2 * width, 2 * width)):
        facts = {"padding": "same", "activation": "relu", "dtype": precision}
        stack.append(layers.Conv2D(filters, 3, name=f"{stem}_conv_{block}", **facts))
        stack.append(layers.MaxPooling2D(name=f"{stem}_pool_{block}", dtype=precision))
    stack.append(layers.Flatten(name=f"{stem}_flatten", dtype=precision))
    stack.append(layers.Dense(1, "sigmoid", name=f"{stem}_head", dtype="float32"))
    model = keras.Sequential(stack, name=stem)
    model.compile("adam", "binary_crossentropy")
    return model


def measure_bfloat16(*, width: int = 32, batch: int = 64, steps: int = 2, repeats: int = 5) -> dict:
    """Time a training step in float32 and in mixed_bfloat16, side by side and interleaved.

    The global dtype policy, Keras's names and Python's random state are left as they were.

    Args:
        width: Filters of the first of three convolutions.
        batch: Images a step, each 32 x 32.
        steps: Steps a timing.
        repeats: Timings of each precision, in turns.

    Returns:
        ``float32_ms`` and ``bfloat16_ms`` (medians, a step), ``ratio`` (the median of float32 /
        bfloat16 over the turns: above 1, bfloat16 is faster), ``ratio_low``, ``ratio_high``.
    """
    import numpy as np

    names = ("float32", "mixed_bfloat16")
    generator = np.random.default_rng(0)
    x = generator.random((batch, 32, 32, 3), dtype=np.float32)  # (B, H, W, C)
    y = generator.integers(0, 2, (batch, 1)).astype(np.float32)
    state = random.getstate()  # Keras draws an initializer's seed from it
    try:
        models = {name: _timed_model(name, width) for name in names}
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(repeats + 1):
            for name in names:
                start = time.perf_counter()
                for _ in range(steps):
                    models[name].train_on_batch(x, y)
                if turn:  # the first one traces
                    seconds[name].append((time.perf_counter() - start) / steps)
    finally:
        random.setstate(state)
    ratios = [slow / fast for slow, fast in zip(*seconds.values(), strict=True)]
    return {
        "float32_ms": 1000 * statistics.median(seconds["float32"]),
        "bfloat16_ms": 1000 * statistics.median(seconds["mixed_bfloat16"]),
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
    }


@lru_cache(maxsize=1)
def choose_precision() -> tuple[str, str]:
    """Return the precision to train in here, and one sentence that says why."""
    if not has_gpu() and not {"amx_bf16", "avx512_bf16"} & set(cpu()["instruction_sets"]):
        return "float32", "no GPU, and this processor has neither AMX nor AVX512_BF16"
    found = measure_bfloat16()
    text = "bfloat16 measured {ratio:.2f} times as fast ({ratio_low:.2f} to {ratio_high:.2f})"
    name = "mixed_bfloat16" if found["ratio"] > WORTH_IT else "float32"
    return name, text.format(**found)
