"""Shared by all tests: a home of one's own, a tiny data set that can be learned, a run."""

import base64
import dataclasses
import io
import logging
import os
import shutil
import signal
import zlib

import ledger
import nbformat
import numpy as np
import pytest
from PIL import Image, ImageFilter

from w207lib import (
    batch,
    clean,
    config,
    datasets,
    evaluate,
    manifest,
    pipeline,
    predict,
    report,
    runs,
    split,
    train,
)
from w207lib.running import provenance

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # started in the background, as children
    signal.signal(signal.SIGINT, signal.default_int_handler)  # of these tests then would be, too


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch):
    """No test sees a run that is going on around it, or writes into another test's log."""
    for name in (runs.RUN_VARIABLE, runs.RESUME_VARIABLE, runs.NOTEBOOK_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    logger = logging.getLogger("w207lib")
    before = list(logger.handlers)
    yield
    for handler in set(logger.handlers) - set(before):
        logger.removeHandler(handler)
        handler.close()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty project folder: data sets and runs of this test alone."""
    folder = tmp_path / "home"
    (folder / "data").mkdir(parents=True)
    monkeypatch.setenv(config.HOME_VARIABLE, str(folder))
    monkeypatch.setenv(config.RUNS_VARIABLE, str(tmp_path / "runs"))
    return folder


def picture(seed, *, size=8, smooth=False):
    """Noise, or smoothed noise: a photograph and a fake that anything can tell apart."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8))
    return image.filter(ImageFilter.GaussianBlur(1.5)) if smooth else image


@pytest.fixture(scope="session")
def make_picture():
    return picture


def write_tree(root, counts, *, size=8, suffix="png"):
    """Write images, all different, below ``root``; return ``root``.

    REAL folders (by their last name) get smoothed noise, others plain noise.
    """
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        smooth = "real" in folder.rsplit("/", 1)[-1].lower()
        for number in range(count):
            image = picture([zlib.crc32(folder.encode()), number], size=size, smooth=smooth)
            image.save(root / folder / f"{number:03}.{suffix}")
    return root


@pytest.fixture(scope="session")
def make_tree():
    return write_tree


@pytest.fixture
def tree(tmp_path):
    """A folder with three images of each class in train and two in test."""
    counts = {"train/REAL": 3, "train/FAKE": 3, "test/REAL": 2, "test/FAKE": 2}
    return write_tree(tmp_path / "tree", counts)


def listing(folder):
    """Return every file below ``folder`` with its bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="session")
def contents():
    return listing


def prepared(root, name, size, **options):
    """Return a folder's ``pipeline.Data``, its cache beside the folder."""
    dataset = datasets.Dataset(name, root, root.with_name(f"{name}-cache"))
    table = split.assign(
        clean.mark(manifest.load(dataset, processes=1)), validation_fraction=0.25, seed=1
    )
    return pipeline.Data(dataset, table, size, **options)


@pytest.fixture(scope="session")
def make_data():
    return prepared


@pytest.fixture(scope="session")
def learnable(tmp_path_factory):
    """16-pixel images that any network learns: 60 for training, 20 for validation, 20 test."""
    counts = {"train/REAL": 40, "train/FAKE": 40, "test/REAL": 10, "test/FAKE": 10}
    root = write_tree(tmp_path_factory.mktemp("learnable") / "raw", counts, size=16)
    return prepared(root, "learnable", 16)


@pytest.fixture(scope="session")
def tiny_profile():
    """Make a profile for ``learnable``, with any setting replaced."""

    def make(**changes):
        defaults = {"image_size": 16, "batch_size": 16, "epochs": 3, "patience": 3}
        return dataclasses.replace(
            config.PROFILES["sample"], name="tiny", dataset="learnable", **defaults | changes
        )

    return make


@pytest.fixture
def styled():
    """The project's figure style, and no figure left open."""
    import matplotlib.pyplot as plt

    from w207lib.plotting import style

    with plt.rc_context():
        style.use_style()
        yield
    plt.close("all")


KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
PARAMETERS = 'profile = "sample"\nepochs = None\nnoise = 0.5\nfast = False'
LOG = """import os, pathlib
root = pathlib.Path(os.environ["W207_RUN"])
with open(root / "order.txt", "a") as file:
    file.write(f"{number} {profile} {epochs} {noise} {os.environ['W207_RESUME']!r}\\n")"""


def write_notebook(folder, number, *sources, needs=(), parameters=PARAMETERS):
    """Write a notebook: a title, a ``parameters`` cell, then the sources."""
    new = nbformat.v4
    cells = [
        new.new_markdown_cell(f"# {number} Why?\n\nA [term](../docs/glossary.md#term)."),
        new.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        *(new.new_code_cell(source) for source in sources),
    ]
    for place, cell in enumerate(cells):
        cell.id = f"cell{place}"
    book = new.new_notebook(cells=cells)
    book.metadata = {"kernelspec": KERNEL, "w207": {"needs": list(needs)}}
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / f"{number}_why.ipynb"
    nbformat.write(book, path)
    return path


def logging_source(number):
    return f'number = "{number}"\n{LOG}'


@pytest.fixture(scope="session")
def make_notebook():
    return write_notebook


@pytest.fixture(scope="session")
def logged():
    """Make a cell's source that writes down that it was executed, and with what."""
    return logging_source


@pytest.fixture
def four(home):
    """Of four notebooks the second fails; the third needs it, the fourth does not."""
    folder = home / "notebooks"
    write_notebook(folder, "01", logging_source("01"))
    write_notebook(folder, "02", logging_source("02"), "raise ValueError('planned')", "never = 1")
    write_notebook(folder, "03", logging_source("03"), needs=["02"])
    write_notebook(folder, "04", logging_source("04"), needs=["01"])
    return folder


@pytest.fixture
def executed(monkeypatch):
    """Execute no notebook, but note which would be; one that raises fails, as it would."""
    seen = []

    def execute(notebook, parameters, target):
        seen.append(notebook.number)
        book = nbformat.read(notebook.path, as_version=4)
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(book, target)
        for cell in book.cells:
            if "planned" in cell.source:
                raise ValueError("planned")
            if "KeyboardInterrupt" in cell.source:
                raise KeyboardInterrupt

    monkeypatch.setattr(batch, "_execute", execute)
    return seen


CLAIMS = """model,report,reported_accuracy,reported_split,reported_data,note
random_forest,Report 1,0.6,test,cifake,none
svm,Report 1,0.7,test,cifake,none
"""


def png():
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "png")
    return base64.b64encode(buffer.getvalue()).decode()


