"""The commands ``w207 data add``, ``w207 data list`` and ``w207 data card``."""

from __future__ import annotations

import signal
import sys

from w207lib import datasets, importing, manifest


def add_data(options) -> int:
    """Import a data set and say what came in."""
    try:
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
