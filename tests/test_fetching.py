"""Importing by name, from a server on this machine that answers as Kaggle does."""

import base64
import hashlib
import http.server
import io
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile

import pytest

from w207lib import cli, datasets, manifest
from w207lib.machine import devices
from w207lib.reading import fetching, importing

TOKEN = "KGAT_0123456789abcdef_never_to_be_seen"
HANDLE = "kaggle:owner/some-set"
SLACK = 2**20  # bytes on their way when the client closed the connection


class Server(http.server.ThreadingHTTPServer):
    """Kaggle's two calls, and the archive.

    ``rule(range, number)`` says what becomes of a request for the archive: None (all is well), a
    number of bytes after which the connection is cut, or a negative status.
    """

    daemon_threads = True

    def __init__(self, archive):
        super().__init__(("127.0.0.1", 0), Answer)
        self.archive = archive
        self.checksum = base64.b64encode(hashlib.md5(archive).digest()).decode()
        self.size = len(archive)  # as GetDataset tells it
        self.answers = {}  # call → status
        self.rule = lambda asked, number: None
        self.resumable = True  # says so
        self.resumes = True  # does so
        self.seen = []  # (call, range or body, authorisation)
        self.sent = 0

    def handle_error(self, *_):
        pass  # a client that closes its side is part of the play

    def calls(self, name):
        return [asked for call, asked, _ in self.seen if call == name]


class Answer(http.server.BaseHTTPRequestHandler):
    def setup(self):
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**16)
        super().setup()

    def log_message(self, *_):
        pass

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        call = self.path.rsplit("/", 1)[-1]
        server.seen.append((call, body, self.headers.get("Authorization")))
        if call in server.answers:
            self.say(server.answers[call], {"code": server.answers[call], "message": TOKEN})
        elif call == "GetDataset":
            self.say(200, {"ref": "owner/some-set", "currentVersionNumber": 3,
                           "totalBytes": server.size, "licenseName": "CC0-1.0"})  # fmt: skip
        else:
            self.send_response(302)
            self.send_header("Location", f"/files/{body['datasetVersionNumber']}.zip")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def say(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.seen.append(("file", asked, self.headers.get("Authorization")))
        fate = server.rule(asked, len(server.calls("file")))
        if fate is not None and fate < 0:
            self.say(-fate, {"message": "the server is overloaded " * 20})
            return
        partly = asked and server.resumes
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if partly else 0
        data = server.archive[start:]
        self.send_response(206 if partly else 200)
        if server.resumable:
            self.send_header("Accept-Ranges", "bytes")
        if server.checksum:
            self.send_header("x-goog-hash", "crc32c=AAAAAA==")
            self.send_header("x-goog-hash", f"md5={server.checksum}")
        if partly:
            last = len(server.archive) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{last + 1}")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        data = data[:fate]
        for place in range(0, len(data), 2**15):
            piece = data[place : place + 2**15]
            self.wfile.write(piece)
            server.sent += len(piece)
        self.close_connection = True


def packed(tree, *, padding=4 * 2**20):
    """Return a zip of a folder's images, and of something that makes it large."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.writestr("notes.bin", os.urandom(padding))
        for path in sorted(tree.rglob("*.png")):
            file.write(path, "top/" + path.relative_to(tree).as_posix())
    return made.getvalue()


@pytest.fixture
def kaggle(home, tree, tmp_path, monkeypatch, caplog):
    """A server in Kaggle's place, and a person without credentials who waits for nothing."""
    caplog.set_level(logging.INFO, "w207lib")
    server = Server(packed(tree))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    point_to(server.server_address[1], monkeypatch, tmp_path)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def point_to(port, monkeypatch, tmp_path):
    from kagglesdk import kaggle_env

    endpoint = f"http://127.0.0.1:{port}"
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, endpoint)
    monkeypatch.setattr(fetching, "PAUSES", (0, 0, 0))
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_ENVIRONMENT",
                 "KAGGLE_KERNEL_RUN_TYPE", "KAGGLE_CONFIG_DIR"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)


