import json
import shlex
import subprocess

from w207lib.running import provenance


def test_provenance_says_what_is_needed_to_repeat_a_run(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    found = provenance.gather(seed=207, data="abc")
    assert {"time", "commit", "python", "platform", "machine", "processors", "environment",
            "versions", "command", "processor", "seed", "data"} == set(found)  # fmt: skip
    assert found["seed"] == 207 and found["data"] == "abc"
    assert found["environment"]["KERAS_BACKEND"] == "tensorflow"
    assert {"numpy", "keras", "pandas", "w207lib"} <= set(found["versions"])
    json.dumps(found)


def test_the_command_can_be_given_to_a_shell(monkeypatch):
    words = ["/usr/bin/w207", "train", "my recipe.py:net", "--out", "a b"]
    monkeypatch.setattr("sys.argv", words)
    assert shlex.split(provenance.gather()["command"]) == ["w207", *words[1:]]
    monkeypatch.setenv(provenance.COMMAND_VARIABLE, "w207 run")
    assert provenance.gather()["command"] == "w207 run"  # of a kernel, whose words help nobody


def git(folder, *words):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=m"]
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)


def test_the_commit_says_whether_the_package_differs_from_it(home):
    assert provenance.commit() is None
    git(home, "init")
    (home / "w207lib").mkdir()
    (home / "w207lib" / "a.py").write_text("1")
    git(home, "add", ".")
    git(home, "commit", "-m", "x")
    clean = provenance.commit()
    assert len(clean) == 12
    (home / "w207lib" / "a.py").write_text("2")
    assert provenance.commit() == clean + "+changes"
