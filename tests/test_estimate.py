import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from w207lib import cli, config, runs, tune
from w207lib.machine import devices
from w207lib.reading import importing, shards
from w207lib.running import costs, estimate, network_costs, notebook_files, plans, work

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
GIB = devices.GIB
COUNTS = {"train": 1_000, "validation": 200, "test": 300}


class Bench(costs.Bench):
    """Knows instead of measuring: a second for each thing, in simple proportions."""

    def __init__(self, images=1_500, room=100 * GIB):
        self.images, self.room, self.sizes, self.others = images, room, set(), {}

    def startup(self):
        return 5.0

    def processes(self):
        return 1

    def decode(self, size):
        return 0.01

    def missing_bytes(self, size):
        new = size not in self.sizes
        self.sizes.add(size)
        return new * 3 * self.images * size**2

    def network(self, network):
        step = network.batch * network.size**2 * 1e-5
        step *= dict(network.options).get("filters_1", 8) / 8
        need = (10**8, 1000 * network.size**2)
        return network_costs.Cost(10**6, 2, 10**6, need, need, 1.0, step, step / network.batch / 4)

    def gradient(self, network):
        return self.network(network).step / network.batch

    def change(self, condition, size):
        return size**2 * 1e-6

    def spectrum(self, size):
        return size**2 * 1e-6

    def forest(self):
        return 1.0, 1_000

    def svm(self):
        return 1.0, 1.0, 1_000


def items_of(number, profile="sample", counts=COUNTS, **parameters):
    (notebook,) = notebook_files.choose(notebook_files.find(NOTEBOOKS), only=[number])
    plan = plans.Plan(
        config.load(profile), parameters, None, notebook.parameters | parameters, counts
    )
    return plans.WORK[notebook.path.stem](plan)


def seconds_of(number, **options):
    bench = Bench()
    return sum(item.use(bench).seconds for item in items_of(number, **options))


def disk_of(number, **options):
    bench = Bench()
    return sum(item.use(bench).disk for item in items_of(number, **options))


# --- the table of work ---------------------------------------------------------------------


def test_every_notebook_has_its_work_for_every_profile(monkeypatch):
    monkeypatch.setattr(plans, "multiplications", lambda n: dict(n.options)["filters_1"])
    books = notebook_files.find(NOTEBOOKS)
    assert sorted(plans.WORK) == [book.path.stem for book in books]
    for profile in config.PROFILES:
        for book in books:
            bench, items = Bench(), items_of(book.number, profile)
            uses = [item.use(bench) for item in items]
            assert uses and all(str(item) for item in items)
            assert all(math.isfinite(use.seconds) and use.seconds >= 0 for use in uses)
            assert all((use.least or 0) <= use.seconds for use in uses)


@pytest.mark.parametrize(
    ("number", "less", "more", "least"),
    [("04", {"epochs": 10}, {"epochs": 20}, 1.7), ("05", {"epochs": 10}, {"epochs": 20}, 1.3),
     ("05", {"tuning_trials": 6}, {"tuning_trials": 12}, 1.1),
     ("05", {"tuning_epochs": 10}, {"tuning_epochs": 20}, 1.2),
     ("08", {"training_epochs": 10}, {"training_epochs": 20}, 1.1),
     ("08", {"most": 100}, {"most": 200}, 1.1), ("09", {"epochs": 10}, {"epochs": 20}, 1.5)],
)  # fmt: skip
def test_time_grows_with_the_parameters(number, less, more, least):
    ratio = seconds_of(number, **more) / seconds_of(number, **less)
    assert least < ratio <= 2.0


@pytest.mark.parametrize("number", ["03", "04", "05", "06", "08", "09"])
def test_time_and_disk_grow_with_the_images(number):
    many = {name: 3 * count for name, count in COUNTS.items()}
    assert seconds_of(number, counts=many) > 1.1 * seconds_of(number)
    assert disk_of(number, counts=many) >= disk_of(number)