def add(capsys, *words):
    """Run ``w207 data add``; return its status and what it said, which never is the token."""
    status = cli.main(["data", "add", *words])
    said = capsys.readouterr()
    assert TOKEN not in said.out + said.err and "Traceback" not in said.err
    return status, said.out, said.err


def complaint(err):
    """Return the one line of complaint."""
    (line,) = [line for line in err.splitlines() if line.startswith("w207: ")]
    return line


def hidden(home):
    return sorted(p.name for p in (home / "data").iterdir() if p.name.startswith("."))


def part(home, name="mine"):
    return home / "data" / f".{name}.download" / "owner_some-set_3.zip.part"


# --- all is well -------------------------------------------------------------------------


def test_a_data_set_is_fetched_verified_unpacked_and_read(
    kaggle, capsys, caplog, home, tree, contents
):
    status, out, _ = add(capsys, "mine", HANDLE)
    assert status == 0 and "data set mine: 10 images" in out
    (line,) = caplog.messages
    assert line == "fetched owner/some-set/versions/3: 4.2 MB, MD5 verified; licence as the site " \
        "names it: CC0-1.0"  # fmt: skip
    dataset = datasets.locate("mine")
    assert contents(dataset.root / "top") == contents(tree)
    card = json.loads((home / "data/mine/dataset.json").read_text())
    assert card["source"] == {"kaggle": "owner/some-set"} and card["root"] == "raw"
    assert card["download"].pop("time").startswith("20")
    assert card["download"] == {
        "handle": "owner/some-set/versions/3", "bytes": len(kaggle.archive),
        "checksum": kaggle.checksum, "licence": "CC0-1.0",
    }  # fmt: skip
    assert [p.name for p in (home / "data").iterdir()] == ["mine"]
    assert sorted(p.name for p in (home / "data/mine").iterdir()) == [
        "cache", "dataset.json", "raw"
    ]  # fmt: skip
    assert not (home.parent / "nobody").exists()
    assert [call for call, *_ in kaggle.seen] == ["GetDataset", "DownloadDataset", "file"]


def test_the_same_again_asks_for_nothing(kaggle, capsys, home):
    add(capsys, "mine", HANDLE)
    before = len(kaggle.seen)
    assert add(capsys, "mine", HANDLE)[0] == 0
    assert len(kaggle.seen) == before


def test_a_public_data_set_is_fetched_by_its_name_alone(kaggle, capsys, home):
    assert add(capsys, "art975")[0] == 0
    body = kaggle.calls("GetDataset")[0]
    assert f"{body['ownerSlug']}/{body['datasetSlug']}" == datasets.PUBLIC["art975"].handle


def test_a_version_is_fetched_where_one_is_named(kaggle, capsys, home):
    assert add(capsys, "mine", f"{HANDLE}/versions/2")[0] == 0
    assert kaggle.calls("DownloadDataset")[0]["datasetVersionNumber"] == 2
    card = json.loads((home / "data/mine/dataset.json").read_text())
    assert card["download"]["handle"] == "owner/some-set/versions/2"


def test_without_a_checksum_the_card_says_so(kaggle, capsys, caplog, home):
    kaggle.checksum = None
    assert add(capsys, "mine", HANDLE)[0] == 0
    assert "no checksum named by the server" in caplog.text
    assert json.loads((home / "data/mine/dataset.json").read_text())["download"]["checksum"] is None


@pytest.mark.parametrize("kind", ["variable", "file"])
def test_credentials_go_to_kaggle_and_nowhere_else(kaggle, capsys, monkeypatch, tmp_path, kind):
    if kind == "variable":
        monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    else:
        (tmp_path / "nobody/.kaggle").mkdir(parents=True)
        (tmp_path / "nobody/.kaggle/access_token").write_text(f"{TOKEN}\n")
    assert add(capsys, "mine", HANDLE)[0] == 0
    assert kaggle.seen[0][2] == f"Bearer {TOKEN}"


# --- breaks ------------------------------------------------------------------------------


