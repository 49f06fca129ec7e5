import asyncio
import gc
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from datetime import datetime

import nbformat
import papermill
import psutil
import pytest
from nbclient.exceptions import DeadKernelError

from w207lib import batch, config, runs
from w207lib.running import failures, locks, notebook_files, signals


def statuses(summary):
    return {number: row["status"] for number, row in sorted(summary["notebooks"].items())}


def stored_summary(root):
    return json.loads((root / batch.SUMMARY).read_text())


def test_a_wrong_run_is_refused_before_anything_is_written(four, tmp_path, executed):
    for options, error in (({"parameters": {"epoch": 3}}, ValueError),
                           ({"parameters": {"noise": "x"}}, TypeError)):  # fmt: skip
        with pytest.raises(error):
            batch.run("sample", notebooks=notebook_files.find(), out=tmp_path / "out", **options)
    with pytest.raises(ValueError, match="profile 'imagenet' is unknown"):
        batch.run("imagenet", notebooks=notebook_files.find(), out=tmp_path / "out")
    assert not (tmp_path / "out").exists() and not executed


# --- executing, with papermill -----------------------------------------------------------


def test_notebooks_are_executed_in_order_and_a_failure_stops_only_those_that_need_it(
    four, tmp_path, capfd
):
    root = tmp_path / "run"
    sources = {path.name: path.read_bytes() for path in four.iterdir()}
    given = {"epochs": 3, "noise": 0.25}
    before = dict(os.environ)
    summary = batch.run("cifake", notebooks=notebook_files.find(), parameters=given, out=root)
    assert dict(os.environ) == before
    assert {path.name: path.read_bytes() for path in four.iterdir()} == sources
    assert (root / "order.txt").read_text().splitlines() == [
        f"{number} cifake 3 0.25 ''" for number in ("01", "02", "04")
    ]  # fmt: skip
    assert statuses(summary) == {"01": "done", "02": "failed", "03": "skipped", "04": "done"}
    assert not batch.succeeded(summary)
    assert summary["notebooks"]["02"]["error"] == "ValueError: planned"
    assert summary["notebooks"]["03"]["error"] == "it needs notebook 02"
    assert stored_summary(root) == summary
    assert summary["parameters"] == given and summary["profile"] == "cifake"
    assert summary["provenance"]["seed"] == config.load("cifake").seed
    assert sorted(os.listdir(root / "notebooks")) == [
        "01_why.ipynb", "02_why.ipynb", "04_why.ipynb"
    ]  # fmt: skip
    for path in (root / "notebooks").iterdir():  # the failed one's links, too, lead home
        (link,) = re.findall(r"\]\(([^#]+)#term\)", path.read_text(encoding="utf-8"))
        assert (path.parent / link).resolve() == four.parent / "docs" / "glossary.md"
    failed = nbformat.read(root / "notebooks" / "02_why.ipynb", as_version=4)
    outputs = [o for cell in failed.cells for o in cell.get("outputs", [])]
    (error,) = [o for o in outputs if o.output_type == "error"]
    assert error.ename == "ValueError" and "planned" in "\n".join(error.traceback)
    assert failed.cells[-1].execution_count is None
    assert not (root / ".lock").exists()


# --- failures ----------------------------------------------------------------------------

FAILING = """def deep(n):
    if n == 0:
        raise ValueError("first line\\nsecond line")
    deep(n - 1)
deep(60)"""
DYING = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture
def chain(home, make_notebook, logged):
    """01 fails, and 02 needs it, and 03 needs that; 04 dies, 05 needs it; 06 needs none."""
    folder = home / "notebooks"
    make_notebook(folder, "01", "print('before')", FAILING, "never = 1")
    make_notebook(folder, "02", logged("02"), needs=["01"])
    make_notebook(folder, "03", logged("03"), needs=["02"])
    make_notebook(folder, "04", "1 + 1", DYING, "never = 1")
    make_notebook(folder, "05", logged("05"), needs=["04"])
    make_notebook(folder, "06", logged("06"))
    return folder