def test_time_disk_and_memory_grow_with_the_size_of_the_images():
    small, large = (items_of("04", name) for name in ("cifake", "photos"))  # 32 and 224 pixels
    uses = [[item.use(Bench()) for item in items] for items in (small, large)]
    decoded = [use[0].disk for use in uses]
    assert decoded == [3 * 1_500 * 32**2, 3 * 1_500 * 224**2]
    trained = [use[1] for use in uses]
    assert trained[1].seconds > 10 * trained[0].seconds
    assert trained[1].device > trained[0].device and trained[1].host == 2 * 3 * 1_200 * 224**2


def test_images_are_decoded_once_for_each_size():
    bench = Bench()
    first, second = (items_of(number)[0].use(bench) for number in ("04", "05"))
    assert first.disk == 3 * 1_500 * 32**2 and first.seconds == pytest.approx(15)
    assert second.disk == 0 and second.seconds == 0


def test_large_networks_count_as_their_time_limit():
    limited = [i for i in items_of("09", "photos", minutes=3.0) if isinstance(i, work.Limited)]
    assert len(limited) == 5 and limited[0].use(Bench()).seconds == 3 * 60 + 30
    assert not [i for i in items_of("09") if isinstance(i, work.Limited)]


@pytest.mark.parametrize(("minutes", "expected"), [(None, 10.0), (2 / 60, 2.0), (0.1 / 60, 1.0)])
def test_a_time_limit_ends_a_training_but_one_epoch_is_trained(minutes, expected):
    class Flat(Bench):
        def network(self, network):
            return network_costs.Cost(0, 2, 1, (0, 0), (0, 0), 0.0, 0.1, 0.0)

    network = network_costs.Network("two_conv", 32, 10)
    training = work.Train(network, 100, 50, 10, minutes)
    assert training.use(Flat()).seconds == pytest.approx(expected + 1)


def test_the_support_vector_machine_is_quadratic():
    bench = Bench()
    small, large = (work.Vectors(n, 1_000).use(bench).seconds for n in (1_000, 10_000))
    assert small == 2 and large == 100 + 10


def test_batches_are_halved_until_they_fit_the_memory():
    cost = network_costs.Cost(1, 2, 1, (100, 10), (0, 0))
    assert work._halved(cost.training, 64, room=10**6) == 740
    assert work._halved(cost.training, 64, room=400) == 100 + 16 * 10
    assert work._halved(cost.training, 64, room=1) == 110


# --- the search ----------------------------------------------------------------------------


def test_the_combinations_are_those_that_a_random_search_tries(
    learnable, tiny_profile, tmp_path, monkeypatch
):
    profile = tiny_profile(tuning_trials=2, tuning_epochs=1, tuning_images=8, seed=5)
    trials = tune.read_trials(tune.search(learnable, profile, tmp_path))
    drawn = plans.drawn(2, 5)
    assert len(drawn) == 2
    assert [{k: row[k] for k in tune.SPACE} for row in trials.to_dict("records")] == list(drawn)


def test_the_search_and_what_follows_have_a_range():
    search, training = items_of("05")[1:3]
    assert len(search.networks) == 6 and training.least != training.network
    use = training.use(Bench())
    assert use.least < use.seconds
    bench = Bench()
    bench.between(search.networks)
    assert len(bench.others) == 4 and search.networks[3] not in bench.others
    hyperband = items_of("05", kind="hyperband")[1]
    assert set(hyperband.networks) == {hyperband.networks[0]}


def test_a_network_that_is_there_already_is_taken_as_it_is(tmp_path):
    options = {"filters_1": 16, "filters_2": 32}
    made = {"recipe": "w207_tuned", "image_size": 32, "options": options}
    runs.write_json(tmp_path / "w207_tuned" / "config.json", made)
    plan = plans.Plan(config.load("sample"), {}, tmp_path, {}, COUNTS)
    least, most = plans.explored(plan, plan.settings())
    assert least == most and dict(most.options) == options


def test_costs_between_two_networks_follow_the_multiplications():
    sizes = (1, 2, (0, 0), (0, 0))
    low, high, cost = (network_costs.Cost(1, 2, work, *sizes[2:]) for work in (100, 300, 200))
    low = dataclasses.replace(low, first=1.0, step=1.0, predict=0.1)
    high = dataclasses.replace(high, first=3.0, step=5.0, predict=0.3)
    between = network_costs.between(cost, low, high)
    assert between.step == pytest.approx(3.0) and between.predict == pytest.approx(0.2)
    below = network_costs.between(dataclasses.replace(cost, work=20), low, high)
    assert below.step == pytest.approx(0.2)


