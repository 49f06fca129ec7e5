"""What chief and worker cost a trial, against one process: all but the training itself.

    python bench/search.py [--trials 50] [--repeats 5] [--csv FILE]

The same random search over Report 0's space, its trials reported at once, by Keras Tuner's oracle
in this process and by a chief in another one, over the loopback. Writes one row a way and
repeat: milliseconds a trial, from asking for it to having reported it, all files written.
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import tempfile
import time
from pathlib import Path

import pandas as pd

from w207lib import runs, tune
from w207lib.machine.devices import quiet_keras
from w207lib.running import chief, worker


def search(place: Path, trials: int):
    """Return a random search's oracle, its files in a folder as those of a search are."""
    quiet_keras()
    import keras_tuner

    space = keras_tuner.HyperParameters()
    for name, values in tune.SPACE.items():
        space.Choice(name, values)
    oracle = keras_tuner.oracles.RandomSearchOracle(
        keras_tuner.Objective(*tune.OBJECTIVE), max_trials=trials, seed=207, hyperparameters=space
    )
    oracle._set_project_dir(str(place), tune.PROJECT)
    oracle.verbose = 0
    oracle.save()
    (place / tune.PROJECT / "tuner0.json").write_text("{}")
    return oracle


def train(oracle, name: str, after=lambda: None) -> float:
    """Report every trial at once; return the milliseconds of one."""
    began, done = time.perf_counter(), 0
    while (trial := oracle.create_trial(name)).status == "RUNNING":
        oracle.update_trial(trial.trial_id, {"val_accuracy": 0.5, "loss": 0.5})
        trial.status = "COMPLETED"
        oracle.end_trial(trial)
        oracle.get_trial(trial.trial_id)
        after()
        done += 1
    return 1000 * (time.perf_counter() - began) / done


def alone(place: Path, trials: int) -> float:
    """One process: the oracle itself."""
    oracle = search(place, trials)

    def after():
        oracle.save()
        tune._keep(place)

    return train(oracle, "tuner0", after)


def serve(place: Path, trials: int, address: str) -> None:
    """Be the chief."""
    oracle = search(place, trials)
    chief.serve(oracle, {}, address, search_id="bench", keep=lambda: tune._keep(place), minutes=1)


def together(place: Path, trials: int) -> float:
    """A chief in a process of its own, and a worker here."""
    from keras_tuner.src.distribute.oracle_client import OracleClient

    with socket.create_server((chief.LOOPBACK, 0)) as taken:
        address = f"{chief.LOOPBACK}:{taken.getsockname()[1]}"
    context = multiprocessing.get_context("spawn")
    other = context.Process(target=serve, args=(place, trials, address))
    other.start()
    with worker.joined(address, "bench", {}, minutes=2) as line:
        client = OracleClient(None)
        client.stub = line
        took = train(client, "bench")
    other.join()
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    rows = []
    for repeat in range(options.repeats):
        for way in (alone, together):
            with tempfile.TemporaryDirectory() as folder:
                took = way(Path(folder), options.trials)
            rows.append({"way": way.__name__, "trials": options.trials, "repeat": repeat,
                         "milliseconds": round(took, 2)})  # fmt: skip
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    if options.csv:
        runs.write_table(options.csv, table)
    print(table.groupby("way")["milliseconds"].describe()[["min", "50%", "max"]])


if __name__ == "__main__":
    main()
