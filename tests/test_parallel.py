"""Results do not depend on where they are made: here, in processes, or on a Dask cluster."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from distributed import Client

from w207lib import audit, cli, datasets, detector, manifest
from w207lib.auditing import traces
from w207lib.reading import images, importing, shards
from w207lib.running import parallel

PYTHON = sys.executable
MODEL = Path(__file__).resolve().parents[1] / "data" / "models" / "compact.onnx"


class Cluster:
    """A scheduler and workers, each a process of its own."""

    def __init__(self, folder):
        self.file, self.folder, self.processes = folder / "scheduler.json", folder, []
        self.start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        self.workers = []

    def start(self, kind, *words, **env):
        process = subprocess.Popen(
            [PYTHON, "-m", "distributed.cli.dask_" + kind, "--scheduler-file", str(self.file),
             *words],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self.folder,
            env=os.environ | env,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def add_workers(self, count, **env):
        for _ in range(count):
            self.workers.append(self.start(
                "worker", "--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1",
                **env,
            ))  # fmt: skip
        with self.client() as client:
            client.wait_for_workers(len(self.workers), timeout=60)

    def client(self):
        end = time.monotonic() + 30
        while not self.file.exists() and time.monotonic() < end:
            time.sleep(0.05)
        return Client(scheduler_file=str(self.file), set_as_default=False)

    @property
    def address(self):
        with self.client() as client:
            return client.scheduler.address

    def close(self):
        for process in reversed(self.processes):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        made.add_workers(2)
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def cluster(machines):
    return machines.address


@pytest.fixture
def chunked(monkeypatch):
    """Tasks of three images, so that a small data set is many tasks."""
    for module in (manifest, traces, detector):
        monkeypatch.setattr(module, "CHUNK", 3)
    monkeypatch.setattr(shards, "SHARD_IMAGES", 4)


def results(name, folder, *, all_of_it=False):
    """Import and judge a folder, perhaps audit it and make shards; return tables and arrays."""
    dataset, table = importing.add(name, folder)
    files = [dataset.root / path for path in table["path"]]
    judged = detector.as_table(detector.load(MODEL).judge(files))
    tables = {"manifest": table.drop(columns="source"), "verdicts": judged,
              "statistics": manifest.statistics(dataset)}  # fmt: skip
    if not all_of_it:
        return tables, {}, {}
    found = audit.audit(dataset)
    headers, small = traces.read(dataset, table)
    made = shards.build(dataset, table, 24)
    arrays = {"thumbnails": np.asarray(small), "pixels": made.read(range(len(made.index)))}
    return {"headers": headers, **tables, **found.tables}, arrays, found.numbers


def assert_same(found, expected):
    for name, table in expected[0].items():
        pd.testing.assert_frame_equal(found[0][name], table, check_exact=True, obj=name)
    for name, array in expected[1].items():
        assert np.array_equal(found[1][name], array), name
    assert found[2] == expected[2]


@pytest.fixture
def varied(tmp_path, make_tree):
    """Twenty-four images and a broken one."""
    tree = make_tree(tmp_path / "tree", {"train/REAL": 9, "train/FAKE": 9}, size=80)
    make_tree(tree, {"test/REAL": 3, "test/FAKE": 3}, size=80, suffix="jpg")
    (tree / "train/REAL/broken.png").write_bytes(b"\x89PNG")
    return tree


def and_pid(function, *task):
    """Do a task, and say which process did."""
    return os.getpid(), function(*task)


@pytest.fixture
def pids(monkeypatch):
    """Note the processes that did the tasks of each function, where no cluster does them."""
    seen, each = {}, parallel.each

    def noting(function, tasks, **options):
        if parallel._client.get():  # its workers know nothing of this file
            yield from each(function, tasks, **options)
            return
        for pid, result in each(and_pid, ((function, *task) for task in tasks), **options):
            seen.setdefault(function.__name__, set()).add(pid)
            yield result

    monkeypatch.setattr(parallel, "each", noting)
    return seen


@pytest.mark.parametrize("all_of_it", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_cluster_and_processes_give_the_serial_results(
    home, varied, chunked, cluster, monkeypatch, pids, all_of_it
):
    made = {"_measure_chunk", "judge_chunk", *(("_read_chunk", "_write") if all_of_it else ())}
    with monkeypatch.context() as patch:
        patch.setattr(joblib, "cpu_count", lambda: 1)
        expected = results("serial", varied, all_of_it=all_of_it)
    assert pids == dict.fromkeys(made, {os.getpid()})
    assert len(expected[0]["manifest"]) == 25
    pids.clear()
    with parallel.cluster(cluster):
        assert_same(results("cluster", varied, all_of_it=all_of_it), expected)
    assert not pids
    if not all_of_it:  # to start processes takes longer than all the rest
        return
    monkeypatch.setattr(manifest, "MANY_SECONDS", 0)
    monkeypatch.setattr(shards, "usual_processes", lambda rows: 2)
    for module, name in ((joblib, "cpu_count"), (images, "most_at_once")):
        monkeypatch.setattr(module, name, lambda: 2)
    assert_same(results("processes", varied, all_of_it=all_of_it), expected)
    pids.pop("judge_chunk")  # by threads, which ONNX Runtime leaves the processors to
    assert pids.keys() == made - {"judge_chunk"}
    assert all(found and os.getpid() not in found for found in pids.values())


def test_tasks_run_on_the_workers_inside_the_block_and_here_outside_of_it(home, cluster):
    def pids(count):
        return list(parallel.each(os.getpid, [()] * count, processes=1))

    with parallel.cluster(cluster):
        assert os.getpid() not in pids(20)
        found = list(parallel.each(divmod, ((n, 3) for n in range(50)), processes=1))
    assert found == [divmod(n, 3) for n in range(50)]
    assert set(pids(3)) == {os.getpid()}
    with parallel.cluster(None):
        assert set(pids(3)) == {os.getpid()}


@pytest.mark.slow
def test_a_task_that_ends_its_workers_is_told(home, tmp_path, tally, monkeypatch):
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "0")
    own = Cluster(tmp_path)
    try:
        own.add_workers(2)
        with tally("cloud", "task that ends every worker") as tried:
            with pytest.raises(RuntimeError, match="ended every worker.*want of memory"):
                with parallel.cluster(own.address):
                    list(parallel.each(os._exit, [(1,)], processes=1))
            tried(survived=True, lost=0)
    finally:
        own.close()


@pytest.mark.parametrize("command", ["data add", "audit", "predict"])
def test_the_commands_take_an_address(home, varied, cluster, monkeypatch, capsys, command):
    """Paths may be relative: the workers have another current folder."""
    monkeypatch.chdir(varied.parent)
    for path in MODEL.parent.glob("compact.*"):
        shutil.copy(path, varied.parent)
    tree = varied.name
    words = {"data add": ["data", "add", "mine", tree], "audit": ["audit", tree],
             "predict": ["predict", tree, "--csv", "-", "--model", "compact.onnx"]}  # fmt: skip
    sent, real = [], parallel._on_cluster
    monkeypatch.setattr(parallel, "_on_cluster", lambda client, function, tasks: (
        sent.append(function.__name__) or real(client, function, tasks)))  # fmt: skip
    status = cli.main([*words[command], "--cluster", cluster])
    said = capsys.readouterr().out
    assert status == (0 if command == "data add" else 1) and sent
    if command == "predict":
        assert cli.main(words[command]) == status == 1
        assert capsys.readouterr().out == said and said.count(",unreadable,") == 1


@pytest.mark.slow
def test_a_bucket_is_read_by_the_workers(home, bucket, varied, chunked, tmp_path):
    bucket.put(f"{varied}/", "pail/tree", recursive=True)
    _, expected = importing.add("mine", varied)
    own = Cluster(tmp_path)  # the workers' credentials are those of their environment
    try:
        own.add_workers(1)
        with parallel.cluster(own.address):
            _, found = importing.add("other", "s3://pail/tree")
    finally:
        own.close()
    assert found.equals(expected.assign(source="other").replace({"generator": {"mine": "other"}}))


@pytest.mark.parametrize(
    "stage",
    ["_measure_chunk", *(pytest.param(name, marks=pytest.mark.slow) for name in
                         ("judge_chunk", "_read_chunk", "_write"))],
)  # fmt: skip
def test_a_worker_killed_at_any_stage_changes_nothing(
    home, tmp_path, make_tree, chunked, machines, monkeypatch, tally, stage
):
    """Import, verdicts, and, as slow ones, headers and shards, which an audit and training read."""
    tree = make_tree(tmp_path / "tree", {"train/REAL": 20, "train/FAKE": 20}, size=80)
    make_tree(tree, {"test/REAL": 10, "test/FAKE": 10}, size=80)
    all_of_it = stage in ("_read_chunk", "_write")
    expected = results("serial", tree, all_of_it=all_of_it)
    machines.add_workers(1)
    victim, killed = machines.workers.pop(), []
    on_cluster = parallel._on_cluster

    def killing(client, function, tasks):
        for number, result in enumerate(on_cluster(client, function, tasks)):
            if function.__name__ == stage and number == 2:
                (there,) = (a for a, pid in client.run(os.getpid).items() if pid == victim.pid)
                killed.append(len(client.has_what()[there]) + len(client.processing()[there]))
                victim.kill()
            yield result

    with tally("cloud", "worker killed in the middle") as tried:
        with machines.client() as client:
            monkeypatch.setattr(parallel, "_on_cluster", killing)
            with parallel.cluster(client.scheduler.address):
                found = results("killed", tree, all_of_it=all_of_it)
        assert victim.wait(5) == -signal.SIGKILL
        assert len(killed) == 1 and killed[0] > 0  # tasks begun, or results that it kept
        assert_same(found, expected)
        tried(survived=True, lost=0)


@contextlib.contextmanager
def killing(process, measured, least):
    """Kill a process as soon as so many chunks are measured; give how many there were then."""
    seen = []

    def watch():
        while len(there := list(measured.glob("*.parquet"))) < least:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        seen.append(len(there))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield seen
    thread.join(30)


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_changes_nothing(
    home, tmp_path, make_tree, monkeypatch, tally
):
    monkeypatch.setattr(manifest, "CHUNK", 2)
    tree = make_tree(tmp_path / "tree", {"REAL": 100, "FAKE": 100}, size=300, suffix="jpg")
    expected = importing.add("serial", tree)[1].assign(source="x")
    for least in (1, 50):
        own = Cluster(tmp_path)
        try:
            own.add_workers(2)
            measured = home / f"data/.killed{least}.partial/cache/measured"
            with tally("cloud", "worker killed in the middle") as tried:
                with killing(own.workers[0], measured, least) as seen, own.client() as client:
                    with parallel.cluster(client.scheduler.address):
                        _, table = importing.add(f"killed{least}", tree)
                assert least <= seen[0] < 90  # of a hundred chunks: it was the middle
                assert own.workers[0].wait(5) == -signal.SIGKILL
                assert table.assign(source="x").equals(expected)
                tried(survived=True, lost=0)
        finally:
            own.close()
            own.file.unlink()


@pytest.mark.slow
def test_a_lost_scheduler_is_one_sentence_and_the_same_call_goes_on(
    home, tmp_path, make_tree, monkeypatch, tally
):
    monkeypatch.setattr(manifest, "CHUNK", 2)
    tree = make_tree(tmp_path / "tree", {"REAL": 100, "FAKE": 100}, size=300, suffix="jpg")
    own = Cluster(tmp_path)
    try:
        own.add_workers(2)
        address = own.address
        with tally("cloud", "scheduler killed in the middle") as tried:
            with killing(own.processes[0], home / "data/.mine.partial/cache/measured", 10):
                with pytest.raises(RuntimeError, match="scheduler was lost.*same command"):
                    with parallel.cluster(address):
                        importing.add("mine", tree)
            tried(survived=True, lost=0)
    finally:
        own.close()
    assert len(list(home.glob("data/.mine.partial/cache/measured/*.parquet"))) >= 10
    assert len(importing.add("mine", tree)[1]) == 200
    assert datasets.names() == ["mine"]


# --- what goes wrong before anything is read --------------------------------------------------


def test_where_no_scheduler_answers_a_sentence_says_so(monkeypatch, capsys, tmp_path, tally):
    monkeypatch.setattr(parallel, "TIMEOUT", 1)
    with tally("cloud", "no scheduler there") as tried:
        for address in ("tcp://127.0.0.1:9", "nonsense"):
            with pytest.raises(ConnectionError, match="no scheduler answers there.*dask scheduler"):
                with parallel.cluster(address):
                    pass
            tried(survived=True, lost=0)
        assert cli.main(["audit", str(tmp_path), "--cluster", "tcp://127.0.0.1:9"]) == 1
        assert capsys.readouterr().err.strip().splitlines()[-1].startswith("w207: --cluster tcp://")


@pytest.mark.slow
def test_a_scheduler_without_workers_or_with_strangers_is_told(home, tmp_path, monkeypatch):
    own = Cluster(tmp_path)
    for package in ("other/w207lib", "other/w207lib/running"):  # another release's, say
        (tmp_path / package).mkdir(parents=True)
        (tmp_path / package / "__init__.py").touch()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(parallel, "TIMEOUT", 1)
            with pytest.raises(ValueError, match="has no worker; start one.*dask worker tcp://"):
                with parallel.cluster(own.address):
                    pass
        own.add_workers(1, PYTHONPATH=str(tmp_path / "other"))
        with pytest.raises(ValueError, match="a worker lacks w207lib.*parallel; start workers"):
            with parallel.cluster(own.address):
                pass
    finally:
        own.close()


def test_workers_that_do_not_see_the_folder_are_refused(home, cluster, monkeypatch, tally):
    with tally("cloud", "worker that does not fit") as tried:
        monkeypatch.setattr(type(home), "touch", lambda *_: None)  # a file that nobody else sees
        with pytest.raises(ValueError, match="does not see the folder .*data.*shared folder"):
            with parallel.cluster(cluster):
                pass
        tried(survived=True, lost=0)
    assert not list((home / "data").iterdir())


@pytest.mark.parametrize("name", ["pillow", "onnxruntime", "sources"])
def test_workers_with_other_versions_or_sources_are_refused(
    home, cluster, tmp_path, monkeypatch, tally, name
):
    own, version = parallel._versions(), parallel.metadata.version
    if name == "sources":  # the same version number, and one character more in one file
        copy = tmp_path / "w207lib"
        shutil.copytree(Path(parallel.__file__).parents[1], copy)
        monkeypatch.setattr(parallel, "__file__", str(copy / "running" / "parallel.py"))
        assert parallel._versions() == own
        with (copy / "reading" / "images.py").open("a") as file:
            file.write("#")
    else:
        monkeypatch.setattr(
            parallel.metadata, "version", lambda n: "1.0" if n == name else version(n)
        )
    now = parallel._versions()
    assert [key for key in own if own[key] != now[key]] == [name]
    with tally("cloud", "worker that does not fit") as tried:
        with pytest.raises(
            ValueError, match=f"has {name} {own[name]} where this is {now[name]}, so its results"
        ):
            with parallel.cluster(cluster):
                pass
        tried(survived=True, lost=0)
    assert not list((home / "data").iterdir())


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match="python make.py setup --cloud"):
        with parallel.cluster("tcp://127.0.0.1:8786"):
            pass
