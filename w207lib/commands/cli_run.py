"""The commands ``w207 run``, ``w207 notebooks``, ``w207 colab`` and ``w207 doctor``."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import shlex
import sys
from pathlib import Path

from w207lib import batch, config, datasets, report, runs
from w207lib.machine import doctor
from w207lib.pages import run_page
from w207lib.running import colab, estimate, notebook_files, signals


def run_notebooks(options) -> int:
    """Execute notebooks on a profile's data, and write the page that shows them."""
    settings = config.load(options.profile)
    notebooks = notebook_files.choose(
        notebook_files.find(), only=options.only, first=options.first, last=options.last
    )
    parameters = dict(_parse_parameter(text) for text in options.parameter)
    notebook_files.check_parameters(notebooks, parameters)
    root = options.out or runs.run_root(settings)
    if options.dry_run:
        return _dry_run(options, notebooks, parameters, root)
    if options.json:
        raise ValueError("--json came without --dry-run, whose estimate it writes; give both.")
    datasets.locate(settings.dataset)
    root = Path(root).expanduser().resolve()
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:  # its lines come from the log, or are bars
            handler.setLevel(logging.WARNING)
    follow = "Get-Content -Wait" if sys.platform == "win32" else "tail -f"
    _say(f"follow the run with: {follow} {shlex.quote(str(root / runs.LOG))}", sys.stderr)
    try:
        with contextlib.nullcontext() if batch.has_terminal() else batch.log_shown(root):
            summary = batch.run(
                options.profile, notebooks=notebooks, parameters=parameters, out=options.out,
                resume=options.resume,
            )  # fmt: skip
    except KeyboardInterrupt as stop:
        words = [w for w in sys.argv[1:] if w != "--resume"] or ["run"]
        _say(
            f"\nw207: stopped by {signals.stop_name(stop)}. Go on with: w207 {shlex.join(words)} "
            "--resume", sys.stderr,
        )  # fmt: skip
        return signals.exit_status(stop)
    page = run_page.write(root)
    _print_summary(summary, report.results_table(root))
    made = {"executed notebooks": "notebooks", "figures": "figures", "metrics": report.METRICS}
    _say("")
    for what, name in made.items():
        if (root / name).exists():
            _say(f"{what:18}  {root / name}")
    _say(f"open this page      {page}")
    return 0 if batch.succeeded(summary, notebooks) else 1


def _dry_run(options, notebooks, parameters, root) -> int:
    settings = dataclasses.asdict(config.load(options.profile))
    told = ", ".join(f"{key}={value}" for key, value in settings.items() if key != "name")
    print(f"profile {options.profile}: {told}\nrun folder {root}")
    print("measuring some steps of each network; nothing is written", file=sys.stderr, flush=True)
    logging.getLogger("w207lib").setLevel(logging.INFO)
    found = estimate.estimate(options.profile, notebooks, parameters=parameters, root=root)
    print("\n".join(estimate.lines(found)))
    if options.json:
        runs.write_json(options.json, found)
    return 0


def store_outputs(options) -> int:
    """Execute the notebooks on the sample and store their outputs."""
    failed = batch.store_outputs(options.only)
    for line in failed:
        print(f"w207: {line}", file=sys.stderr)
    print("nothing was stored" if failed else "outputs stored in notebooks/")
    return 1 if failed else 0


def write_for_colab(options) -> int:
    """Write copies of the notebooks that set themselves up on Google Colab."""
    files = colab.write(options.repository, options.out)
    print(f"{len(files)} notebooks in {options.out}: open them on Colab by File, Upload notebook")
    return 0


def print_doctor(options) -> int:
    """Say what this machine has."""
    return doctor.print_doctor()


def _say(text: str, stream=None) -> None:
    """Print, even where nobody listens any more: an ssh that has closed ends no run."""
    with contextlib.suppress(OSError):
        print(text, file=stream or sys.stdout, flush=True)


def _print_summary(summary: dict, table) -> None:
    _say("\n" + "\n".join(batch.table_lines(summary)))
    if len(table):
        shares = [c for c in ("train", "validation", "test", "test_low", "test_high") if c in table]
        shown = report.as_percent(table, shares)
        _say("\n" + shown.to_string(index=False, na_rep="–", float_format=lambda v: f"{v:.3f}"))
        if (table["model"] == report.EYE).any():
            _say(report.EYE_NOTE)


def _parse_parameter(text: str) -> tuple[str, object]:
    name, sign, value = text.partition("=")
    if not sign or not name.isidentifier():
        raise ValueError(f"-p {text!r} came; expected NAME=VALUE, such as -p epochs=3.")
    try:
        return name, json.loads(value)
    except ValueError:
        literals = {"None": None, "True": True, "False": False}
        return name, literals.get(value, value)