def test_failures_are_told_whole_and_what_needs_them_is_skipped_down_the_line(
    chain, tmp_path, capfd
):
    summary = run(tmp_path / "run")
    assert list(statuses(summary).values()) == [
        "failed", "skipped", "skipped", "failed", "skipped", "done"
    ]  # fmt: skip
    assert stored_summary(tmp_path / "run") == summary
    assert summary["status"] == "failed" and summary["exit_status"] == 1
    rows = summary["notebooks"]
    assert summary["seconds"] >= sum(row["seconds"] for row in rows.values()) - 0.5
    assert rows["03"]["error"] == "it needs notebook 02" and rows["03"]["started"] is None
    for row in (summary, rows["01"], rows["04"], rows["06"]):
        started, ended = (datetime.fromisoformat(row[key]) for key in ("started", "ended"))
        assert started < ended and started.utcoffset().total_seconds() == 0
        assert row["seconds"] == pytest.approx((ended - started).total_seconds(), abs=0.5)
    failed, died = rows["01"], rows["04"]
    assert failed["error"] == "ValueError: first line" and failed["cell"] == 4
    lines = failed["traceback"].splitlines()
    assert "\x1b" not in failed["traceback"] and 30 < len(lines) <= failures.TRACEBACK_LINES
    assert lines[-2:] == ["ValueError: first line", "second line"]
    assert "deep(n" in failed["traceback"]
    assert re.match("the notebook's process was killed.*memory.*smaller batch_size", died["error"])
    assert died["cell"] == 4 and "os.kill" in died["traceback"] and "\n" not in died["error"]
    book = nbformat.read(died["output"], as_version=4)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert code[2].outputs[0].data["text/plain"] == "2" and not code[-1].outputs
    assert code[3].outputs[-1].output_type == "error" and died["error"] in str(code[3].outputs)
    log = (tmp_path / "run" / "run.log").read_text()
    assert "notebook 6 of 6 starts: 06_why.ipynb" in log and "processors" in log
    assert re.search(r"notebook 6 of 6 done after \d+ s: 06_why.ipynb; .* since the start", log)
    assert re.search(r"01  failed +\d+.\d s  01_why.ipynb  cell 4: ValueError: first line", log)
    assert re.search(r"run failed after \d+ s\n$", log)


# --- resuming ----------------------------------------------------------------------------


def run(root, **options):
    return batch.run("sample", notebooks=notebook_files.find(), out=root, **options)


def test_resuming_keeps_what_is_whole_and_executes_what_failed(
    four, tmp_path, executed, make_notebook, logged
):
    run(tmp_path / "run")
    make_notebook(four, "02", logged("02"))
    executed.clear()
    summary = run(tmp_path / "run", resume=True)
    assert executed == ["02", "03"]
    assert statuses(summary) == {"01": "kept", "02": "done", "03": "done", "04": "kept"}
    assert batch.succeeded(summary)


@pytest.mark.parametrize("change", ["source", "parameters", "output is gone", "outputs alone"])
def test_resuming_executes_again_what_has_changed_and_what_needs_it(
    four, tmp_path, executed, change, make_notebook, logged
):
    run(tmp_path / "run")
    executed.clear()
    given = {}
    if change == "source":
        make_notebook(four, "01", logged("01"), "extra = 1")
    elif change == "parameters":
        given = {"noise": 0.125}
    elif change == "output is gone":
        (tmp_path / "run" / "notebooks" / "01_why.ipynb").unlink()
    else:
        book = nbformat.read(four / "01_why.ipynb", as_version=4)
        book.cells[1].execution_count = 7
        nbformat.write(book, four / "01_why.ipynb")
    run(tmp_path / "run", resume=True, parameters=given)
    # 04 reads what 01 makes, so it goes with it; 02 has failed, and is tried again
    assert executed == (["02"] if change == "outputs alone" else ["01", "02", "04"])


def test_without_resume_all_are_executed_again_and_half_made_models_dropped(
    four, tmp_path, executed, monkeypatch
):
    run(tmp_path / "run")
    with monkeypatch.context() as notebook:
        notebook.setenv(runs.NOTEBOOK_VARIABLE, "02")
        partial = runs.RunFolder(tmp_path / "run" / "models" / "m", {}).open()
    executed.clear()
    run(tmp_path / "run", resume=True)
    assert partial.exists()
    executed.clear()
    run(tmp_path / "run")
    assert executed == ["01", "02", "04"] and not partial.exists()


def test_after_ctrl_c_the_rest_is_left_and_resuming_goes_on(
    four, tmp_path, executed, make_notebook, logged
):
    make_notebook(four, "02", logged("02"), "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run")
    assert executed == ["01", "02"]
    assert statuses(stored_summary(tmp_path / "run")) == {"01": "done", "02": "interrupted"}
    assert not (tmp_path / "run" / ".lock").exists()
    assert runs.RUN_VARIABLE not in os.environ
    make_notebook(four, "02", logged("02"))
    executed.clear()
    assert batch.succeeded(run(tmp_path / "run", resume=True))
    assert executed == ["02", "03", "04"]


