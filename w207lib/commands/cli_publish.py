"""The commands ``w207 publish``, ``w207 figures`` and ``w207 slides``."""

from __future__ import annotations

import logging
import re
import sys

from w207lib import config, figures, slides
from w207lib.pages import publishing, readme, recipes


def publish_run(options) -> int:
    """Copy a run's public part into ``results/``, and its numbers into README and docs."""
    if options.name and not re.fullmatch(r"[\w-]+", options.name):
        raise ValueError(f"--name {options.name!r}; expected letters, digits, _ and -.")
    target = config.results_root() / options.name if options.name else None
    print(f"published to {publishing.publish(options.folder, target=target)}")
    recipes.write()
    readme.fill()
    return 0


def draw_figures(options) -> int:
    """Draw figures anew from the files in ``results/``."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it remarks on fixed limits
    paths = figures.draw(options.names)
    for path in paths if options.names else ():
        print(path)
    size = sum(path.stat().st_size for path in paths) / 1e6
    print(f"{len(paths)} figures drawn in {figures.figures_root()} ({size:.1f} MB)")
    return 0


def build_slides(options) -> int:
    """Build the presentation, and say which of its numbers changed."""
    built = slides.build(options.profile)
    for placeholder, old, new in built.changed:
        print(f"changed: {placeholder}: {old} -> {new}")
    print(f"{len(built.changed)} numbers changed since the last build")
    for name in built.stale:
        print(f"w207: figure {name} is older than its data, and marked STALE on its slide; "
              "draw it anew: w207 figures", file=sys.stderr)  # fmt: skip
    for path in built.files:
        print(path)
    return 0
