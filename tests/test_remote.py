"""Images in an object store: moto's, which answers on this machine as S3 does."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from w207lib import audit, cli, datasets, detector, manifest
from w207lib.making import fakes
from w207lib.reading import images, importing, named_files, remote, shards
from w207lib.reading.remote import Remote

MODEL = Path(__file__).resolve().parents[1] / "data" / "models" / "compact.onnx"
SECRET = "wJalrXUtnFEMI/never/to/be/seen"


@pytest.fixture
def pail(bucket, tree):
    """The address of ten images in a bucket, of which ``tree`` has the same on this disk."""
    bucket.put(f"{tree}/", "pail/tree", recursive=True)
    return "s3://pail/tree"


def sealed(folder, target):
    with zipfile.ZipFile(target, "w") as file:
        for path in sorted(folder.rglob("*.png")):
            file.write(path, path.relative_to(folder).as_posix())
    return target


# --- read where they lie ------------------------------------------------------------------


def test_a_bucket_is_imported_where_it_lies_as_a_folder_is(home, pail, tree):
    _, expected = importing.add("mine", tree)
    (home / "data/mine").rename(home / "data/local")
    dataset, table = importing.add("mine", pail)
    pd.testing.assert_frame_equal(table, expected)
    assert dataset == datasets.locate("mine") and dataset.root == Remote(pail)
    assert not list((home / "data/mine").rglob("*.png"))  # no raw file on this disk
    assert importing.add("mine", pail)[1].equals(table)
    local = datasets.Dataset("mine", tree, home / "data/local/cache")
    made = shards.build(dataset, table, 4)
    assert np.array_equal(made.read(range(10)), shards.build(local, table, 4).read(range(10)))
    paths = table["path"][[3, 0, 3]]
    for ours, theirs in zip(dataset.read(paths), local.read(paths), strict=True):
        assert np.array_equal(ours, theirs)


def test_each_object_is_asked_for_once(home, pail, bucket, monkeypatch):
    asked, call = [], bucket._call_s3

    async def counting(method, *words, **rest):
        asked.append(method)
        return await call(method, *words, **rest)

    monkeypatch.setattr(bucket, "_call_s3", counting)
    files = list(remote.files(Remote(pail), [row.name for row in remote.listing(Remote(pail))]))
    assert len(files) == 10 and asked == ["list_objects_v2", *["get_object"] * 10]


def test_a_change_in_the_bucket_is_seen_as_one_in_a_folder(home, pail, bucket, make_picture):
    dataset, table = importing.add("mine", pail)
    make_picture(5).save(home / "new.png")
    bucket.put_file(str(home / "new.png"), "pail/tree/train/REAL/000.png")
    bucket.rm("pail/tree/train/REAL/001.png")
    now = manifest.load(dataset)
    assert len(now) == 9 and manifest.digest(now) != manifest.digest(table)


def test_what_an_images_csv_in_the_bucket_says_is_taken(home, pail, bucket):
    bucket.pipe_file("pail/tree/images.csv", b"path,generator\ntrain/FAKE/000.png,painter\n")
    _, table = importing.add("mine", pail)
    assert table.set_index("path").loc["train/FAKE/000.png", "generator"] == "painter"
    _, table = importing.add("above", "s3://pail")
    assert table.set_index("path").loc["tree/train/FAKE/000.png", "generator"] == "painter"


def test_hidden_and_broken_objects_are_taken_as_such_files_are(home, bucket, pail, tree):
    for name, data in {".trash/REAL/0.png": b"x", "train/REAL/cut.png": b"\x89PNG"}.items():
        bucket.pipe_file(f"pail/tree/{name}", data)
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(data)
    _, found = importing.add("mine", pail)
    _, expected = importing.add("other", tree)
    assert found.equals(expected.assign(source="mine").replace({"generator": {"other": "mine"}}))
    assert found["status"].value_counts().to_dict() == {"ok": 10, "corrupted": 1}


def test_the_audit_of_a_bucket_is_that_of_a_folder(home, pail, tree):
    found, expected = audit.audit(audit.find(pail)), audit.audit(audit.find(str(tree)))
    assert found.numbers == expected.numbers
    assert {k: t.to_csv() for k, t in found.tables.items()} == {
        k: t.to_csv() for k, t in expected.tables.items()
    }


def test_verdicts_on_a_bucket_are_those_on_a_folder(pail, tree):
    judge = detector.load()
    found = detector.as_table(judge.judge(named_files.find_images([pail])))
    expected = detector.as_table(judge.judge(named_files.find_images([str(tree)])))
    assert found["path"][0].startswith("s3://pail/tree/")
    assert found.drop(columns="path").equals(expected.drop(columns="path"))
    one = named_files.find_images([f"{pail}/train/REAL/000.png"])
    assert one == [Remote(f"{pail}/train/REAL/000.png")]


def test_hidden_files_of_a_bucket_are_left_out(pail, bucket):
    seen = named_files.find_images([pail])
    bucket.pipe_file("pail/tree/train/REAL/._000.png", b"of macOS")
    bucket.pipe_file("pail/tree/.cache/a.png", b"")
    assert named_files.find_images([pail]) == seen


def test_other_stores_of_fsspec_come_along(home, tree):
    import fsspec

    fsspec.filesystem("memory").put(f"{tree}/", "/pail/tree", recursive=True)
    _, table = importing.add("mine", "memory://pail/tree")
    assert table.equals(importing.add("other", tree)[1].assign(source="mine"))


def test_objects_are_received_some_at_a_time_and_in_order(pail, bucket, monkeypatch):
    names = [row.name for row in remote.listing(Remote(pail))]
    asked, cat = [], bucket.cat
    monkeypatch.setattr(remote, "AHEAD", 4)
    monkeypatch.setattr(
        bucket, "cat", lambda paths, **rest: asked.append(paths) or cat(paths, **rest)
    )
    found = [file.read_bytes() for file in remote.files(Remote(pail), names)]
    assert [len(paths) for paths in asked] == [4, 4, 2]
    assert found == [bucket.cat_file(f"{pail}/{name}") for name in names]


def test_large_objects_are_received_fewer_at_a_time(bucket, monkeypatch):
    sizes = {**{f"a{n}": 100 for n in range(8)}, **{f"b{n}": 400 for n in range(5)}}
    for name, size in sizes.items():
        bucket.pipe_file(f"pail/{name}", bytes(size))
    asked, cat = [], bucket.cat
    monkeypatch.setattr(remote, "FIRST", 2)
    monkeypatch.setattr(remote, "AHEAD_BYTES", 350)
    monkeypatch.setattr(
        bucket, "cat", lambda paths, **rest: asked.append(len(paths)) or cat(paths, **rest)
    )
    found = [len(file.read_bytes()) for file in remote.files(Remote("s3://pail"), sizes)]
    assert found == list(sizes.values())
    assert asked == [2, 3, 3, 3, 1, 1]  # what the last three weighed is known afterwards


def test_an_object_of_too_many_bytes_has_its_row(tmp_path, pail, monkeypatch):
    monkeypatch.setattr(images, "MOST_BYTES", 100)
    table = manifest.load(datasets.Dataset("mine", Remote(pail), tmp_path / "cache"))
    assert len(table) == 10 and set(table["status"]) == {"corrupted"}
    assert table["reason"].str.fullmatch(r"more than \S+ GiB").all() and table["bytes"].min() > 100
    judged = detector.as_table(detector.load().judge(named_files.find_images([pail])))
    assert set(judged["status"]) == {"unreadable"}
    assert judged["reason"].str.contains("more than").all()


# --- archives ------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [False, True])
def test_an_archive_in_a_bucket_is_fetched_verified_and_unpacked(
    home, bucket, tree, tmp_path, contents, kept
):
    bucket.put_file(str(sealed(tree, tmp_path / "a.zip")), "pail/a.zip")
    if kept:  # a first import that found no class keeps its download
        with pytest.raises(ValueError, match="no image fits.*download is kept in"):
            importing.add("mine", "s3://pail/a.zip", real="x/*", fake="y/*")
        (home / "data/.mine.download/a.zip").touch()
    dataset, table = importing.add("mine", "s3://pail/a.zip")
    assert len(table) == 10 and contents(dataset.root) == contents(tree)
    card = json.loads((home / "data/mine/dataset.json").read_text())
    assert card["source"] == {"url": "s3://pail/a.zip"}
    assert re.fullmatch(r"md5:[0-9a-f]{32}", card["download"]["checksum"])
    assert [path.name for path in (home / "data").iterdir()] == ["mine"]


def test_making_fakes_needs_a_folder_and_says_how_to_get_one(home, pail):
    importing.add("mine", pail)
    with pytest.raises(ValueError, match="w207 sync s3://pail/tree FOLDER"):
        fakes.make("mine", name="other")


# --- what goes wrong -------------------------------------------------------------------------


def refused(capsys, *words, status):
    """Run a command that fails; return its one sentence."""
    assert cli.main(list(words)) == status
    lines = capsys.readouterr().err.splitlines()
    said = [line for line in lines if "file/s]" not in line and line.strip()]  # but for the bar
    assert len(said) == 1 and "Traceback" not in said[0]
    return said[0]


@pytest.fixture
def afresh(bucket):
    """Let the client read its credentials anew; so do the tests after this one."""
    yield type(bucket).clear_instance_cache
    type(bucket).clear_instance_cache()


COMMANDS = {
    "add": ["data", "add", "mine", "{url}"], "audit": ["audit", "{url}"],
    "predict": ["predict", "{url}"], "sync from": ["sync", "{url}", "{folder}/copy"],
    "sync to": ["sync", "{folder}/tree", "{url}"],
}  # fmt: skip


def test_each_failure_is_one_sentence_and_leaves_nothing(
    home, afresh, pail, tree, tmp_path, capsys, monkeypatch, contents, tally
):
    from moto import settings
    from moto.core.responses import ActionAuthenticatorMixin

    before = contents(home)

    def fails(fault, expected, url=pail, status=1, commands=COMMANDS):
        with tally("cloud", fault) as tried:
            for command in commands:
                words = [word.format(url=url, folder=tmp_path) for word in COMMANDS[command]]
                said = refused(capsys, *words, status=status)
                left = {k: v for k, v in contents(home).items() if ".partial/" not in k}
                assert re.search(expected, said) and SECRET not in said, said
                assert left == before and not list(tmp_path.glob("copy/**/*.png"))
                tried(survived=True, lost=0)

    reading = [command for command in COMMANDS if command != "sync to"]
    fails("no such bucket", "no such bucket", "s3://nowhere/tree", 2)
    fails("nothing below the prefix", "no such|nothing lies there", "s3://pail/none", 2, reading)
    fails("unknown kind of store", "knows no store of this kind", "blah://pail/tree", 2)
    fails("an ill-formed address", "is no address", "s3://a bucket!/tree", 2)
    fails("a password in the address", "credentials in it came", f"s3://me:{SECRET}@pail/x", 2)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "fsspec.core", None)
        fails("the extra is missing", "python make.py setup --cloud", status=2)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    afresh()
    with monkeypatch.context() as patch:
        patch.setattr(settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)
        patch.setattr(ActionAuthenticatorMixin, "request_count", 0)
        fails("no permission", "refuses access.*AWS_PROFILE")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    afresh()
    fails("no credentials", "no credentials can be used.*AWS_PROFILE.*FSSPEC_S3_ANON")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    afresh()
    fails("no such profile", r"no credentials can be used \(ProfileNotFound\)")


def test_a_profiles_credentials_are_used_and_stand_in_no_output(
    home, afresh, pail, tree, tmp_path, capsys, monkeypatch, contents
):
    key, file = "AKIAOFTHEPROFILE", tmp_path / "credentials"
    file.write_text(f"[course]\naws_access_key_id = {key}\naws_secret_access_key = {SECRET}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    afresh()
    assert "no credentials can be used" in refused(capsys, "audit", pail, status=1)
    expected = dict.fromkeys(COMMANDS, 0) | {"audit": cli.main(["audit", str(tree)])}
    monkeypatch.setenv("AWS_PROFILE", "course")
    afresh()
    for command, words in COMMANDS.items():
        words = [word.format(url=pail, folder=tmp_path) for word in words]
        model = ["--model", str(MODEL)] if command == "predict" else []
        assert cli.main([*words, *model]) == expected[command], command
        said = "".join(capsys.readouterr())
        assert said and SECRET not in said and key not in said, command
    assert len(list((tmp_path / "copy").rglob("*.png"))) == 10
    written = b"".join(contents(home).values()) + b"".join(contents(tmp_path / "copy").values())
    assert SECRET.encode() not in written and key.encode() not in written


def test_without_a_network_one_sentence_comes_in_seconds(home, afresh, pail, monkeypatch, capsys):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    afresh()
    said = refused(capsys, "data", "add", "mine", pail, status=1)
    assert "cannot be reached" in said and "AWS_ENDPOINT_URL" in said
    assert datasets.names() == []


def test_what_was_read_before_the_network_failed_is_kept(
    home, bucket, pail, tree, monkeypatch, tally
):
    from botocore.exceptions import EndpointConnectionError

    monkeypatch.setattr(manifest, "CHUNK", 2)
    expected = importing.add("other", tree)[1].assign(source="mine")
    cat, opened, read = bucket.cat, [], images.open_image
    with tally("cloud", "network lost while reading in place") as tried:
        for after in range(5):
            answers = []

            def flaky(paths, answers=answers, after=after, **rest):
                if len(answers) == after:
                    raise EndpointConnectionError(endpoint_url="http://x")
                answers.append(paths)
                return cat(paths, **rest)

            with monkeypatch.context() as patch:
                patch.setattr(bucket, "cat", flaky)
                with pytest.raises(ConnectionError, match="same command again"):
                    importing.add(f"mine{after}", pail)
            assert datasets.names() == ["other"]
            opened.clear()
            with monkeypatch.context() as patch:
                patch.setattr(images, "open_image", lambda f: opened.append(f) or read(f))
                _, table = importing.add(f"mine{after}", pail)
            again = len(opened) - (10 - 2 * after)
            (home / f"data/mine{after}").rename(home.parent / f"done{after}")
            assert table.assign(source="mine").equals(expected) and again == 0
            tried(survived=True, lost=again)


def test_a_lost_permission_marks_no_image_as_broken(home, bucket, pail, monkeypatch):
    def denied(paths, **_):
        return {path: PermissionError("ExpiredToken") for path in paths}

    monkeypatch.setattr(bucket, "cat", denied)
    with pytest.raises(PermissionError, match="refuses access"):
        importing.add("mine", pail)


SCRIPT = """
import sys
from w207lib import cli, manifest, runs
manifest.CHUNK = 2
write = runs.write_table
def slow(path, table):
    write(path, table)
    if "measured" in str(path):
        print("chunk", flush=True)
        sys.stdin.readline()
