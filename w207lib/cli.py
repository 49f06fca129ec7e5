"""The command ``w207``: its words, and the exit status of what they ask for.

The commands are functions in the modules of ``commands``, imported when one is asked for, so that
help comes at once.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import logging
import os
import sys
from pathlib import Path

from w207lib import config

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
        module, _, function = options.run.partition(".")
        return getattr(importlib.import_module(f"w207lib.commands.{module}"), function)(options)
    except KeyboardInterrupt as stop:
        with contextlib.suppress(OSError):  # where nobody listens any more, as behind a closed ssh
            goes_on = hasattr(options, "resume")
            more = " What is finished is kept; --resume goes on." if goes_on else ""
            print(f"\nw207: stopped.{more}", file=sys.stderr)
        return getattr(stop, "exit_status", EXIT_INTERRUPTED)
    except (ValueError, TypeError, FileNotFoundError) as error:
        print(f"w207: {_one_line(error)}", file=sys.stderr)
        return EXIT_WRONG_USE
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except OSError as error:
        what = error.strerror or str(error)
        if error.errno == errno.ENOSPC and error.strerror and "disk is full" not in what:
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

    run = _command(
        commands, "run", "cli_run.run_notebooks", "execute the notebooks on a profile's data"
    )
    run.add_argument(
        "--profile",
        default="sample",
        metavar="NAME",
        help=", ".join(config.PROFILES),
    )
    run.add_argument("--resume", action="store_true", help="leave out what is already whole")
    run.add_argument("--only", action="append", metavar="NN", help="just this one (repeatable)")
    run.add_argument("--from", dest="first", metavar="NN", help="nothing before this one")
    run.add_argument("--to", dest="last", metavar="NN", help="nothing behind this one")
    run.add_argument("--dry-run", action="store_true", help="say what would be done, and its cost")
    run.add_argument(
        "--json", metavar="FILE", type=_here, help="write the dry run's estimate there"
    )
    run.add_argument("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE",
                     help="set a notebook's parameter (repeatable)")  # fmt: skip
    run.add_argument("--out", metavar="DIR", type=_here, help="run folder (runs/PROFILE)")

    data = commands.add_parser("data", help="import data sets, or list them")
    kinds = data.add_subparsers(metavar="ACTION", required=True)
    add = _command(
        kinds, "add", "cli_data.add_data", "import a folder, an archive, or a public data set"
    )
    add.add_argument("name", metavar="NAME", help="what to call it")
    add.add_argument("source", metavar="SOURCE", nargs="?",
                     help="a folder, a .zip, a .tar.*, s3://bucket/… of one, or "
                     "kaggle:owner/dataset (by NAME, if that is a public data set)")  # fmt: skip
    add.add_argument("--real", metavar="GLOB", help="which paths are photographs")
    add.add_argument("--fake", metavar="GLOB", help="which paths are generated images")
    _cluster_option(add)
    _command(
        kinds, "list", "cli_data.list_data", "list the data sets on this machine, and public ones"
    )
    card = _command(
        kinds, "card", "cli_data.print_card", "print what a public data set is, and its traps"
    )
    card.add_argument("name", metavar="NAME", help="a public data set, by name")

    audit = _command(
        commands,
        "audit",
        "cli_evidence.audit_data",
        "look for leaks, short cuts and faults in data",
    )
    audit.add_argument("place", metavar="NAME_OR_DIR", help="a data set's name, or a folder")
    _cluster_option(audit)
    audit.add_argument("--real", metavar="GLOB", help="which paths of a folder are photographs")
    audit.add_argument("--fake", metavar="GLOB", help="which paths of a folder are generated")
    audit.add_argument(
        "--predictions",
        metavar="FILE",
        type=_here,
        help="a run's predictions: accuracy with and without leaked images",
    )
    audit.add_argument("--json", metavar="FILE", type=_here, help="write the findings there")
    audit.add_argument(
        "--out",
        metavar="DIR",
        type=_here,
        help="write page, tables, figures and the images concerned there",
    )

    train = _command(
        commands, "train", "cli_train.train_recipes", "train recipes, with one seed or several"
    )
    train.add_argument("recipes", metavar="RECIPE", nargs="+",
                       help="networks by name: w207_simple …; transfer:<Backbone>; your own: "
                       "FILE.py:NAME; baselines: dummy:prior, random_forest, svm")  # fmt: skip
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
    train.add_argument("--start", metavar="RUN_OR_FILE", type=_here,
                       help="weights of the same layers to start from")  # fmt: skip
    train.add_argument("--tensorboard", action="store_true", help="write TensorBoard's logs")

    making = _command(commands, "fakes", "cli_generators.make_fakes",
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

    general = _command(commands, "generalise", "cli_generators.generalise",
                       "train with generators held out, to see what is found of them")  # fmt: skip
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
    general.add_argument("--out", metavar="DIR", type=_here, help="run folder (runs/NAME)")

    tune = _command(
        commands,
        "tune",
        "cli_train.search_hyperparameters",
        "search hyperparameters over Report 0's space",
    )
    _training_options(tune)
    tune.add_argument("--kind", default="random", choices=("random", "hyperband", "bayesian"),
                      help="how combinations are chosen (random)")  # fmt: skip
    tune.add_argument("--trials", type=int, metavar="N", help="most trials")
    tune.add_argument("--precision", choices=("float32", "mixed_bfloat16", "auto"),
                      help="of the trials' arithmetic (the profile's)")  # fmt: skip
    tune.add_argument("--resume", action="store_true", help="keep a search that is whole")
    role = tune.add_mutually_exclusive_group()
    role.add_argument("--chief", metavar="HOST:PORT",
                      help="give the trials to workers that join there")  # fmt: skip
    role.add_argument("--worker", metavar="HOST:PORT", help="train trials of the chief there")
    tune.add_argument("--name", metavar="ID", help="a worker's (its machine and process)")
    tune.add_argument("--wait", type=float, default=10, metavar="MINUTES",
                      help="how long chief and workers wait for each other (10)")  # fmt: skip

    evaluate = _command(
        commands, "evaluate", "cli_evidence.evaluate_table", "metrics from a predictions table"
    )
    evaluate.add_argument("source", metavar="RUN_OR_TABLE", type=_here,
                          help="a run folder, or predictions as .parquet or .csv")  # fmt: skip
    evaluate.add_argument("--by", metavar="COLUMN", help="one row a value of it, such as generator")
    evaluate.add_argument("--threshold", type=float, metavar="X",
                          help="instead of the one chosen on validation")  # fmt: skip
    evaluate.add_argument("--csv", metavar="FILE", type=_here, help="write all columns there")
    evaluate.add_argument(
        "--test",
        action="store_true",
        help="score the test split of a run's models first, and log it",
    )
    evaluate.add_argument(
        "--page",
        metavar="FILE",
        type=_here,
        help="write calibration, operating points and comparisons, too",
    )

    evaluate.add_argument("--audit", metavar="DIR", type=_here,
                          help="an audit's folder: the page leaves leaked ones out")  # fmt: skip

    predict = _command(commands, "predict", "cli_detector.judge_pictures",
                       "say of image files whether they resemble photographs or fakes")  # fmt: skip
    predict.set_defaults(refuse=predict.error)
    predict.add_argument("paths", metavar="PATH", nargs="*",
                         help="files, folders, patterns, s3://…; - reads a list")  # fmt: skip
    _cluster_option(predict)
    predict.add_argument("--models", action="store_true",
                         help="list the shipped detectors, and what each is good at")  # fmt: skip
    predict.add_argument("--model", default="compact", metavar="NAME_OR_FILE",
                         help="a shipped detector, or an .onnx file (compact)")  # fmt: skip
    for kind in ("--csv", "--json"):
        predict.add_argument(kind, metavar="FILE", type=lambda text: str(_here(text)),
                             help="write the rows there (- for the terminal)")  # fmt: skip

    export = _command(
        commands, "export", "cli_detector.export_network", "turn a trained network into a detector"
    )
    export.add_argument("folder", metavar="MODEL", type=_here,
                        help="a model's run folder: runs/cifake/models/compact")  # fmt: skip
    export.add_argument("--name", help="what to call it (the folder's name)")
    export.add_argument("--purpose", default="", metavar="TEXT",
                        help="a sentence on what it is good at")  # fmt: skip
    export.add_argument("--photographs", action="append", default=[], metavar="NAME",
                        help="a data set to count false accusations on (repeatable)")  # fmt: skip
    export.add_argument("--out", metavar="DIR", type=_here, help="where to (data/models)")

    publish = _command(
        commands, "publish", "cli_publish.publish_run", "copy a run's public part into results/"
    )
    publish.add_argument("folder", metavar="RUN", type=_here, help="a run folder: runs/cifake")
    publish.add_argument("--name", help="folder of results/ to replace (the run's profile)")

    sync = _command(
        commands, "sync", "cli_data.sync_folder", "copy a folder to an object store, or back"
    )
    sync.add_argument("source", metavar="FROM", help="a folder, or s3://bucket/prefix")
    sync.add_argument("target", metavar="TO", help="s3://bucket/prefix, or a folder")

    figures = _command(
        commands, "figures", "cli_publish.draw_figures", "draw the slides' figures anew"
    )
    figures.add_argument("names", nargs="*", metavar="NAME", help="just these (all)")

    slides = _command(
        commands, "slides", "cli_publish.build_slides", "build the presentation from slides/deck.md"
    )
    slides.add_argument("--profile", default="cifake", metavar="NAME",
                        help="the published run it is about (cifake)")  # fmt: skip

    app = _command(
        commands, "app", "cli_detector.open_page", "open the web page that judges pictures"
    )
    app.add_argument("--port", type=int, default=8501, metavar="N", help="port on 127.0.0.1 (8501)")
    app.add_argument("--model", default="compact", metavar="NAME_OR_FILE",
                     help="a shipped detector, or an .onnx file (compact)")  # fmt: skip

    store = _command(commands, "notebooks", "cli_run.store_outputs",
                     "execute the notebooks on the sample and store their outputs")  # fmt: skip
    store.add_argument("--only", action="append", metavar="NN",
                       help="just this one, after what it needs (repeatable)")  # fmt: skip
    colab = _command(commands, "colab", "cli_run.write_for_colab",
                     "write copies of the notebooks that set themselves up on Colab")  # fmt: skip
    colab.add_argument("--repository", required=True, metavar="URL",
                       help="what the first cell clones")  # fmt: skip
    colab.add_argument("--out", type=_here, default=Path("colab"), metavar="DIR",
                       help="folder for the copies (colab)")  # fmt: skip
    _command(commands, "doctor", "cli_run.print_doctor", "say what this machine has")
    return parser


def _command(commands, name: str, function: str, text: str) -> argparse.ArgumentParser:
    """Add a command; ``function`` is a module and its function, which takes the parsed options."""
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=function)
    return parser


def _here(text: str) -> Path:
    """Return a path on this machine; an address would be taken for a folder called ``s3:``."""
    from w207lib.reading import remote

    if remote.is_remote(text):
        raise argparse.ArgumentTypeError(
            f"{text} is an address; expected a path on this machine, which "
            f"`w207 sync` copies to a bucket and back"
        )
    return Path(text)


def _cluster_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cluster", metavar="ADDRESS",
                        help="read images on a Dask cluster: tcp://host:8786")  # fmt: skip


def _training_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", metavar="NAME", help="data set (the profile's, else sample)")
    parser.add_argument("--profile", metavar="NAME", help="settings (the data set's own)")
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help="side of the input")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of everything random")
    parser.add_argument("--out", metavar="DIR", type=_here, help="run folder (runs/PROFILE)")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _version() -> str:
    from w207lib import __version__

    return f"w207lib {__version__}"


if __name__ == "__main__":
    sys.exit(main())
