"""Copies to and from an object store end as undisturbed ones do, whatever happened on the way."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from botocore.exceptions import EndpointConnectionError

from w207lib import cli, tune
from w207lib.machine import devices
from w207lib.nets import epochs
from w207lib.reading import remote, syncing
from w207lib.reading.remote import Remote


@pytest.fixture
def run(tmp_path):
    """A run's folder: whole files, an unfinished training, and what must stay behind."""
    folder = tmp_path / "run"
    for name in ("summary.json", "models/compact/model.keras", "models/.svm.01.partial/a.keras"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode() * 99)
    for name in (".lock", "models/compact/.history.77.partial.csv"):
        (folder / name).write_text("1")
    (folder / "empty.csv").touch()
    return folder


def shown(contents, folder):
    return {k: v for k, v in contents(folder).items() if not k.rsplit("/")[-1].startswith(".")}


@pytest.mark.parametrize("place", ["s3://pail/runs/one", "memory://pail/runs/one"])
def test_a_folder_goes_to_a_store_and_comes_back(
    bucket, run, tmp_path, contents, capsys, request, place
):
    before, back = contents(run), tmp_path / "back"
    assert cli.main(["sync", str(run), place]) == 0
    assert "4 files copied" in capsys.readouterr().out
    assert syncing.sync(place, back)[0] == 4
    assert contents(back) == shown(contents, run) and len(contents(back)) == 4
    assert syncing.sync(run, place) == syncing.sync(place, back) == (0, 0, 4)
    assert contents(run) == before
    (run / "summary.json").write_text("new")
    (run / "models/compact/model.keras").unlink()
    assert syncing.sync(run, place)[0] == syncing.sync(place, back)[0] == 1
    assert (back / "summary.json").read_bytes() == (run / "summary.json").read_bytes()
    assert (back / "models/compact/model.keras").is_file()  # nothing is removed


def test_the_same_size_is_not_the_same_file(bucket, run, tmp_path):
    syncing.sync(run, "s3://pail/run")
    old = (run / "summary.json").read_bytes()
    (run / "summary.json").write_bytes(old[::-1])
    assert syncing.sync(run, "s3://pail/run")[0] == 1
    assert bucket.cat_file("pail/run/summary.json") == old[::-1]


@pytest.mark.parametrize("words", [("s3://a/b", "s3://c/d"), ("here", "there")])
def test_one_side_must_be_a_store(words):
    with pytest.raises(ValueError, match="expected a folder and an address"):
        syncing.sync(*words)


def test_an_object_that_would_be_written_elsewhere_is_refused(bucket, tmp_path, contents, tally):
    for name in ("a/../../out.txt", "..\\out.txt", "C:out.txt"):
        bucket.pipe_file(f"pail/bad/{name}", b"x")
        with tally("cloud", "object named outside its folder") as tried:
            with pytest.raises(ValueError, match="leads out of the folder"):
                syncing.sync("s3://pail/bad", tmp_path / "in")
            assert contents(tmp_path) == {}
            tried(survived=True, lost=0)
        bucket.rm("pail/bad", recursive=True)


# --- large objects ------------------------------------------------------------------------


@pytest.fixture
def parts(monkeypatch):
    """Send in the smallest parts that S3 takes; receive in small blocks, with short pauses."""
    monkeypatch.setattr(syncing, "PART", 5 * 2**20)
    monkeypatch.setattr(syncing, "BLOCK", 2**20)
    monkeypatch.setattr(syncing, "PAUSES", (0, 0))


@pytest.fixture
def large(bucket, parts, tmp_path):
    """Eleven megabytes, sent in three parts."""
    path = tmp_path / "large.bin"
    path.write_bytes(os.urandom(11 * 2**20))
    assert syncing.upload(path, Remote("s3://pail/large.bin"))
    return path


def test_an_object_in_parts_is_verified_by_its_parts_and_by_our_sha256(large, tmp_path):
    known = syncing.facts(Remote("s3://pail/large.bin"))
    assert re.fullmatch(r"[0-9a-f]{32}-3", known.md5)
    assert known.sha256 == hashlib.sha256(large.read_bytes()).hexdigest()
    found = syncing.download(Remote("s3://pail/large.bin"), tmp_path / "copy")
    assert found["checksum"] == f"sha256:{known.sha256}" and found["bytes"] == 11 * 2**20
    assert (tmp_path / "copy").read_bytes() == large.read_bytes()