# --- who may use a run folder ------------------------------------------------------------


def test_a_run_folder_of_another_profile_is_refused_and_left_as_it_is(
    four, tmp_path, executed, contents
):
    runs.claim(tmp_path / "run", profile="cifake", data_digest="d")
    before = contents(tmp_path / "run")
    with pytest.raises(ValueError, match="holds a run of profile cifake, not of sample.*--out"):
        run(tmp_path / "run")
    assert contents(tmp_path / "run") == before and not executed


def test_two_runs_in_one_folder_are_refused(four, tmp_path, executed):
    with locks.locked(tmp_path / "run"):
        with pytest.raises(RuntimeError, match="is in use by process"):
            run(tmp_path / "run")
    assert not executed


# --- a real process ----------------------------------------------------------------------

W207 = [sys.executable, "-c", "import sys; from w207lib import cli; sys.exit(cli.main())"]
SLEEPING = """import os, pathlib, time
(pathlib.Path(os.environ["W207_RUN"]) / "pid").write_text(str(os.getpid()))
time.sleep(120)"""


@pytest.fixture
def sleeping(home, make_notebook, logged):
    """01 is quick; 02 writes its process's number down and sleeps; 03 would be quick."""
    (home / "data" / "sample" / "images").mkdir(parents=True)
    make_notebook(home / "notebooks", "01", logged("01"))
    make_notebook(home / "notebooks", "02", SLEEPING)
    make_notebook(home / "notebooks", "03", logged("03"))