# --- measuring -----------------------------------------------------------------------------


def test_a_network_is_measured_by_steps_of_its_training(monkeypatch):
    network = network_costs.Network("two_conv", 16, 8)
    cost = network_costs.measure(network, "float32", 10 * GIB)
    assert 0 < cost.predict < cost.step < 2 and cost.first > cost.step
    assert cost.parameters == 35_905 and cost.slots == 2
    assert cost.work == 14**2 * 27 * 32 + 5**2 * 288 * 64 + 256 * 64 + 64
    monkeypatch.setattr(network_costs, "PER_NETWORK", 0)  # as if it were slow
    slow = network_costs.measure(network, "float32", 10 * GIB)
    assert slow.step > cost.step / 4


def test_a_network_that_no_memory_holds_is_not_built(monkeypatch):
    monkeypatch.setattr(network_costs.models, "compile_model", None)
    network = network_costs.Network("w207_simple", 400, 32)
    cost = network_costs.measure(network, "float32", GIB)
    assert cost.parameters == 80_293_777 and math.isnan(cost.step) and cost.training[0] > GIB


# --- the whole -----------------------------------------------------------------------------


@pytest.fixture
def sample(home, tmp_path, make_tree, monkeypatch):
    """A home with a sample of 40 images and notebook 04 alone, where starting takes a second."""
    counts = {"train/REAL": 15, "train/FAKE": 15, "test/REAL": 5, "test/FAKE": 5}
    make_tree(home / "data" / "sample" / "images", counts, size=48)
    (home / "notebooks").mkdir()
    shutil.copy(next(NOTEBOOKS.glob("04_*.ipynb")), home / "notebooks")
    monkeypatch.setattr(costs.Bench, "startup", lambda self: 1.0)
    return home


def dry_run(capsys, *words):
    status = cli.main(["run", "--dry-run", *words])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_a_dry_run_measures_tells_and_leaves_nothing(sample, tmp_path, capsys, contents):
    before = contents(tmp_path)
    status, out, _ = dry_run(capsys, "-p", "epochs=1")
    assert status == 0 and contents(tmp_path) == before
    assert not (sample / "data" / "sample" / "cache").exists() and not config.runs_root().exists()
    assert "24 images for training, 6 for validation, 10 for testing" in out
    assert "04_what_does_a_simple_network_learn" in out and "one that stops early" in out
    assert "GiB needed" in out and "GiB free" in out and "NOT ENOUGH" not in out


def test_an_estimate_in_numbers(sample, tmp_path, monkeypatch):
    found = estimate.estimate(
        "sample",
        notebook_files.find(),
        parameters={"epochs": 4},
        root=tmp_path / "run",
        bench=Bench(40),
    )
    (row,) = found["notebooks"]
    step = 32 * 32**2 * 1e-5
    expected = 4 * (step + 6 * step / 128 + 24e6 / work.SAVE_RATE) + 30 * step / 128
    expected += 5 + 0.4 + 2.5 + 6  # starting, decoding, building, drawing
    assert row["seconds"] == pytest.approx(expected, abs=1.0)  # and finding the images
    assert row["disk"] == pytest.approx(5e6 + 12e6 + 3 * 40 * 32**2, rel=0.01)
    assert found["total"]["disk"] == row["disk"] + row["passing"] == row["disk"] + 24_000_000
    assert found["short"] == [] and row["least"] == row["seconds"]
    more = estimate.estimate(
        "sample",
        notebook_files.find(),
        parameters={"epochs": 8},
        root=tmp_path / "run",
        bench=Bench(40),
    )
    assert more["total"]["seconds"] > found["total"]["seconds"]
    json.dumps(found)


def test_shards_that_are_there_are_not_counted_again(sample, tmp_path):
    dataset = estimate.datasets.locate("sample")
    table = estimate.manifest.load(dataset)
    bench = costs.Bench(dataset, table, estimate.manifest.statistics(dataset), "float32")
    assert work.Decode(32).use(bench).disk == 40 * 3 * 32**2
    assert work.Decode(32).use(bench).disk == 0  # made by then
    assert 0 < bench.decode(32) < 1
    shards.build(dataset, table, 32)
    bench.sizes.clear()
    assert work.Decode(32).use(bench) == work.Use(0.0)


