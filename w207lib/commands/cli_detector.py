"""The commands ``w207 predict``, ``w207 export`` and ``w207 app``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from w207lib import detector
from w207lib.reading import named_files
from w207lib.running import parallel


def judge_pictures(options) -> int:
    """Say of image files what they resemble; 1 where one cannot be read."""
    if options.models:
        for name in detector.names():
            print(f"{name:10} {detector.load(name).purpose}")
        return 0
    if not options.paths:
        options.refuse("PATH is missing: files, folders or patterns, or - for a list of them")
    if options.csv == "-" and options.json == "-":
        raise ValueError("--csv - and --json - both came; only one can have the terminal.")
    words: list[str] = []
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
    files = named_files.find_images(words)
    judge = detector.load(options.model)
    rows = judge.judge(files)
    if len(files) > 50:
        from tqdm import tqdm

        rows = tqdm(rows, total=len(files), unit="image", leave=False)
    judged: list[dict] = []
    try:
        with parallel.cluster(options.cluster):
            judged.extend(rows)
    except (KeyboardInterrupt, OSError, RuntimeError):  # Ctrl-C, a store or a cluster that is lost
        if judged:  # hours of work may lie behind
            _hand_over(detector.as_table(judged), judge, options)
            targets = [name for name in (options.csv, options.json) if name not in (None, "-")]
            rows_are = f"are in {' and '.join(targets)}" if targets else "stand above"
            print(
                f"\nw207: {len(judged):,} of {len(files):,} images were judged; their rows "
                f"{rows_are}.",
                file=sys.stderr,
            )
        raise
    table = detector.as_table(judged)
    _hand_over(table, judge, options)
    return 1 if (table["status"] == "unreadable").any() else 0


def _hand_over(table, judge, options) -> None:
    """Write the rows of judged images where they were asked for, or print them."""
    for target, write in ((options.csv, _write_csv), (options.json, _write_json)):
        if target == "-" and hasattr(sys.stdout, "reconfigure"):  # as in a file, on Windows too
            sys.stdout.reconfigure(encoding="utf-8", errors="replace")
        if target is not None:
            write(table, sys.stdout if target == "-" else target)
    if "-" not in (options.csv, options.json):
        _print_verdicts(table, judge)


def export_network(options) -> int:
    """Turn a trained network into a detector, and print its card."""
    from w207lib import config, pipeline
    from w207lib.nets import export

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


def open_page(options) -> int:
    """Serve the web page that judges pictures, until Ctrl-C."""
    from w207lib.pages import serve

    serve.check_port(options.port)
    detector.load(options.model)  # whatever is wrong shows here
    print(f"The page opens at http://{serve.ADDRESS}:{options.port}   (Ctrl-C ends it)", flush=True)
    serve.run(options.port, options.model)
    return 0


def _listed() -> list[str]:
    """Return the lines on standard input; a name that is no UTF-8 comes as on the command line."""
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="surrogateescape")
    lines = [line.rstrip("\r\n") for line in sys.stdin]  # splitlines would split within names
    if any("\0" in line for line in lines):
        raise ValueError(
            "standard input holds a NUL byte, as an image and `find -print0` do; expected a list, "
            "a path a line. To judge one image, give its name instead of -."
        )
    return [line for line in lines if line.strip()]


def _write_csv(table, target) -> None:
    text = detector.as_csv(table)
    if hasattr(target, "write"):
        target.write(text)
    else:
        Path(target).write_text(text, encoding="utf-8", newline="")


def _write_json(table, target) -> None:
    rows = [{k: None if v != v else v for k, v in row.items()} for row in table.to_dict("records")]
    text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    if hasattr(target, "write"):
        target.write(text)
    else:
        Path(target).write_text(text, encoding="utf-8")


def _printable(name: str) -> str:
    """Return a name whose control characters, which could steer a terminal, are spelt out."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def _print_verdicts(table, judge) -> None:
    most = 100
    shown = table.head(most).fillna({"label": "–"})
    shown = shown.assign(path=shown["path"].map(_printable))
    print(shown.to_string(index=False, na_rep="–", float_format=lambda v: f"{v:.3f}"))
    if len(table) > most:
        print(f"… and {len(table) - most:,} more; --csv FILE writes them all")
    counts = table["label"].value_counts()
    parts = [f"{counts[name]:,} {name}" for name in ("REAL", "FAKE", "UNSURE") if name in counts]
    status = table["status"].value_counts()
    parts += [f"{status['unreadable']:,} unreadable"] if "unreadable" in status else []
    beyond = f"; {status['outside']:,} outside what it knows" if "outside" in status else ""
    card = judge.path.with_suffix(".md")
    many = "image" if len(table) == 1 else "images"
    print(
        f"\n{len(table):,} {many}: {', '.join(parts)}{beyond}. A score says what an "
        f"image resembles in {judge.card['data']['title']}, and proves nothing; see {card}."
    )