def test_an_etag_that_is_no_md5_is_not_taken_for_one(bucket, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    for name, more in {"plain": {}, "summed": {"ChecksumAlgorithm": "SHA256"}}.items():
        bucket.call_s3("put_object", Bucket="pail", Key=name, Body=b"abc", SSEKMSKeyId="any",
                       ServerSideEncryption="aws:kms", **more)  # fmt: skip
        known = syncing.facts(Remote(f"s3://pail/{name}"))
        assert known.md5 is None
        assert known.sha256 == (hashlib.sha256(b"abc").hexdigest() if more else None)


def test_a_download_stopped_at_any_block_goes_on_there(bucket, large, tmp_path, monkeypatch, tally):
    ranges, seen = bucket.cat_ranges, []
    source, target = Remote("s3://pail/large.bin"), tmp_path / "copy"
    monkeypatch.setattr(syncing, "AT_ONCE", 2)
    with tally("cloud", "download stopped between blocks") as tried:
        for after in range(6):
            for error in (KeyboardInterrupt, EndpointConnectionError(endpoint_url="x")):
                seen.clear()

                def flaky(paths, starts, ends, error=error, after=after, **rest):
                    if len(seen) >= after:
                        raise error
                    seen.extend([starts])
                    return ranges(paths, starts, ends, **rest)

                with monkeypatch.context() as patch:
                    patch.setattr(bucket, "cat_ranges", flaky)
                    with pytest.raises((KeyboardInterrupt, ConnectionError)):
                        syncing.download(source, target)
                (partial,) = tmp_path.glob(".copy.*.part")
                assert not target.exists() and partial.stat().st_size == after * 2**21
                firsts = []
                with monkeypatch.context() as patch:
                    patch.setattr(bucket, "cat_ranges", lambda p, s, e, f=firsts, **rest: (
                        f.append(s[0]) or ranges(p, s, e, **rest)))  # fmt: skip
                    syncing.download(source, target)
                assert firsts[0] == after * 2**21
                assert target.read_bytes() == large.read_bytes()
                assert not list(tmp_path.glob(".*"))
                target.unlink()
                tried(survived=True, lost=0)


def test_a_break_that_passes_is_not_seen(bucket, large, tmp_path, monkeypatch, caplog, tally):
    ranges, calls = bucket.cat_ranges, []

    def shaky(*words, **rest):
        calls.append(words)
        if len(calls) % 3:  # two breaks before each success: as many as are waited for
            raise EndpointConnectionError(endpoint_url="x")
        return ranges(*words, **rest)

    monkeypatch.setattr(bucket, "cat_ranges", shaky)
    with tally("cloud", "connection lost again and again") as tried:
        syncing.download(Remote("s3://pail/large.bin"), tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == large.read_bytes()
        assert caplog.text.count("Going on at") == 2 * len(calls) // 3
        tried(survived=True, lost=0)


def test_a_damaged_download_is_found_and_fetched_again(bucket, large, tmp_path, monkeypatch, tally):
    def damaged(paths, starts, ends, **rest):
        found = ranges(paths, starts, ends, **rest)
        return [found[0][:-1] + bytes([found[0][-1] ^ 1]), *found[1:]]

    ranges = bucket.cat_ranges
    bucket.pipe_file("pail/small.bin", b"plain, with an MD5 for its ETag")
    for name in ("large.bin", "small.bin"):
        target = tmp_path / "copy"
        with tally("cloud", "download damaged") as tried:
            with monkeypatch.context() as patch:
                patch.setattr(bucket, "cat_ranges", damaged)
                with pytest.raises(OSError, match="arrived damaged.*same command again"):
                    syncing.download(Remote(f"s3://pail/{name}"), target)
            assert not list(tmp_path.glob("*copy*"))
            syncing.download(Remote(f"s3://pail/{name}"), target)
            assert target.read_bytes() == bucket.cat_file(f"pail/{name}")
            target.unlink()
            tried(survived=True, lost=0)


@pytest.fixture
def damaged(bucket, tmp_path):
    """Send a file with its first bit turned, and all that is said of the whole one."""
    put = bucket.put_file

    def send(path, target, **rest):
        with open(path, "rb") as file:
            good = file.read()
        (tmp_path / "spoilt").write_bytes(bytes([good[0] ^ 1]) + good[1:])
        put(str(tmp_path / "spoilt"), target, **rest)

    return send


@pytest.mark.parametrize("size", [100, 11 * 2**20])
def test_a_damaged_upload_is_found_removed_and_sent_again(
    bucket, parts, tmp_path, damaged, monkeypatch, tally, size
):
    good = tmp_path / "run" / "good"
    good.parent.mkdir()
    good.write_bytes(os.urandom(size - 1) + b"!")
    with tally("cloud", "upload damaged") as tried:
        with monkeypatch.context() as patch:
            patch.setattr(bucket, "put_file", damaged)
            with pytest.raises(OSError, match="arrived damaged.*and was removed; run the same"):
                syncing.sync(good.parent, "s3://pail/run")
        assert bucket.find("pail") == []
        assert syncing.sync(good.parent, "s3://pail/run") == (1, size, 0)
        assert bucket.cat_file("pail/run/good") == good.read_bytes()
        tried(survived=True, lost=0)


def test_an_object_that_only_claims_to_be_the_file_is_replaced(
    bucket, run, damaged, monkeypatch, tally
):
    """As of an upload that was killed before what had arrived damaged could be removed."""
    syncing.sync(run, "s3://pail/run")
    path = run / "summary.json"
    said = {syncing.METADATA: hashlib.sha256(path.read_bytes()).hexdigest()}
    with tally("cloud", "damaged object with the good file's digest") as tried:
        damaged(path, "pail/run/summary.json", Metadata=said)
        assert bucket.cat_file("pail/run/summary.json") != path.read_bytes()
        assert syncing.facts(Remote("s3://pail/run/summary.json")).sha256 == said[syncing.METADATA]
        assert syncing.sync(run, "s3://pail/run") == (1, path.stat().st_size, 3)
        assert bucket.cat_file("pail/run/summary.json") == path.read_bytes()
        tried(survived=True, lost=0)


# --- runs that go on while they are copied --------------------------------------------------


def test_states_are_sent_first_and_what_appears_meanwhile_is_sent_too(
    bucket, run, tmp_path, contents, monkeypatch
):
    assert syncing.STATES == (epochs.LAST, tune.STATE)
    training, search = run / "models/.svm.01.partial", run / "tuning/.random.01.partial"
    search.mkdir(parents=True)
    for state in (training / epochs.LAST, search / tune.STATE):
        state.write_text("state")
    (training / "history.csv").write_text("one\n")
    sent, put = [], bucket.put_file

    def writing(path, target, **rest):
        if not sent:  # the run that is copied goes on
            (training / "history.csv").write_text("one\ntwo\n")
            (search / "trial.json").write_text("new")
        sent.append(Path(path).relative_to(run))
        put(path, target, **rest)

    monkeypatch.setattr(bucket, "put_file", writing)
    monkeypatch.setattr(syncing, "THREADS", 1)
    syncing.sync(run, "s3://pail/run")
    assert {path.name for path in sent[:2]} == set(syncing.STATES)
    assert len(sent) == len(set(sent)) == len(shown(contents, run))
    syncing.sync("s3://pail/run", tmp_path / "back")
    assert contents(tmp_path / "back") == shown(contents, run)
    assert (tmp_path / "back/tuning/.random.01.partial/trial.json").read_text() == "new"


def test_a_file_that_grows_while_it_is_sent_is_sent_again(bucket, tmp_path, monkeypatch):
    log, put, calls = tmp_path / "run.log", bucket.put_file, []
    log.write_text("one\n")

    def growing(path, target, **rest):
        if not calls:
            log.write_text("one\ntwo\n")
        calls.append(path)
        put(path, target, **rest)

    monkeypatch.setattr(bucket, "put_file", growing)
    assert syncing.upload(log, Remote("s3://pail/run.log"))
    assert bucket.cat_file("pail/run.log") == b"one\ntwo\n"
    assert not syncing.upload(tmp_path / "gone", Remote("s3://pail/gone"))


def test_another_version_of_an_object_does_not_go_on_with_the_first(
    bucket, large, tmp_path, monkeypatch
):
    def stop(*words, **rest):
        if (tmp_path / "once").exists():
            raise KeyboardInterrupt
        (tmp_path / "once").touch()
        return ranges(*words, **rest)

    ranges = bucket.cat_ranges
    with monkeypatch.context() as patch:
        patch.setattr(bucket, "cat_ranges", stop)
        with pytest.raises(KeyboardInterrupt):
            syncing.download(Remote("s3://pail/large.bin"), tmp_path / "copy")
    large.write_bytes(os.urandom(11 * 2**20))
    syncing.upload(large, Remote("s3://pail/large.bin"))
    syncing.download(Remote("s3://pail/large.bin"), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == large.read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_what_does_not_fit_the_disk_is_not_begun(bucket, large, tmp_path, monkeypatch, tally):
    monkeypatch.setattr(devices, "free_bytes", lambda path: 10**6)
    with tally("cloud", "disk too small") as tried:
        for call in (
            lambda: syncing.download(Remote("s3://pail/large.bin"), tmp_path / "copy"),
            lambda: syncing.sync("s3://pail", tmp_path / "folder"),
        ):
            with pytest.raises(OSError, match="are needed: free some space"):
                call()
            tried(survived=True, lost=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large.bin"]


KILLED = """
import sys, time
from w207lib.reading import syncing
syncing.BLOCK = syncing.PART = 5 * 2**20
syncing.AT_ONCE, syncing.THREADS = 1, 1
receive, upload = syncing.remote.client, syncing.upload
class Slow:
    def __init__(self, store): self.store = store
    def __getattr__(self, name): return getattr(self.store, name)
    def cat_ranges(self, *words, **rest):
        print("block", flush=True); sys.stdin.readline()
        return self.store.cat_ranges(*words, **rest)
    def put_file(self, *words, **rest):
        print("file", flush=True); sys.stdin.readline()
        return self.store.put_file(*words, **rest)
def client(url):
    store, path = receive(url)
    return Slow(store), path
syncing.remote.client = client
syncing.sync(*sys.argv[1:])
"""


def kill_at(step, *words):
    """Run a copy in a process of its own, and kill it at its so-manieth step."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    command = [sys.executable, "-c", KILLED, *map(str, words)]
    with subprocess.Popen(command, **pipes) as process:
        for _ in range(step):
            assert process.stdout.readline()
            process.stdin.write(b"\n")
            process.stdin.flush()
        assert process.stdout.readline()
        process.kill()


def test_killed_copies_go_on_and_end_as_undisturbed_ones(
    bucket, run, parts, tmp_path, contents, monkeypatch, tally
):
    (run / "weights.bin").write_bytes(os.urandom(16 * 2**20))
    with tally("cloud", "copy to a bucket killed") as tried:
        kill_at(2, run, "s3://pail/run")
        sent = len(bucket.find("pail/run"))
        assert 0 < sent < 5
        assert syncing.sync(run, "s3://pail/run") == (5 - sent, pytest.approx(17e6, rel=0.1), sent)
        tried(survived=True, lost=0)
    with tally("cloud", "copy from a bucket killed") as tried:
        back = tmp_path / "back"
        kill_at(6, "s3://pail/run", back)
        (partial,) = back.glob(".weights.bin.*.part")
        have, starts, ranges = partial.stat().st_size, [], bucket.cat_ranges
        assert 0 < have < 16 * 2**20
        monkeypatch.setattr(bucket, "cat_ranges", lambda p, s, e, **rest: (
            starts.extend(s) or ranges(p, s, e, **rest)))  # fmt: skip
        syncing.sync("s3://pail/run", back)
        assert min(starts) == have
        assert contents(back) == shown(contents, run)
        tried(survived=True, lost=0)


def test_the_listing_names_what_lies_below(bucket, run, contents):
    syncing.sync(run, "s3://pail/run")
    rows = remote.listing(Remote("s3://pail/run"))
    assert [row.name for row in rows] == sorted(shown(contents, run))
    assert [row.size for row in rows] == [(run / row.name).stat().st_size for row in rows]