def test_a_transfer_that_is_cut_goes_on_by_range(kaggle, capsys, caplog, home, tree, contents):
    total = len(kaggle.archive)
    kaggle.rule = lambda asked, number: int(total * 0.7) if number == 1 else None
    assert add(capsys, "mine", HANDLE)[0] == 0
    assert caplog.text.count("broke off at") == 1
    first, look, rest = kaggle.calls("file")
    assert first is None and look is None
    assert abs(int(rest[6:-1]) - total * 0.7) < SLACK / 4
    assert kaggle.sent < total + SLACK
    assert contents(datasets.locate("mine").root / "top") == contents(tree)


def test_many_short_breaks_do_not_end_a_transfer(kaggle, capsys, caplog, home):
    kaggle.rule = lambda asked, number: 2**19
    assert add(capsys, "mine", HANDLE)[0] == 0
    assert caplog.text.count("broke off at") > 2 * len(fetching.PAUSES)


def test_an_endless_break_ends_with_the_partial_kept_and_the_next_command_goes_on(
    kaggle, capsys, home
):
    kaggle.rule = lambda asked, number: 0 if asked else 2 * 2**20
    status, out, err = add(capsys, "mine", HANDLE)
    assert status == 1 and out == ""
    assert re.search(r"broke off again and again \(.*\) and 2\.\d MB are kept; ", complaint(err))
    assert "w207 data add mine ARCHIVE.zip" in complaint(err)
    assert part(home).stat().st_size > 2**20 and hidden(home) == [".mine.download"]
    kaggle.sent = 0
    kaggle.rule = lambda asked, number: None
    assert add(capsys, "mine", HANDLE)[0] == 0
    assert kaggle.calls("file")[-1] is not None
    assert kaggle.sent < len(kaggle.archive) - 2**20 + SLACK
    assert hidden(home) == []


def test_pauses_grow(kaggle, capsys, monkeypatch, home):
    slept = []
    monkeypatch.setattr(fetching, "PAUSES", (1, 7, 30))
    monkeypatch.setattr(fetching.time, "sleep", slept.append)
    kaggle.rule = lambda asked, number: -503
    assert add(capsys, "mine", HANDLE)[0] == 1
    assert slept == [1, 7, 30]


def test_an_error_page_that_answers_a_resumed_request_is_not_taken_for_data(
    kaggle, capsys, caplog, home
):
    fates = {1: 2**20, 3: -503}
    kaggle.rule = lambda asked, number: fates.get(number)
    assert add(capsys, "mine", HANDLE)[0] == 0
    assert "server error 503" in caplog.text
    assert kaggle.calls("file")[2] == kaggle.calls("file")[4] is not None


@pytest.mark.parametrize("says_so", [True, False])
def test_a_server_that_cannot_resume_begins_again(kaggle, capsys, home, says_so):
    kaggle.resumes, kaggle.resumable = False, not says_so
    kaggle.rule = lambda asked, number: 2**20 if number == 1 else None
    assert add(capsys, "mine", HANDLE)[0] == 0
    assert len(kaggle.calls("file")) == (2 if says_so else 3)


def test_a_partial_of_another_version_is_not_gone_on_with(kaggle, capsys, home):
    old = part(home).with_name("owner_some-set_2.zip.part")
    old.parent.mkdir()
    old.write_bytes(b"old" * 1000)
    assert add(capsys, "mine", HANDLE)[0] == 0
    assert kaggle.calls("file") == [None]


def test_ctrl_c_in_a_transfer_keeps_it_and_says_that_the_same_command_goes_on(
    kaggle, capsys, home, monkeypatch
):
    kaggle.rule = lambda asked, number: 2**20

    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fetching.time, "sleep", stop)
    status, _, err = add(capsys, "mine", HANDLE)
    assert status == cli.EXIT_INTERRUPTED and "The same command goes on" in err
    assert part(home).stat().st_size > 2**19 and datasets.names() == []


CHILD = """
import sys
from kagglesdk import kaggle_env
from w207lib import cli
kaggle_env._env_to_endpoint[kaggle_env.KaggleEnv.PROD] = sys.argv[1]
sys.exit(cli.main(["data", "add", "mine", "kaggle:owner/some-set"]))
"""


