import os
import subprocess
import sys

import psutil
import pytest

from w207lib import runs
from w207lib.reading import importing
from w207lib.running import locks

HOLD = """
import sys, time
from w207lib.running import locks
with locks.locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_and_a_killed_ones_lock_does_not_last(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RuntimeError, match=f"in use by process {holder.pid}.*--out"):
            with locks.locked(tmp_path):
                pass
        assert (tmp_path / ".lock").exists()
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    with locks.locked(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith(f"{os.getpid()} ")
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize("left", ["999999999 0", "{own} 5", "nonsense", ""])
def test_a_lock_of_no_running_process_is_stale(tmp_path, left):
    # The second one names a running process that started long after the lock was written.
    (tmp_path / ".lock").write_text(left.format(own=os.getpid()))
    with locks.locked(tmp_path):
        assert (tmp_path / ".lock").exists()


OTHER = "an other.example.org"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Make what another machine's process, whose number nobody has here, leaves in a folder."""

    def make(folder=tmp_path):
        with monkeypatch.context() as patch:
            patch.setattr(locks.platform, "node", lambda: OTHER)
            patch.setattr(locks.os, "getpid", lambda: 999999999)
            patch.setattr(locks, "_birth", lambda _: ("5.00", "5.00"))
            with locks.locked(folder):
                text, mark = (folder / ".lock").read_text(), locks.mark()
        (folder / ".lock").write_text(text)
        return text, mark

    return make


def test_another_machines_lock_holds_and_the_message_says_how_to_remove_it(
    home, tmp_path, elsewhere, tree
):
    text, _ = elsewhere()
    for _ in range(2):
        with pytest.raises(RuntimeError) as caught, locks.locked(tmp_path):
            pass
        assert (tmp_path / ".lock").read_text() == text
    said = str(caught.value)
    assert f"in use by process 999999999 of the machine {OTHER}. Wait for it" in said
    assert f"runs no more, as when the machine lost power, remove {tmp_path / '.lock'} and" in said
    (tmp_path / ".lock").unlink()
    with locks.locked(tmp_path):
        pass
    staging = home / "data" / ".mine.partial"
    staging.mkdir()
    elsewhere(staging)
    with pytest.raises(RuntimeError, match="'mine' is being imported.*remove .*mine.partial.*lock"):
        importing.add("mine", tree)


@pytest.mark.parametrize("births", [1, 2])
def test_a_lock_of_an_earlier_version_which_names_no_machine_is_this_ones(tmp_path, births):
    born = locks._birth(os.getpid())[:births]
    (tmp_path / ".lock").write_text(" ".join((str(os.getpid()), *born)))
    with pytest.raises(RuntimeError, match="in use") as caught, locks.locked(tmp_path):
        pass
    assert "machine" not in str(caught.value)


def test_what_another_machines_process_is_writing_stays(tmp_path, elsewhere):
    mark = elsewhere()[1]
    (tmp_path / ".lock").unlink()
    names = {f".a.{mark}.partial.json", f".model.{mark}.old", f".lock.{mark}.0123abcd"}
    for name in names:
        (tmp_path / name).write_text("half")
    with locks.locked(tmp_path):
        runs.write_json(tmp_path / "a.json", 1)
        runs.RunFolder(tmp_path / "model", {}).kept()
        assert set(os.listdir(tmp_path)) == names | {".lock", "a.json"}


def test_a_lock_is_released_after_an_exception(tmp_path):
    with pytest.raises(KeyboardInterrupt), locks.locked(tmp_path):
        raise KeyboardInterrupt
    with locks.locked(tmp_path):
        pass


def test_a_lock_is_seen_within_one_process_too(tmp_path):
    with locks.locked(tmp_path):
        with pytest.raises(RuntimeError, match="in use"), locks.locked(tmp_path):
            pass
        assert (tmp_path / ".lock").exists()


def test_a_lock_is_never_seen_without_its_text(tmp_path, monkeypatch):
    seen, link = [], os.link

    def spy(draft, path):
        assert not path.exists()
        link(draft, path)
        seen.append(path.read_text())

    monkeypatch.setattr(locks.os, "link", spy)
    with locks.locked(tmp_path):
        assert seen == [(tmp_path / ".lock").read_text()] and seen[0].startswith(f"{os.getpid()} ")
        assert os.listdir(tmp_path) == [".lock"]


def test_without_links_a_lock_that_is_still_empty_is_waited_for(tmp_path, monkeypatch):
    def none(*_):
        raise OSError("no links here")

    monkeypatch.setattr(locks.os, "link", none)
    with locks.locked(tmp_path):
        assert os.listdir(tmp_path) == [".lock"]
        with pytest.raises(RuntimeError, match="in use"), locks.locked(tmp_path):
            pass
    (tmp_path / ".lock").touch()
    text = f"{os.getpid()} {' '.join(locks._birth(os.getpid()))}"
    monkeypatch.setattr(locks.time, "sleep", lambda _: (tmp_path / ".lock").write_text(text))
    with pytest.raises(RuntimeError, match="in use"), locks.locked(tmp_path):
        pass


def test_a_lock_that_came_while_a_stale_one_was_looked_at_stays(tmp_path):
    (tmp_path / ".lock").write_text("the new one")
    locks._drop_stale(tmp_path / ".lock", "the stale one")
    assert (tmp_path / ".lock").read_text() == "the new one"
    assert os.listdir(tmp_path) == [".lock"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process's birth stays as it was")
@pytest.mark.parametrize("hours", [-24, 24])
def test_a_lock_holds_when_the_clock_is_moved(tmp_path, monkeypatch, tally, hours):
    boot = psutil.boot_time()
    with tally("processes", "clock moved while a run folder is held") as tried:
        with locks.locked(tmp_path):
            # Linux reckons births and its own start from the clock, anew each time.
            monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: boot + 3600 * hours)
            with pytest.raises(RuntimeError, match="in use"), locks.locked(tmp_path):
                pass
        tried()


def test_drafts_of_killed_processes_go_and_others_stay(tmp_path):
    own = locks.mark()
    killed = own.replace(str(os.getpid()), "999999999", 1)
    for mark in (own, killed, "999999999"):  # the last as earlier versions wrote it
        (tmp_path / f".lock.{mark}.0123abcd").write_text("half")
    with locks.locked(tmp_path):
        assert sorted(os.listdir(tmp_path)) == [".lock", f".lock.{own}.0123abcd"]
