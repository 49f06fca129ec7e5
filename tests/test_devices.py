"""What the machine has, without disturbing what runs on it."""

import errno
import os
import random
import subprocess
import sys

import pytest

from w207lib.machine import devices, doctor


@pytest.fixture
def no_measuring(monkeypatch):
    found = {"float32_ms": 2.0, "bfloat16_ms": 1.0, "ratio": 2.0, "ratio_low": 1.9,
             "ratio_high": 2.1}  # fmt: skip
    monkeypatch.setattr(devices, "devices", lambda: ["CPU:0"])
    monkeypatch.setattr(devices, "measure_bfloat16", lambda **_: found)
    devices.choose_precision.cache_clear()
    yield found
    devices.choose_precision.cache_clear()


def fake_cpu(monkeypatch, *sets):
    facts = {"model": "a processor", "cores": 2, "instruction_sets": list(sets)}
    monkeypatch.setattr(devices, "cpu", lambda: facts)


def test_keras_comes_quietly_and_once():
    """Not a line on either stream, from import to a first computation, and no import before."""
    code = (
        "import sys; from w207lib.machine import devices, doctor; "
        "assert not {'keras', 'tensorflow'} & set(sys.modules); "
        "k = devices.quiet_keras(); assert k is devices.quiet_keras(); "
        "k.ops.convert_to_numpy(k.ops.ones(2) + 1)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_held_output_is_shown_after_an_exception(capfd):
    with pytest.raises(RuntimeError), devices.quiet_stderr():
        os.write(2, b"the reason")
        raise RuntimeError
    assert "the reason" in capfd.readouterr().err
    with devices.quiet_stderr():
        os.write(2, b"noise")
    assert "noise" not in capfd.readouterr().err


def test_versions_name_what_results_depend_on(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    found = devices.versions()
    assert found["backend"] == "jax"
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert all(found[name] for name in ("tensorflow", "keras", "numpy", "pillow"))


def test_the_backend_is_read_from_kerass_own_file(monkeypatch, tmp_path):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert devices.backend() == "tensorflow"
    (tmp_path / "keras.json").write_text('{"backend": "torch"}')
    assert devices.backend() == "torch"


def test_machine_facts_are_plausible():
    memory, disk, cpu = devices.memory(), devices.disk("."), devices.cpu()
    assert 0 < memory["available"] <= memory["total"]
    assert 0 <= disk["free"] <= disk["total"]
    assert cpu["model"] and cpu["cores"] >= 1
    assert set(cpu["instruction_sets"]) <= set(devices.INSTRUCTION_SETS)


@pytest.mark.parametrize(
    ("folder", "most", "now", "idle"),
    [("", "memory.max", "memory.current", "inactive_file"),
     ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")],
)  # fmt: skip
def test_what_a_container_keeps_of_files_is_available(
    tmp_path, monkeypatch, folder, most, now, idle
):
    monkeypatch.setattr(devices, "CGROUP", tmp_path)
    mib, group = 2**20, tmp_path / folder
    group.mkdir(exist_ok=True)
    (group / most).write_text(f"{64 * mib}\n")
    (group / now).write_text(f"{60 * mib}\n")
    assert devices.memory() == {"total": 64 * mib, "available": 4 * mib}
    (group / "memory.stat").write_text(f"anon {20 * mib}\n{idle} {36 * mib}\n")
    assert devices.memory() == {"total": 64 * mib, "available": 40 * mib}


def test_disk_of_a_folder_that_does_not_exist_yet(tmp_path):
    assert devices.free_bytes(tmp_path / "not" / "yet") > 0


def test_too_little_disk_is_one_sentence(tmp_path):
    devices.require_disk(tmp_path, 1)
    with pytest.raises(OSError, match=r"GiB free and .* needed: free some space") as caught:
        devices.require_disk(tmp_path, 2**60)
    assert caught.value.errno == errno.ENOSPC
    assert str(tmp_path) in str(caught.value)


def test_measuring_disturbs_nothing():
    keras = devices.quiet_keras()
    policy = keras.config.dtype_policy().name
    before = [keras.layers.Conv2D(1, 1).name, keras.Sequential().name]
    state = random.getstate()
    found = devices.measure_bfloat16(width=4, batch=4, steps=1, repeats=3)
    assert random.getstate() == state
    assert keras.config.dtype_policy().name == policy
    after = [keras.layers.Conv2D(1, 1).name, keras.Sequential().name]
    numbers = [[int(name.rpartition("_")[2] or 0) if "_" in name else 0 for name in names]
               for names in (before, after)]  # fmt: skip
    assert [b - a for a, b in zip(*numbers, strict=True)] == [1, 1]
    assert 0 < found["ratio_low"] <= found["ratio"] <= found["ratio_high"]
    assert found["float32_ms"] > 0 and found["bfloat16_ms"] > 0


def test_no_hardware_no_measuring(monkeypatch, no_measuring):
    fake_cpu(monkeypatch, "avx2")
    monkeypatch.setattr(devices, "measure_bfloat16", lambda: pytest.fail("measured"))
    precision, reason = devices.choose_precision()
    assert precision == "float32"
    assert "neither AMX nor AVX512_BF16" in reason


@pytest.mark.parametrize(("ratio", "expected"), [(2.0, "mixed_bfloat16"), (1.1, "float32")])
def test_bfloat16_only_where_it_pays(monkeypatch, no_measuring, ratio, expected):
    fake_cpu(monkeypatch, "avx2", "amx_bf16")
    no_measuring["ratio"] = ratio
    assert devices.choose_precision()[0] == expected


@pytest.mark.parametrize("name", ["GPU:0 NVIDIA H200", "gpu:0", "cuda:0", "tpu:0"])
def test_a_gpu_of_any_backend_is_measured_whatever_the_processor(monkeypatch, no_measuring, name):
    fake_cpu(monkeypatch, "avx2")
    monkeypatch.setattr(devices, "devices", lambda: ["cpu:0", name])
    precision, reason = devices.choose_precision()
    assert devices.has_gpu() and precision == "mixed_bfloat16"
    assert reason == "bfloat16 measured 2.00 times as fast (1.90 to 2.10)"


def test_doctor_is_ready_or_says_what_to_fix(monkeypatch, no_measuring, capsys, tmp_path):
    monkeypatch.setenv("W207_HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "_installed", lambda: {})
    assert doctor.print_doctor() == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("to fix: dependencies (") and "sample" in last
    rows = [("Python", "3.11", "ok"), ("bfloat16", "0.4", "note: does not pay here")]
    monkeypatch.setattr(doctor, "doctor", lambda: rows)
    assert doctor.print_doctor() == 0
    assert capsys.readouterr().out.splitlines()[-1] == "ready"


def test_doctor_survives_a_broken_backend(monkeypatch):
    def broken():
        raise ImportError("DLL load failed")

    monkeypatch.setattr(devices, "devices", broken)
    ((name, value, verdict),) = doctor._computing()
    assert "DLL load failed" in value and verdict.startswith("fix:")


def test_doctor_finds_other_versions_than_pinned(tmp_path):
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("# pins\nnumpy==1.0\nabsent==2.0\n")
    _, value, verdict = doctor._pins({"numpy": "1.1"}, constraints)
    assert value == "numpy 1.1 (pinned 1.0)" and verdict.startswith("note:")
    assert doctor._pins({"numpy": "1.0"}, constraints)[2] == "ok"
    assert doctor._pins({}, tmp_path / "none.txt")[2].startswith("note:")


def test_doctor_names_what_is_missing(monkeypatch):
    needs = ["tensorflow-cpu==2.21.*", "numpy>=2", 'ruff; extra == "dev"']
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: needs)
    base = {"w207lib": "0.1.0", "tensorflow": "2.21.0"}
    assert doctor._requirements({**base, "numpy": "2.4"})[2] == "ok"
    assert "numpy missing" in doctor._requirements(base)[1]
    assert "numpy 1.26 is not >=2" in doctor._requirements({**base, "numpy": "1.26"})[1]


@pytest.mark.parametrize(("answer", "status", "expected"), [
    ("H100, 81559 MiB\nH100, 81559 MiB\n", 0, ["H100, 81559 MiB"] * 2), ("no driver", 9, []),
])  # fmt: skip
def test_gpus_are_asked_of_nvidias_driver(monkeypatch, answer, status, expected):
    asked = []

    def answered(words, **_):
        asked.append(words)
        return subprocess.CompletedProcess(words, status, answer)

    monkeypatch.setattr(devices.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(devices.subprocess, "run", answered)
    assert devices.nvidia("name,memory.total") == expected
    assert "--query-gpu=name,memory.total" in asked[0]
    monkeypatch.setattr(devices.shutil, "which", lambda name: None)
    assert devices.nvidia("name") == [] and len(asked) == 1