def executed_notebook(path):
    new = nbformat.v4
    shown = [new.new_output("display_data", {"image/png": png()}) for _ in range(3)]
    cells = [
        new.new_markdown_cell("# 01 What is <there>?"),
        new.new_code_cell("plot()", outputs=shown[:1], metadata={"figure": "scatter"}),
        new.new_code_cell("plots()", outputs=shown[1:]),
        new.new_code_cell("bar()", outputs=[new.new_output("stream", name="stderr", text="99 %|")]),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new.new_notebook(cells=cells), path)


@pytest.fixture(scope="session")
def trained_run(learnable, tiny_profile, tmp_path_factory):
    """A finished run of two baselines, with a search, a history and pictures beside them."""
    root = tmp_path_factory.mktemp("run")
    runs.claim(root, profile="tiny", data_digest=learnable.digest)
    statistics = manifest.statistics(learnable.dataset)
    for name in ("random_forest", "dummy:prior"):
        folder = train.fit_baseline(name, learnable, statistics, tiny_profile(), root / "models")
        predict.score_test(folder, learnable, statistics, root=root)
    (root / "models/random_forest/history.csv").write_text("epoch,loss\n1,0.5\n")
    (root / "models/.svm.0123.partial").mkdir()
    (root / "models/.svm.0123.partial/metrics.json").write_text("{}")
    (root / "tuning/random").mkdir(parents=True)
    (root / "tuning/random/trials.csv").write_text("trial,score\n0,0.5\n")
    executed_notebook(root / "notebooks" / "01_what.ipynb")
    (root / "figures").mkdir()
    Image.new("RGB", (2, 2)).save(root / "figures" / "01_photo.png")
    Image.new("RGB", (2, 2)).save(root / "photo.jpg")
    row = {"notebook": "01_what.ipynb", "status": "done", "seconds": 1.5, "error": None}
    runs.write_json(
        root / "summary.json",
        {"profile": "tiny", "parameters": {"epochs": 1}, "notebooks": {"01": row},
         "provenance": provenance.gather(seed=207)},
    )  # fmt: skip
    scores = evaluate.score(report.predictions(root))
    runs.write_table(root / report.METRICS, report.comparison(scores, report.model_facts(root)))
    return root


@pytest.fixture
def finished_run(trained_run, tmp_path, home):
    """A copy of the run that a test may spoil, in a home that knows what reports claimed."""
    (home / "data" / "reports.csv").write_text(CLAIMS)
    return shutil.copytree(trained_run, tmp_path / "run")


@pytest.fixture(scope="session")
def object_store():
    """Serve S3 on this machine; give the server's address."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def bucket(object_store, monkeypatch, tmp_path):
    """An empty bucket ``pail`` and its file system, for this test and its subprocesses."""
    import s3fs
    from moto.backends import get_backend

    for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ENDPOINT_URL": object_store, "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "anybody", "AWS_SECRET_ACCESS_KEY": "anything",
        "AWS_CONFIG_FILE": str(tmp_path / "none"), "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    store = s3fs.S3FileSystem(use_listings_cache=False)
    store.mkdir("pail")
    yield store
    get_backend("s3").reset()


@pytest.fixture
def tally():
    """Count what a test of faults tries: see `tests/ledger.py`."""
    return ledger.tally


def pytest_sessionfinish():
    """Write the counts of this run where `make test-full` asks for them."""
    ledger.write()
