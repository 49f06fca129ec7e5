"""Run folders: written whole or not at all, claimed and logged."""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Collection
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from w207lib import config
from w207lib.running import locks, provenance

TEST_LOG = "test_scorings.jsonl"
LOG = "run.log"
RUN_VARIABLE = "W207_RUN"
RESUME_VARIABLE = "W207_RESUME"
NOTEBOOK_VARIABLE = "W207_NOTEBOOK"
_MAKER = ".notebook.partial"


def digest(value) -> str:
    """Return the SHA-256 of a JSON-serialisable value, 64 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: str | Path) -> str:
    """Return a file's SHA-256, 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(path: str | Path):
    """Give a temporary name beside ``path``; what is written there replaces it when whole.

    Args:
        path: The file to write.

    Yields:
        The temporary path. After an exception nothing is left of it, and ``path`` is as before;
        what a kill leaves of it the next that writes ``path`` removes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{locks.mark()}.partial{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    for left in locks.left_behind(path.parent, path.stem, f".partial{path.suffix}"):
        left.unlink(missing_ok=True)


def write_json(path: str | Path, value) -> Path:
    """Write ``value`` as indented JSON, whole or not at all; return the path."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, default=str) + "\n", encoding="utf-8")
    return Path(path)


def write_table(path: str | Path, table: pd.DataFrame) -> Path:
    """Write a table as Parquet or CSV, by the ending of ``path``, whole or not at all."""
    with replacing(path) as temporary:
        if Path(path).suffix == ".parquet":
            table.to_parquet(temporary, index=False)
        else:
            table.to_csv(temporary, index=False, lineterminator="\n")
    return Path(path)


def run_root(profile: config.Profile) -> Path:
    """Return the folder of a profile's run; it need not exist.

    It is ``$W207_RUN`` where ``w207 run --out`` has set that, otherwise ``runs/<profile>``.
    """
    if os.environ.get(RUN_VARIABLE):
        return Path(os.environ[RUN_VARIABLE])
    return config.runs_root() / profile.name


def notebook_bar(total: int, name: str, unit: str):
    """Make a progress bar that shows in notebooks only; a terminal gets the log's lines.

    Args:
        total: Steps until it is full.
        name: What stands before it.
        unit: What a step is called.

    Returns:
        A ``tqdm.tqdm``: ``update()`` it at each step, and ``close()`` it.
    """
    from tqdm import tqdm

    return tqdm(
        total=total, desc=name, unit=unit, leave=False, disable="ipykernel" not in sys.modules
    )


def open_log(root: Path) -> logging.Handler | None:
    """Let the package's messages also go to ``run.log`` in ``root``, once a process.

    Returns:
        What writes there; None where it was there before.
    """
    path = Path(root).resolve() / LOG
    logger = logging.getLogger("w207lib")
    if any(getattr(handler, "baseFilename", None) == str(path) for handler in logger.handlers):
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    return handler


@contextmanager
def logged(root: Path):
    """Let the package's messages go to ``run.log`` in ``root`` inside a ``with`` block."""
    handler = open_log(root)
    try:
        yield
    finally:
        if handler is not None:
            logging.getLogger("w207lib").removeHandler(handler)
            handler.close()