runs.write_table = slow
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_killed_import_goes_on_and_no_secret_is_written_anywhere(
    home, bucket, pail, tree, monkeypatch, tally, contents, capsys
):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    words = [sys.executable, "-c", SCRIPT, "data", "add", "mine", pail]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        for _ in range(2):
            assert process.stdout.readline() == b"chunk\n"
            process.stdin.write(b"\n")
            process.stdin.flush()
        assert process.stdout.readline() == b"chunk\n"
        process.kill()
        said = b"".join(process.communicate())
    opened, read = [], images.open_image
    monkeypatch.setattr(manifest, "CHUNK", 2)
    monkeypatch.setattr(images, "open_image", lambda file: opened.append(file) or read(file))
    with tally("cloud", "import from a bucket killed") as tried:
        assert cli.main(["data", "add", "mine", pail]) == 0
        assert len(opened) == 4 and len(manifest.load(datasets.locate("mine"))) == 10
        tried(survived=True, lost=0)
    said += "".join(capsys.readouterr()).encode() + b"".join(contents(home).values())
    assert SECRET.encode() not in said and b"anybody" not in said


def test_nothing_of_it_is_loaded_before_an_address_is_used(tmp_path, tree):
    code = (
        "import sys\nfrom w207lib import cli\n"
        f"cli.main(['predict', {str(tree / 'train/REAL/000.png')!r}])\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & "
        "{'fsspec', 's3fs', 'botocore', 'dask', 'distributed', 'joblib'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