@pytest.mark.parametrize(
    ("free", "says"),
    [({"disk": 1}, "NOT ENOUGH disk: 0.0 GiB are needed and 0.0 GiB are free; free some"),
     ({"host": GIB}, "NOT ENOUGH memory: notebook 04 may need 1.5 GiB and 1.0 GiB are free"),
     ({"host": 9 * GIB, "device": 1},
      "NOT ENOUGH memory of the GPU: notebook 04 may need 0.3 GiB and 0.0 GiB are free")],
)  # fmt: skip
def test_a_lack_is_told_and_the_exit_status_is_0(sample, capsys, monkeypatch, free, says):
    memory = {"host": free.get("host", 9 * GIB), "device": free.get("device")}
    monkeypatch.setattr(estimate, "free_memory", lambda: memory)
    monkeypatch.setattr(estimate.devices, "free_bytes", lambda _: free.get("disk", 9 * GIB))
    monkeypatch.setattr(estimate, "Bench", lambda *_: Bench(40))
    status, out, _ = dry_run(capsys)
    assert status == 0 and [line for line in out.splitlines() if line.startswith(says)], out
    assert out.count("NOT ENOUGH") == 1


def test_times_that_could_not_be_measured_are_unknown(sample, tmp_path):
    class Full(Bench):
        def network(self, network):
            return dataclasses.replace(super().network(network), step=math.nan)

    found = estimate.estimate("sample", notebook_files.find(), root=tmp_path, bench=Full(40))
    assert "all together at most unknown" in "\n".join(estimate.lines(found))


def test_a_notebook_of_ones_own_counts_as_its_start(sample, tmp_path, make_notebook):
    make_notebook(sample / "notebooks", "11", "1 + 1")
    found = estimate.estimate("sample", notebook_files.find(), root=tmp_path, bench=Bench(40))
    assert [row["known"] for row in found["notebooks"]] == [True, False]
    assert found["notebooks"][1]["seconds"] == pytest.approx(5, abs=1)
    assert "a notebook of your own" in estimate.lines(found)[3]


def test_the_numbers_are_written_where_asked(sample, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(estimate, "Bench", lambda *_: Bench(40))
    status, _, _ = dry_run(capsys, "--json", str(tmp_path / "e.json"))
    written = json.loads((tmp_path / "e.json").read_text())
    assert status == 0 and written["profile"] == "sample" and len(written["notebooks"]) == 1
    assert cli.main(["run", "--json", "x"]) == cli.EXIT_WRONG_USE
    assert "--json came without --dry-run" in capsys.readouterr().err


def test_a_data_set_that_is_not_here_is_named_with_its_command(sample, capsys):
    status, out, err = dry_run(capsys, "--profile", "kaggle60k")
    assert status == cli.EXIT_WRONG_USE and "w207 data add kaggle60k" in err


def test_the_seed_and_the_validation_share_decide_the_counts(sample, tmp_path):
    def counts(**parameters):
        options = {"root": tmp_path, "bench": Bench(40), "parameters": parameters}
        return estimate.estimate("sample", notebook_files.find(), **options)["counts"]

    assert counts() == {"train": 24, "validation": 6, "test": 10}
    assert counts(validation_fraction=0.5) == {"train": 15, "validation": 15, "test": 10}


def test_noise_is_no_image_of_zeros():
    assert network_costs.noise(2, 8).std() > 50 and network_costs.noise(2, 8).dtype == np.uint8


def test_imported_data_are_read_from_their_own_cache(home, tmp_path, make_tree, monkeypatch):
    counts = {"train/REAL": 30, "train/FAKE": 30, "test/REAL": 3, "test/FAKE": 3}
    importing.add("cifake", make_tree(tmp_path / "tree", counts))
    monkeypatch.setattr(estimate.manifest, "_measure", None)
    found = estimate.estimate("cifake", [], root=tmp_path / "run", bench=Bench())
    assert found["counts"]["test"] == 6 and found["total"]["seconds"] == 0