def wait_for(what, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("that took too long")


def pid_in(root):
    path = root / "pid"
    return path.is_file() and path.read_text().isdecimal() and int(path.read_text())


def begin(root, *words, **options):
    return subprocess.Popen(
        [*W207, "run", "--out", str(root), *words], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(
    ("name", "status", "says"),
    [("SIGTERM", 143, "stopped by SIGTERM"), ("SIGINT", 130, "stopped by Ctrl-C")],
)
def test_a_signal_ends_a_run_in_order_and_its_kernel_and_resuming_goes_on(
    sleeping, home, tmp_path, name, status, says, make_notebook, logged
):
    root = tmp_path / "run"
    process = begin(root)
    kernel = psutil.Process(wait_for(lambda: pid_in(root)))
    if name == "SIGTERM":
        second = subprocess.run(
            [*W207, "run", "--out", str(root)], capture_output=True, text=True, timeout=60
        )
        assert second.returncode == 1 and f"in use by process {process.pid}" in second.stderr
    process.send_signal(signal.Signals[name])
    time.sleep(0.2)
    process.send_signal(signal.Signals[name])  # once more: an impatient scheduler
    out, err = process.communicate(timeout=60)
    assert process.returncode == status and says in err and "--resume" in err
    assert "Traceback" not in err and "it/s" not in err and "\r" not in err
    summary = stored_summary(root)
    assert summary["status"] == "interrupted" and summary["exit_status"] == status
    assert statuses(summary) == {"01": "done", "02": "interrupted"}
    assert summary["notebooks"]["02"]["error"] == says and summary["notebooks"]["02"]["ended"]
    assert not (root / ".lock").exists()
    psutil.wait_procs([kernel], timeout=5)
    assert not kernel.is_running()
    make_notebook(home / "notebooks", "02", logged("02"))
    if name == "SIGTERM":
        assert statuses(run(root, resume=True)) == {"01": "kept", "02": "done", "03": "done"}


def test_after_a_stop_the_death_of_its_kernel_is_no_news(tmp_path, monkeypatch, caplog):
    """nbclient leaves a task that nobody asks for its error, where the kernel dies too soon."""
    caplog.set_level(logging.INFO, "papermill")
    caplog.set_level(logging.INFO, "asyncio")

    def stopped(*words, **options):
        logging.getLogger("papermill").error("Kernel died while waiting for execute reply.")
        loop = asyncio.new_event_loop()
        task = loop.create_task(wait_in_vain())
        loop.run_until_complete(asyncio.wait([task]))
        loop.close()
        raise signals.Stopped(signal.SIGTERM)

    async def wait_in_vain():
        raise DeadKernelError("Kernel died")

    monkeypatch.setattr(papermill, "execute_notebook", stopped)
    notebook = notebook_files.Notebook("01", tmp_path / "01_a.ipynb", (), {})
    with pytest.raises(signals.Stopped):
        batch._execute(notebook, {}, tmp_path / "out" / "01_a.ipynb")
    gc.collect()
    assert not caplog.records


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no nohup")
def test_under_nohup_a_run_outlives_a_closed_ssh_and_shows_its_log_without_bars(
    sleeping, home, tmp_path, make_notebook
):
    make_notebook(home / "notebooks", "02", SLEEPING.replace("120", "2"))
    root = tmp_path / "run"
    process = subprocess.Popen(
        ["sh", "-c", 'exec nohup "$@" <&-', "sh", *W207, "run", "--out", str(root)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: pid_in(root))
    process.send_signal(signal.SIGHUP)
    out, err = process.communicate(timeout=90)
    assert process.returncode == 0, err
    lines = err.splitlines()
    assert f"follow the run with: tail -f {root / 'run.log'}" in lines[:2]
    assert "it/s" not in err and "\r" not in err and "%|" not in err
    logged_lines = (root / "run.log").read_text().splitlines()
    assert [line for line in lines if line in logged_lines] == logged_lines
    assert err.count("notebook 3 of 3 done") == 1 and "notebook 3 of 3 done" in logged_lines[-5]
    assert stored_summary(root)["status"] == "done"


def test_lines_of_other_processes_are_shown_too_and_those_from_before_are_not(tmp_path, capsys):
    log = tmp_path / runs.LOG
    log.write_text("of yesterday\n")
    with batch.log_shown(tmp_path):
        with log.open("a") as file:
            file.write("epoch 1\nepo")
        wait_for(lambda: capsys.readouterr().err == "epoch 1\n", 5)
        with log.open("a") as file:
            file.write("ch 2\n")
    assert capsys.readouterr().err == "epoch 2\n"


def test_a_run_leaves_no_log_open(four, tmp_path, executed):
    import logging

    before = list(logging.getLogger("w207lib").handlers)
    run(tmp_path / "run")
    assert logging.getLogger("w207lib").handlers == before
    assert (tmp_path / "run" / runs.LOG).is_file()


# --- storing outputs ---------------------------------------------------------------------


def test_outputs_are_stored_without_a_trace_of_when_and_where(home, capfd, make_notebook):
    folder = home / "notebooks"
    make_notebook(
        folder, "01", "import sys; print('said'); print('noise', file=sys.stderr)",
        "40 + 2", "from IPython.display import display; display(profile)",
    )  # fmt: skip
    make_notebook(folder, "02", "print(epochs)", parameters="epochs = 7")
    assert batch.store_outputs() == []
    text = (folder / "01_why.ipynb").read_text()
    assert not re.search(r"papermill|20\d\d-\d\d-\d\dT|/tmp|injected|start_time|iopub", text)
    first = nbformat.read(folder / "01_why.ipynb", as_version=4)
    code = [cell for cell in first.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [1, 2, 3, 4]
    assert [o.text for o in code[1].outputs] == ["said\n"]
    assert code[2].outputs[0].data["text/plain"] == "42"
    assert code[2].outputs[0].execution_count == 3
    assert code[3].outputs[0].data["text/plain"] == "'sample'"
    assert [cell.id for cell in first.cells] == ["cell0", "cell1", "cell2", "cell3", "cell4"]
    assert first.metadata.kernelspec.name == "python3"
    assert set(first.metadata.w207.stored_on) == {"machine", "system", "python"}
    second = nbformat.read(folder / "02_why.ipynb", as_version=4)
    assert second.cells[-1].outputs[0].text == "7\n"
    assert sorted(os.listdir(folder)) == ["01_why.ipynb", "02_why.ipynb"]
    assert not config.runs_root().exists()


def test_one_is_stored_alone_and_what_it_needs_is_executed(home, executed, contents, make_notebook):
    folder = home / "notebooks"
    make_notebook(folder, "01", "1")
    make_notebook(folder, "02", "raise ValueError('planned')")
    make_notebook(folder, "03", "3", needs=["01"])
    make_notebook(folder, "04", "4", needs=["03"])
    make_notebook(folder, "05", "5", needs=["04"])
    before = contents(folder)
    assert batch.store_outputs(["4"]) == [] and executed == ["01", "03", "04"]
    changed = [name for name, text in contents(folder).items() if text != before[name]]
    assert changed == ["04_why.ipynb"]
    with pytest.raises(ValueError, match="there is no notebook 09; there are 01"):
        batch.store_outputs(["09"])


def test_nothing_is_stored_when_one_fails(four, executed, contents):
    before = contents(four)
    assert batch.store_outputs() == [
        "notebook 02 failed: ValueError: planned", "notebook 03 skipped: it needs notebook 02"
    ]  # fmt: skip
    assert contents(four) == before
