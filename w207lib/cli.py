"""The command ``w207``. Nothing heavy is imported before a command is known to need it."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import logging
import os
import re
import shlex
import sys
from pathlib import Path

EXIT_WRONG_USE = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Words behind ``w207``; None for the process's own.

    Returns:
        0 when all went well, 1 when the work failed, 2 for wrong use, 130 after Ctrl-C; of a
        run that a signal ended, 128 and the signal's number (SIGTERM: 143).
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a Windows console may lack a character
    try:
        return options.run(options)
    except KeyboardInterrupt as stop:
        _say("\nw207: stopped. What is finished is kept; --resume goes on.", sys.stderr)
        return getattr(stop, "exit_status", EXIT_INTERRUPTED)
    except (ValueError, TypeError, FileNotFoundError) as error:
        print(f"w207: {_one_line(error)}", file=sys.stderr)
        return EXIT_WRONG_USE
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except OSError as error:
        what = error.strerror or str(error)
        if error.errno == errno.ENOSPC and "disk is full" not in what:
            what = f"the disk is full ({error.filename or 'while writing'}); free some and go on"
        elif error.filename:
            what = f"{error.filename}: {what}"
        print(f"w207: {what}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        print(f"w207: {_one_line(error)}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "w207", description="Tell photographs from AI-generated images: data, runs, results."
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    run = _command(commands, "run", _run, "execute the notebooks on a profile's data")
    run.add_argument(
        "--profile",
        default="sample",
        metavar="NAME",
        help="sample, cifake, photos, art975, kaggle60k",
    )
    run.add_argument("--resume", action="store_true", help="leave out what is already whole")
    run.add_argument("--only", action="append", metavar="NN", help="just this one (repeatable)")
    run.add_argument("--from", dest="first", metavar="NN", help="nothing before this one")
    run.add_argument("--to", dest="last", metavar="NN", help="nothing behind this one")
    run.add_argument("--dry-run", action="store_true", help="say what would be done, and its cost")
    run.add_argument("--json", metavar="FILE", type=Path, help="write the dry run's estimate there")
    run.add_argument("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE",
                     help="set a notebook's parameter (repeatable)")  # fmt: skip
    run.add_argument("--out", metavar="DIR", type=Path, help="run folder (runs/PROFILE)")

    data = commands.add_parser("data", help="import data sets, or list them")
    kinds = data.add_subparsers(metavar="ACTION", required=True)
    add = _command(kinds, "add", _data_add, "import a folder, an archive, or a public data set")
    add.add_argument("name", metavar="NAME", help="what to call it")
    add.add_argument("source", metavar="SOURCE", nargs="?",
                     help="a folder, a .zip, a .tar.*, or kaggle:owner/dataset "
                     "(by NAME, if that is a public data set)")  # fmt: skip
    add.add_argument("--real", metavar="GLOB", help="which paths are photographs")
    add.add_argument("--fake", metavar="GLOB", help="which paths are generated images")
    _command(kinds, "list", _data_list, "list the data sets on this machine, and public ones")
    card = _command(kinds, "card", _data_card, "print what a public data set is, and its traps")
    card.add_argument("name", metavar="NAME", help="a public data set, by name")

    audit = _command(commands, "audit", _audit, "look for leaks, short cuts and faults in data")
    audit.add_argument("place", metavar="NAME_OR_DIR", help="a data set's name, or a folder")
    audit.add_argument("--real", metavar="GLOB", help="which paths of a folder are photographs")
    audit.add_argument("--fake", metavar="GLOB", help="which paths of a folder are generated")
    audit.add_argument(
        "--predictions",
        metavar="FILE",
        type=Path,
        help="a run's predictions: accuracy with and without leaked images",
    )
    audit.add_argument("--json", metavar="FILE", type=Path, help="write the findings there")
    audit.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="write page, tables, figures and the images concerned there",
    )

    train = _command(commands, "train", _train, "train recipes, with one seed or several")
    train.add_argument("recipes", metavar="RECIPE", nargs="+", help="networks or baselines by name")
    _training_options(train)
    train.add_argument("--seeds", type=int, default=1, metavar="N",
                       help="train each N times, with the seed and the next ones (1)")  # fmt: skip
    train.add_argument("--resume", action="store_true", help="leave out what is already whole")
    train.add_argument("--minutes", type=float, metavar="N",
                       help="begin no epoch of a network after this time")  # fmt: skip
    train.add_argument("--patience", type=int, metavar="N", help="epochs without a better loss")
    train.add_argument("--precision", choices=("float32", "mixed_bfloat16", "auto"),
                       help="of a network's arithmetic (the profile's)")  # fmt: skip
    train.add_argument("--epochs", type=int, metavar="N", help="most epochs")
    train.add_argument("--batch-size", type=int, metavar="N", help="images a training step")
    train.add_argument("--learning-rate", type=float, metavar="X", help="the optimizer's rate")
    train.add_argument("--augment", action="store_true", help="with random changes of the images")
    train.add_argument("--start", metavar="RUN_OR_FILE", type=Path,
                       help="weights of the same layers to start from")  # fmt: skip
    train.add_argument("--tensorboard", action="store_true", help="write TensorBoard's logs")

    making = _command(commands, "fakes", _fakes,
                      "make fakes of photographs, by generators trained on them")  # fmt: skip
    making.add_argument("data", metavar="NAME", help="a data set of one small square size")
    making.add_argument("--name", help="the new data set's (NAME-made)")
    making.add_argument("--makers", nargs="+", metavar="MAKER",
                        help="autoencoder, gan, dcgan, ddpm (all)")  # fmt: skip
    making.add_argument("--images", type=int, default=8000, metavar="N",
                        help="fakes of each for training (8000)")  # fmt: skip
    making.add_argument("--photographs", action="append", default=[], metavar="NAME",
                        help="add pieces of larger pictures (repeatable)")  # fmt: skip
    making.add_argument("--seed", type=int, default=207, metavar="N", help="of everything (207)")

    general = _command(commands, "generalise", _generalise,
                       "train with generators held out: what is found of the unseen?")  # fmt: skip
    general.add_argument("data", metavar="NAME", help="a data set with fakes of several families")
    general.add_argument("--recipe", default="three_conv", metavar="RECIPE",
                         help="a network by name (three_conv)")  # fmt: skip
    general.add_argument("--images", type=int, default=20_000, metavar="N",
                         help="training images of each (20000)")  # fmt: skip
    general.add_argument("--epochs", type=int, default=6, metavar="N", help="most epochs (6)")
    general.add_argument("--only", action="append", default=[], metavar="TRAINING",
                         help="such as without-GAN (repeatable; all)")  # fmt: skip
    general.add_argument("--seed", type=int, metavar="N", help="seed of everything random")
    general.add_argument("--resume", action="store_true", help="leave out what is already whole")
    general.add_argument("--out", metavar="DIR", type=Path, help="run folder (runs/NAME)")

    tune = _command(commands, "tune", _tune, "search hyperparameters over Report 0's space")
    _training_options(tune)
    tune.add_argument("--kind", default="random", choices=("random", "hyperband", "bayesian"),
                      help="how combinations are chosen (random)")  # fmt: skip
    tune.add_argument("--trials", type=int, metavar="N", help="most trials")

    evaluate = _command(commands, "evaluate", _evaluate, "metrics from a predictions table")
    evaluate.add_argument("source", metavar="RUN_OR_TABLE", type=Path,
                          help="a run folder, or predictions as .parquet or .csv")  # fmt: skip
    evaluate.add_argument("--by", metavar="COLUMN", help="one row for each of its values")
    evaluate.add_argument("--threshold", type=float, metavar="X",
                          help="instead of the one chosen on validation")  # fmt: skip
    evaluate.add_argument("--csv", metavar="FILE", type=Path, help="write all columns there")
    evaluate.add_argument(
        "--test",
        action="store_true",
        help="score the test split of a run's models first, and log it",
    )
    evaluate.add_argument(
        "--page",
        metavar="FILE",
        type=Path,
        help="write calibration, operating points and comparisons, too",
    )

    evaluate.add_argument("--audit", metavar="DIR", type=Path,
                          help="an audit's folder: the page leaves leaked ones out")  # fmt: skip

    predict = _command(commands, "predict", _predict,
                       "say of image files whether they resemble photographs or fakes")  # fmt: skip
    predict.set_defaults(refuse=predict.error)
    predict.add_argument("paths", metavar="PATH", nargs="*",
                         help="files, folders, patterns; - reads a list of them")  # fmt: skip
    predict.add_argument("--models", action="store_true",
                         help="list the shipped detectors, and what each is good at")  # fmt: skip
    predict.add_argument("--model", default="compact", metavar="NAME_OR_FILE",
                         help="a shipped detector, or an .onnx file (compact)")  # fmt: skip
    predict.add_argument("--csv", metavar="FILE", help="write the rows there (- for the terminal)")
    predict.add_argument("--json", metavar="FILE", help="write the rows there (- for the terminal)")

    export = _command(commands, "export", _export, "turn a trained network into a detector")
    export.add_argument("folder", metavar="MODEL", type=Path,
                        help="a model's run folder: runs/cifake/models/compact")  # fmt: skip
    export.add_argument("--name", help="what to call it (the folder's name)")
    export.add_argument("--purpose", default="", metavar="TEXT",
                        help="a sentence on what it is good at")  # fmt: skip
    export.add_argument("--photographs", action="append", default=[], metavar="NAME",
                        help="a data set to count false accusations on (repeatable)")  # fmt: skip
    export.add_argument("--out", metavar="DIR", type=Path, help="where to (data/models)")

    publish = _command(commands, "publish", _publish, "copy a run's public part into results/")
    publish.add_argument("folder", metavar="RUN", type=Path, help="a run folder: runs/cifake")
    publish.add_argument("--name", help="folder of results/ to replace (the run's profile)")

    figures = _command(commands, "figures", _figures, "draw the slides' figures anew")
    figures.add_argument("names", nargs="*", metavar="NAME", help="just these (all)")

    slides = _command(commands, "slides", _slides, "build the presentation from slides/deck.md")
    slides.add_argument("--profile", default="cifake", metavar="NAME",
                        help="the published run it is about (cifake)")  # fmt: skip

    app = _command(commands, "app", _app, "open the web page that judges pictures")
    app.add_argument("--port", type=int, default=8501, metavar="N", help="port on 127.0.0.1 (8501)")
    app.add_argument("--model", default="compact", metavar="NAME_OR_FILE",
                     help="a shipped detector, or an .onnx file (compact)")  # fmt: skip

    _command(commands, "notebooks", _notebooks,
             "execute the notebooks on the sample and store their outputs")  # fmt: skip
    _command(commands, "doctor", _doctor, "say what this machine has")
    return parser


def _command(commands, name: str, function, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=function)
    return parser


def _training_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", default="sample", metavar="NAME", help="data set (sample)")
    parser.add_argument("--profile", metavar="NAME", help="settings (the data set's own)")
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help="side of the input")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of everything random")
    parser.add_argument("--out", metavar="DIR", type=Path, help="run folder (runs/PROFILE)")


def _run(options) -> int:
    from w207lib import batch, config, report, runs

    settings = config.load(options.profile)
    notebooks = batch.choose(
        batch.find(), only=options.only, first=options.first, last=options.last
    )
    parameters = dict(_parse_parameter(text) for text in options.parameter)
    batch.check_parameters(notebooks, parameters)
    root = options.out or runs.run_root(settings)
    if options.dry_run:
        return _dry_run(options, notebooks, parameters, root)
    if options.json:
        raise ValueError("--json came without --dry-run, whose estimate it writes; give both.")
    from w207lib import datasets

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
            f"\nw207: stopped by {batch.stop_name(stop)}. Go on with: w207 {shlex.join(words)} "
            "--resume", sys.stderr,
        )  # fmt: skip
        return batch.exit_status(stop)
    page = report.write_page(root)
    _print_summary(summary, report.results_table(root))
    _say(f"\nexecuted notebooks  {root / 'notebooks'}\nfigures             {root / 'figures'}")
    _say(f"metrics             {root / report.METRICS}\nopen this page      {page}")
    return 0 if batch.succeeded(summary, notebooks) else 1


def _dry_run(options, notebooks, parameters, root) -> int:
    from w207lib import config, estimate, runs

    print(f"profile {options.profile}: {config.load(options.profile)}\nrun folder {root}")
    print("measuring some steps of each network; nothing is written", file=sys.stderr, flush=True)
    logging.getLogger("w207lib").setLevel(logging.INFO)
    found = estimate.estimate(options.profile, notebooks, parameters=parameters, root=root)
    print("\n".join(estimate.lines(found)))
    if options.json:
        runs.write_json(options.json, found)
    return 0


def _say(text: str, stream=None) -> None:
    """Print, even where nobody listens any more: an ssh that has closed ends no run."""
    with contextlib.suppress(OSError):
        print(text, file=stream or sys.stdout, flush=True)


def _print_summary(summary: dict, table) -> None:
    from w207lib import batch, report

    _say("\n" + "\n".join(batch.table_lines(summary)))
    if len(table):
        shares = [c for c in ("train", "validation", "test", "test_low", "test_high") if c in table]
        shown = report.as_percent(table, shares)
        _say("\n" + shown.to_string(index=False, na_rep="–", float_format=lambda v: f"{v:.3f}"))


def _data_add(options) -> int:
    from w207lib import importing, manifest

    try:
        dataset, table = importing.add(
            options.name, options.source, real=options.real, fake=options.fake
        )
    except KeyboardInterrupt:
        print("\nw207: stopped. The same command goes on with what is done.", file=sys.stderr)
        return EXIT_INTERRUPTED
    print(f"data set {dataset.name}: {len(table):,} images in {dataset.root}")
    print(manifest.summary(table).to_string(index=False))
    faulty = table[table["status"] != "ok"]
    for row in faulty.head(10).itertuples():
        print(f"{row.status}: {row.path}: {row.reason}")
    if len(faulty) > 10:
        print(f"… and {len(faulty) - 10:,} more that cannot be read")
    print(f"digest {manifest.digest(table)[:16]}")
    return 0


def _data_list(options) -> int:
    from w207lib import datasets

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


def _data_card(options) -> int:
    from w207lib import datasets

    print(datasets.read_card(options.name))
    return 0


def _settings(options, **changes):
    """Return the profile and run folder of a training command."""
    import dataclasses

    from w207lib import config, datasets, runs

    datasets.locate(options.data)
    name = options.profile or (options.data if options.data in config.PROFILES else "sample")
    settings = config.load(name, seed=options.seed, image_size=options.image_size, **changes)
    if options.data != settings.dataset:
        settings = dataclasses.replace(settings, name=options.data, dataset=options.data)
    return settings, (options.out or runs.run_root(settings)).resolve()


def _train(options) -> int:
    from w207lib import augmentation, baselines, experiments, models, pipeline, runs, train

    if options.seeds < 1:
        raise ValueError(f"--seeds {options.seeds}; expected at least 1.")
    if options.resume:
        os.environ[runs.RESUME_VARIABLE] = "1"
    settings, root = _settings(
        options, epochs=options.epochs, batch_size=options.batch_size, patience=options.patience,
        precision=options.precision,
    )  # fmt: skip
    paces = {}
    for recipe in options.recipes:
        if recipe not in baselines.names():
            models.build(recipe, settings.image_size)  # whatever is wrong shows here
            pace = models.find(recipe).pace
            paces[recipe] = {k: pace[k] for k in pace if getattr(options, k) is None}
    with runs.locked(root):
        data = pipeline.prepare(settings, root)
        for folder in experiments.train_seeds(
            options.recipes, data, settings, root / "models",
            seeds=range(settings.seed, settings.seed + options.seeds), paces=paces,
            minutes=options.minutes,
            learning_rate=options.learning_rate, tensorboard=options.tensorboard,
            augment=augmentation.DEFAULTS if options.augment else None, start=options.start,
        ):  # fmt: skip
            for row in train.read_metrics(folder)["scores"]:
                print(
                    f"{folder.name:20} {row['split']:10} accuracy {row['accuracy']:.4f} "
                    f"({row['accuracy_low']:.4f} to {row['accuracy_high']:.4f}), n {row['n']:,}",
                    flush=True,
                )
            print(f"run folder {folder}", flush=True)
    return 0


def _fakes(options) -> int:
    from w207lib import cli_generators

    return cli_generators.make_fakes(options)


def _generalise(options) -> int:
    from w207lib import cli_generators, runs

    if options.resume:
        os.environ[runs.RESUME_VARIABLE] = "1"
    options.profile, options.image_size = None, None
    settings, root = _settings(options, epochs=options.epochs, batch_size=64)
    return cli_generators.generalise(options, settings, root)


def _tune(options) -> int:
    from w207lib import pipeline, runs, tune

    settings, root = _settings(options, tuning_trials=options.trials)
    with runs.locked(root):
        data = pipeline.prepare(settings, root)
        folder = tune.search(data, settings, root / "tuning", kind=options.kind)
    print(tune.read_trials(folder).to_string(index=False))
    print(f"best {tune.read_best(folder)}\nsearch folder {folder}")
    return 0


def _audit(options) -> int:
    from w207lib import cli_evidence

    return cli_evidence.audit_data(options)


def _evaluate(options) -> int:
    from w207lib import cli_evidence

    return cli_evidence.evaluate_table(options)


def _predict(options) -> int:
    from w207lib import detector

    if options.models:
        for name in detector.names():
            print(f"{name:10} {detector.load(name).purpose}")
        return 0
    if not options.paths:
        options.refuse("PATH is missing: files, folders or patterns, or - for a list of them")
    if options.csv == "-" and options.json == "-":
        raise ValueError("--csv - and --json - both came; only one can have the terminal.")
    words = []
    for word in options.paths:
        words += _listed() if word == "-" else [word]
    if not words:
        raise ValueError("the list on standard input is empty; expected a path a line.")
    for target in (options.csv, options.json):
        if target in (None, "-"):
            continue
        if not Path(target).resolve().parent.is_dir():
            raise ValueError(f"{target}: there is no folder {Path(target).resolve().parent}.")
        if Path(target).is_dir():
            raise ValueError(f"{target} is a folder; expected a file to write.")
    files = detector.find_images(words)
    judge = detector.load(options.model)
    rows = judge.judge(files)
    if len(files) > 50:
        from tqdm import tqdm

        rows = tqdm(rows, total=len(files), unit="image", leave=False)
    table = detector.as_table(rows)
    for target, write in ((options.csv, _write_csv), (options.json, _write_json)):
        if target is not None:
            write(table, sys.stdout if target == "-" else target)
    if "-" not in (options.csv, options.json):
        _print_verdicts(table, judge)
    return 1 if (table["status"] == "unreadable").any() else 0


def _listed() -> list[str]:
    """Return the lines on standard input; a name that is no UTF-8 comes as on the command line."""
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="surrogateescape")
    lines = [line.rstrip("\r\n") for line in sys.stdin]  # splitlines would split within names
    return [line for line in lines if line.strip()]


def _write_csv(table, target) -> None:
    table.to_csv(target, index=False, lineterminator="\n")


def _write_json(table, target) -> None:
    rows = [{k: None if v != v else v for k, v in row.items()} for row in table.to_dict("records")]
    text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    if hasattr(target, "write"):
        target.write(text)
    else:
        Path(target).write_text(text, encoding="utf-8")


def _print_verdicts(table, judge, most: int = 100) -> None:
    shown = table.head(most).fillna({"label": "–"})
    print(shown.to_string(index=False, na_rep="–", float_format=lambda v: f"{v:.3f}"))
    if len(table) > most:
        print(f"… and {len(table) - most:,} more; --csv FILE writes them all")
    counts = table["label"].value_counts()
    parts = [f"{counts[name]:,} {name}" for name in ("REAL", "FAKE", "UNSURE") if name in counts]
    status = table["status"].value_counts()
    parts += [f"{status[name]:,} {name}" for name in ("outside", "unreadable") if name in status]
    card = judge.path.with_suffix(".md")
    print(
        f"\n{len(table):,} images: {', '.join(parts)}. A score says what an image resembles in "
        f"{judge.card['data']['title']}, and proves nothing; see {card}."
    )


def _export(options) -> int:
    from w207lib import config, export, pipeline

    folder = options.folder.resolve()
    root = folder.parent.parent
    for path, what in ((folder / "model.keras", "a trained network"), (root / "run.json", "a run")):
        if not path.is_file():
            raise ValueError(
                f"{options.folder}: {path} is missing, so it is not the folder of {what}; expected "
                "one such as runs/cifake/models/compact."
            )
    size = json.loads((folder / "model.json").read_text(encoding="utf-8"))["image_size"]
    settings = config.of_run(root, image_size=size)
    path = export.export(
        folder, pipeline.load_data(settings, root), root=root, name=options.name,
        target=options.out, photographs=tuple(options.photographs), purpose=options.purpose,
    )  # fmt: skip
    print(path.with_suffix(".md").read_text(encoding="utf-8"))
    print(f"detector {path}")
    return 0


def _publish(options) -> int:
    from w207lib import config, recipes, report

    if options.name and not re.fullmatch(r"[\w-]+", options.name):
        raise ValueError(f"--name {options.name!r}; expected letters, digits, _ and -.")
    target = config.results_root() / options.name if options.name else None
    print(f"published to {report.publish(options.folder, target=target)}")
    recipes.write()
    report.fill_readme()
    return 0


def _figures(options) -> int:
    from w207lib import figures

    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it remarks on fixed limits
    paths = figures.draw(options.names)
    for path in paths if options.names else ():
        print(path)
    size = sum(path.stat().st_size for path in paths) / 1e6
    print(f"{len(paths)} figures drawn in {figures.figures_root()} ({size:.1f} MB)")
    return 0


def _slides(options) -> int:
    from w207lib import slides

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


def _app(options) -> int:
    from w207lib import detector, serve

    serve.check_port(options.port)
    detector.load(options.model)  # whatever is wrong shows here
    print(f"The page opens at http://{serve.ADDRESS}:{options.port}   (Ctrl-C ends it)", flush=True)
    serve.run(options.port, options.model)
    return 0


def _notebooks(options) -> int:
    from w207lib import batch

    failed = batch.store_outputs()
    for line in failed:
        print(f"w207: {line}", file=sys.stderr)
    print("nothing was stored" if failed else "outputs stored in notebooks/")
    return 1 if failed else 0


def _doctor(options) -> int:
    from w207lib import doctor

    return doctor.print_doctor()


def _parse_parameter(text: str) -> tuple[str, object]:
    name, sign, value = text.partition("=")
    if not sign or not name.isidentifier():
        raise ValueError(f"-p {text!r} came; expected NAME=VALUE, such as -p epochs=3.")
    try:
        return name, json.loads(value)
    except ValueError:
        literals = {"None": None, "True": True, "False": False}
        return name, literals.get(value, value)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _version() -> str:
    from w207lib import __version__

    return f"w207lib {__version__}"


if __name__ == "__main__":
    sys.exit(main())
