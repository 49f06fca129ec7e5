"""The commands ``w207 data add``, ``w207 data list``, ``w207 data card`` and ``w207 sync``."""

from __future__ import annotations

import signal
import sys

from w207lib import datasets, manifest
from w207lib.reading import importing, syncing
from w207lib.running import parallel


def add_data(options) -> int:
    """Import a data set and say what came in."""
    try:
        with parallel.cluster(options.cluster):
            dataset, table = importing.add(
                options.name, options.source, real=options.real, fake=options.fake
            )
    except KeyboardInterrupt:
        print("\nw207: stopped. The same command goes on with what is done.", file=sys.stderr)
        return 128 + signal.SIGINT
    print(f"data set {dataset.name}: {len(table):,} images in {dataset.root}")
    print(manifest.summary(table).to_string(index=False))
    faulty = table[table["status"] != "ok"]
    for row in faulty.head(10).itertuples():
        print(f"{row.status}: {row.path}: {row.reason}")
    if len(faulty) > 10:
        print(f"… and {len(faulty) - 10:,} more that cannot be read")
    print(f"digest {manifest.digest(table)[:16]}")
    return 0


def list_data(options) -> int:
    """Print the data sets on this machine, and the public ones."""
    for name in datasets.names():
        try:
            print(f"{name:16} {datasets.locate(name).root}")
        except ValueError as error:
            print(f"{name:16} {error}")
    others = [name for name in datasets.PUBLIC if name not in datasets.names()]
    if others:
        print("\npublic data sets that are not here (`w207 data card NAME` says more):")
    for name in others:
        public = datasets.PUBLIC[name]
        way = f"w207 data add {name}" + ("" if public.handle else " FOLDER_OR_ARCHIVE")
        print(f"{name:16} {way:40} about {public.images:,} images")
    return 0


def print_card(options) -> int:
    """Print what a public data set is, and its traps."""
    print(datasets.read_card(options.name))
    return 0


def sync_folder(options) -> int:
    """Copy a folder to an object store, or back."""
    try:
        copied, size, kept = syncing.sync(options.source, options.target)
    except KeyboardInterrupt:
        print("\nw207: stopped. The same command goes on with what is missing.", file=sys.stderr)
        return 128 + signal.SIGINT
    print(f"{copied:,} files copied ({size / 1e6:,.1f} MB) and verified; {kept:,} were there")
    return 0