def test_a_killed_transfer_goes_on_and_ends_as_an_undisturbed_one(kaggle, capsys, home):
    waiting = threading.Event()

    def rule(asked, number):
        if number == 1:
            return 2 * 2**20
        waiting.set()
        return 0

    kaggle.rule = rule
    child = subprocess.Popen([sys.executable, "-c", CHILD, f"http://127.0.0.1:{kaggle.server_port}"],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    for _ in range(1500):
        if part(home).is_file() and part(home).stat().st_size > 2**20:
            break
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    kept = part(home).stat().st_size
    kaggle.rule = lambda asked, number: None
    assert add(capsys, "mine", HANDLE)[0] == 0
    assert kaggle.calls("file")[-1] == f"bytes={kept}-"
    assert len(manifest.load(datasets.locate("mine"))) == 10 and hidden(home) == []


# --- what must not be imported -----------------------------------------------------------


def test_a_wrong_checksum_is_refused_and_nothing_imported(kaggle, capsys, home):
    right, kaggle.checksum = kaggle.checksum, base64.b64encode(b"0" * 16).decode()
    status, out, err = add(capsys, "mine", HANDLE)
    assert status == 1 and out == ""
    assert "arrived damaged (MD5" in complaint(err) and "run the same command" in complaint(err)
    assert datasets.names() == [] and not part(home).exists()
    kaggle.checksum = right
    assert add(capsys, "mine", HANDLE)[0] == 0


def test_a_partial_that_is_whole_in_size_only_is_verified_all_the_same(kaggle, capsys, home):
    part(home).parent.mkdir()
    part(home).write_bytes(bytes(len(kaggle.archive)))
    status, _, err = add(capsys, "mine", HANDLE)
    assert status == 1 and "arrived damaged" in complaint(err) and not part(home).exists()


@pytest.mark.parametrize("checksum", [True, False])
def test_a_broken_archive_is_kept_only_where_it_is_what_the_server_has(
    kaggle, capsys, home, checksum
):
    kaggle.archive = kaggle.archive[:-100]
    digest = base64.b64encode(hashlib.md5(kaggle.archive).digest()).decode()
    kaggle.checksum = digest if checksum else None
    status, _, err = add(capsys, "mine", HANDLE)
    assert status == 2 and datasets.names() == []
    assert ("Its download is kept in" in complaint(err)) == checksum
    assert hidden(home) == [".mine.download"] * checksum


def test_an_empty_archive_is_refused(kaggle, capsys, home):
    kaggle.archive, kaggle.checksum = b"", None
    status, _, err = add(capsys, "mine", HANDLE)
    assert status == 1 and "the server sent an empty archive" in complaint(err)


def test_after_a_fault_of_the_data_the_download_is_kept_and_used_again(
    kaggle, capsys, home, make_tree, tmp_path
):
    kaggle.archive = packed(make_tree(tmp_path / "other", {"cats": 3, "dreams": 2}))
    kaggle.checksum = base64.b64encode(hashlib.md5(kaggle.archive).digest()).decode()
    status, _, err = add(capsys, "mine", HANDLE)
    assert status == 2
    assert "--real GLOB --fake GLOB" in complaint(err)
    assert f"Its download is kept in {home}/data/.mine.download" in complaint(err)
    before = len(kaggle.seen)
    status, out, _ = add(capsys, "mine", HANDLE, "--real", "*/cats/*", "--fake", "*/dreams/*")
    assert status == 0 and "5 images" in out
    assert len(kaggle.seen) == before and hidden(home) == []


def test_a_disk_too_small_is_refused_before_the_archive_is_asked_for(
    kaggle, capsys, home, monkeypatch
):
    kaggle.size = 50 * 2**30
    free = {"bytes": 99 * 2**30}
    monkeypatch.setattr(devices, "free_bytes", lambda path: free["bytes"])
    status, out, err = add(capsys, "mine", HANDLE)
    assert status == 1 and out == ""
    assert "99.00 GiB free and 100.00 GiB are needed" in complaint(err)
    assert [call for call, *_ in kaggle.seen] == ["GetDataset"]
    assert list((home / "data").iterdir()) == []
    free["bytes"] = 101 * 2**30
    assert add(capsys, "mine", HANDLE)[0] == 0


def test_what_is_here_already_is_not_needed_again(kaggle, capsys, home, monkeypatch):
    part(home).parent.mkdir()
    part(home).write_bytes(kaggle.archive[: 3 * 2**20])
    needed = 2 * len(kaggle.archive) - 3 * 2**20
    monkeypatch.setattr(devices, "free_bytes", lambda path: needed)
    assert add(capsys, "mine", HANDLE)[0] == 0


def test_the_archives_own_size_counts_where_the_data_sets_is_unknown(
    kaggle, capsys, home, monkeypatch
):
    kaggle.size = 0
    monkeypatch.setattr(devices, "free_bytes", lambda path: 2 * len(kaggle.archive) - 1)
    status, _, err = add(capsys, "mine", HANDLE)
    assert status == 1 and "are needed" in complaint(err)


# --- no network, no permission -----------------------------------------------------------


def test_without_a_network_there_is_one_sentence_with_the_way_out(
    home, capsys, monkeypatch, tmp_path
):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    point_to(port, monkeypatch, tmp_path)
    status, out, err = add(capsys, "mine", HANDLE)
    assert status == 1 and out == "" and len(err.splitlines()) == 1
    assert "kaggle:owner/some-set cannot be fetched from Kaggle (no connection)" in err
    assert "kaggle.com/datasets/owner/some-set and give it: w207 data add mine ARCHIVE.zip" in err
    assert list((home / "data").iterdir()) == []


@pytest.mark.parametrize("call", ["GetDataset", "DownloadDataset"])
@pytest.mark.parametrize(
    ("code", "status", "says"),
    [(404, 2, "is unknown to Kaggle (404); expected kaggle:owner/dataset"),
     (401, 1, "Kaggle refuses access (401)"), (403, 1, "asks for consent on its page"),
     (418, 1, "Kaggle answers 418"), (429, 1, "(server error 429); check the network"),
     (500, 1, "(server error 500)"), (503, 1, "(server error 503)")],
)  # fmt: skip
def test_a_refusal_is_one_sentence(kaggle, capsys, home, monkeypatch, call, code, status, says):
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    kaggle.answers[call] = code
    done, out, err = add(capsys, "mine", HANDLE)
    assert done == status and out == "" and says in complaint(err)
    if code in (401, 403):
        assert "KAGGLE_API_TOKEN or ~/.kaggle/access_token" in complaint(err)
    assert datasets.names() == [] and kaggle.calls("file") == []


@pytest.mark.parametrize("token", [TOKEN + "x" * 300, TOKEN + "\nx", TOKEN + "\N{SNOWMAN}"])
def test_a_token_that_cannot_be_sent_is_not_quoted(kaggle, capsys, home, monkeypatch, token):
    monkeypatch.setenv("KAGGLE_API_TOKEN", token)
    status, out, err = add(capsys, "mine", HANDLE)
    assert status == 1 and out == "" and "the Kaggle credentials" in complaint(err)


@pytest.mark.parametrize(
    "handle", ["", "owner", "owner/", "/set", "owner/set/3", "owner/set/versions/0", "a b/c",
               "owner/set/versions/x", "../x/y", "owner/..", "owner/set?x"],
)  # fmt: skip
def test_an_ill_formed_handle_is_refused_before_anything_is_asked(kaggle, capsys, home, handle):
    status, _, err = add(capsys, "mine", f"kaggle:{handle}")
    assert status == 2 and "expected kaggle:owner/dataset" in complaint(err)
    assert kaggle.seen == [] and list((home / "data").iterdir()) == []


def test_a_name_that_is_taken_is_refused_before_anything_is_asked(kaggle, capsys, home, tree):
    importing.add("mine", tree)
    status, _, err = add(capsys, "mine", HANDLE)
    assert status == 2 and "already there, from another source" in complaint(err)
    assert kaggle.seen == []