def duration(seconds: float) -> str:
    """Return a time for people: ``12 s``, ``3 min 20 s``, ``2 h 05 min``."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02} min"


def require(root: Path, name: str, *, notebook: str, profile: str) -> Path:
    """Return ``root/name``, which an earlier notebook makes.

    Args:
        root: The run's folder.
        name: The product, relative to ``root``.
        notebook: Number of the notebook that makes it, such as ``"02"``.
        profile: The profile's name, for the command in the message.

    Raises:
        FileNotFoundError: It is not there. The message names the command that makes it.
    """
    path = Path(root) / name
    if not path.exists():
        raise FileNotFoundError(
            f"{name} is not in the run folder {root}: notebook {notebook} makes it. Run that "
            f"notebook first, or all up to it with: w207 run --profile {profile} --to {notebook}"
        )
    return path


def claim(root: Path, *, profile: str, data_digest: str) -> Path:
    """Write down which data a run folder is for, or check that it is for these.

    Args:
        root: The run's folder; made when missing.
        profile: The profile's name.
        data_digest: Digest of the manifest.

    Returns:
        ``root``.

    Raises:
        ValueError: The folder already holds a run on other data.
    """
    path = Path(root) / "run.json"
    new = {"profile": profile, "data_digest": data_digest}
    if path.is_file():
        old = json.loads(path.read_text(encoding="utf-8"))
        if old != new:
            raise ValueError(
                f"{root} holds a run of profile {old.get('profile')} on data "
                f"{str(old.get('data_digest'))[:12]}, not of {profile} on {data_digest[:12]}. "
                "Give another folder with --out, or move this one away."
            )
    else:
        write_json(path, new)
    return Path(root)


LATER = ("splits",)
"""Keys of ``config.json`` that finished runs of earlier versions lack: there they do not count."""


def _same(found: dict, wanted: dict, free: tuple[str, ...] = ()) -> bool:
    """Whether two configurations are the same but for the keys in ``free``."""
    one, other = ({k: v for k, v in c.items() if k not in free} for c in (found, wanted))
    return digest(one) == digest(other)


class RunFolder:
    """A folder that appears under its name only when everything in it is written.

    Until then it is ``.<name>.<digest>.partial`` beside it, keyed by its configuration: the
    same configuration goes on where it was stopped, another one starts afresh.

    Args:
        path: Where the whole folder shall be.
        configuration: JSON-serialisable; what makes the run what it is.
    """

    def __init__(self, path: str | Path, configuration: dict):
        self.path = Path(path)
        self.configuration = configuration
        self.digest = digest(configuration)
        self.partial = self.path.with_name(f".{self.path.name}.{self.digest[:12]}.partial")

    def kept(self) -> bool:
        """Whether a resumed run finds this folder whole, with the same configuration."""
        _put_back(self.path)
        path = self.path / "config.json"
        if not os.environ.get(RESUME_VARIABLE) or not path.is_file():
            return False
        found = json.loads(path.read_text(encoding="utf-8"))
        return _same(found, self.configuration, tuple(set(LATER) - set(found)))

    def open(self) -> Path:
        """Make the partial folder, or return the one that is there."""
        self.partial.mkdir(parents=True, exist_ok=True)
        _put_back(self.path)
        if notebook := os.environ.get(NOTEBOOK_VARIABLE):
            (self.partial / _MAKER).write_text(notebook, encoding="utf-8")
        write_json(self.partial / "config.json", self.configuration)
        return self.partial

    def finish(self) -> Path:
        """Put the partial folder in place of ``path``; return ``path``."""
        for left in self.partial.glob(".*.partial*"):  # of a process that was killed
            left.unlink(missing_ok=True)
        old = self.path.with_name(f".{self.path.name}.{locks.mark()}.old")
        if self.path.exists():
            os.replace(self.path, old)
        os.replace(self.partial, self.path)
        shutil.rmtree(old, ignore_errors=True)
        return self.path


def earlier(
    path: Path, configuration: dict, *, free: tuple[str, ...],
    goes_on: Callable[[Path], bool] = Path.is_dir,
) -> RunFolder | None:  # fmt: skip
    """Return a run that is kept or goes on, and that decides some keys of its configuration.

    Args:
        path: As for ``RunFolder``.
        configuration: As for ``RunFolder``; keys in ``free`` do not count.
        free: What the run that is found decides.
        goes_on: Whether a partial folder has anything to go on from.

    Returns:
        The run with the configuration that it was begun with; None where there is none.
    """
    partials = sorted(path.parent.glob(f".{glob.escape(path.name)}.*.partial"))
    for place in (path, *partials):
        if not (place / "config.json").is_file() or (place != path and not goes_on(place)):
            continue
        found = json.loads((place / "config.json").read_text(encoding="utf-8"))
        older = tuple(set(LATER) - set(found)) if place == path else ()
        run = RunFolder(path, found)
        if _same(found, configuration, (*free, *older)) and (place != path or run.kept()):
            return run
    return None


def _put_back(path: Path) -> None:
    """Give a folder its name again where a kill fell while another was put in its place."""
    for old in locks.left_behind(path.parent, path.name, ".old"):
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(old, path)


def drop_partials(root: Path, notebooks: Collection[str]) -> None:
    """Remove what interrupted trainings of some notebooks left, so that the next start afresh.

    Args:
        root: The run's folder.
        notebooks: Numbers, such as ``04``. What other notebooks, or commands, left unfinished
            in the folder stays.
    """
    for old in sorted(Path(root).glob("**/.*.old")):
        _put_back(old.with_name(old.name[1:].rsplit(".", 2)[0]))
    for path in sorted(Path(root).glob("**/.*.partial")):
        maker = path / _MAKER
        if maker.is_file() and maker.read_text(encoding="utf-8") in notebooks:
            shutil.rmtree(path, ignore_errors=True)


def log_test_scoring(root: Path, *, model: str, model_digest: str, data_digest: str) -> int:
    """Write down that a model was scored on a test split; return how often it has been.

    Args:
        root: The run's folder, which holds the log ``test_scorings.jsonl``.
        model: The model's name.
        model_digest: Digest of the model's file.
        data_digest: Digest of the manifest.

    Returns:
        The number of times this model *name* was scored on this data's test split, this time
        counted in. A second look at one model changes nothing; a second model of that name
        means that a choice could have followed a look.
    """
    path = Path(root) / TEST_LOG
    path.parent.mkdir(parents=True, exist_ok=True)
    row = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"), "model": model,
        "model_digest": model_digest, "data_digest": data_digest, "commit": provenance.commit(),
    }  # fmt: skip
    size = path.stat().st_size if path.is_file() else 0
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    except OSError:
        if path.is_file():
            os.truncate(path, size)  # half a line would spoil the others
        raise
    log = test_scorings(root)
    return int(((log["model"] == model) & (log["data_digest"] == data_digest)).sum())


def test_scorings(root: Path) -> pd.DataFrame:
    """Return the log of test scorings, one row each; empty where there were none."""
    path = Path(root) / TEST_LOG
    columns = ["time", "model", "model_digest", "data_digest", "commit"]
    if not path.is_file():
        return pd.DataFrame(columns=columns)
    return pd.DataFrame(
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()],
        columns=columns,
    )
