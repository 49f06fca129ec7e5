#!/usr/bin/env python3
"""The project's commands, on any system: `python make.py TARGET [ARGUMENTS]`.

Standard library only; the Makefile only calls it. Everything lives in `.venv`, which each
target makes when it is missing or out of date.
"""

import contextlib
import glob
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

OLDEST, NEWEST = (3, 11), (3, 13)
START = time.time()
ROOT = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(ROOT, ".venv")
BIN = os.path.join(VENV, "Scripts" if os.name == "nt" else "bin")
PYTHON = os.path.join(BIN, "python.exe" if os.name == "nt" else "python")
W207 = os.path.join(BIN, "w207.exe" if os.name == "nt" else "w207")
STAMP = os.path.join(VENV, "w207-setup.json")
LOG = os.path.join(VENV, "w207-setup.log")
CONSTRAINTS = os.path.join(ROOT, "constraints.txt")
EXTRAS = ("app", "cloud", "dev", "docs", "export", "gpu", "grading", "slides", "vit")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "msedge")
ELSEWHERE = ("tensorflow==2.21.*", "appnope", "colorama")  # not in the resolution on Linux


def check_python(version, executable):
    """Leave with one sentence unless this Python can run the project."""
    if not OLDEST <= tuple(version[:2]) <= NEWEST:
        this = ".".join(str(part) for part in version[:3])
        name = "py -3.13" if os.name == "nt" else "python3.13"
        sys.exit(
            f"w207lib needs Python 3.11, 3.12 or 3.13, and this is Python {this} ({executable}): "
            f"install one of those and name it, e.g. `{name} make.py run`."
        )


check_python(sys.version_info, sys.executable)  # before anything an older Python cannot run


def call(command, **env):
    """Run a command in the project's folder, leaving Ctrl-C to it; return its exit status.

    It finds `w207` first in `.venv`, and so do JupyterLab's terminals.
    """
    path = os.pathsep.join(filter(None, [BIN, os.environ.get("PATH")]))
    env = {**os.environ, "PATH": path, **env}
    return wait(lambda: subprocess.Popen(command, cwd=ROOT, env=env))


def wait(start):
    """Leave Ctrl-C to the process that `start()` returns until it ends; return its exit status."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        status = start().wait()
    finally:
        signal.signal(signal.SIGINT, before)
    return status if status >= 0 else 128 - status


def digest():
    """Return a short hash of the two files that decide what is installed."""
    content = b""
    for name in ("pyproject.toml", "constraints.txt"):
        with open(os.path.join(ROOT, name), "rb") as file:
            content += file.read()
    return hashlib.sha256(content).hexdigest()[:16]


def read_stamp():
    """Return what the last setup wrote, or an empty dict."""
    try:
        with open(STAMP, encoding="utf-8") as file:
            return dict(json.load(file))
    except (OSError, ValueError):
        return {}


def write_stamp(extras, complete):
    """Write down what is being installed, and whether it all was."""
    content = {"root": ROOT, "digest": digest(), "extras": sorted(extras), "complete": complete}
    with open(STAMP, "w", encoding="utf-8") as file:
        json.dump(content, file)


def plan(extras, stamp):
    """Return ("ready" | "install" | "remake", all extras to install), by what the stamp says.

    Extras add up: what an earlier target installed stays. An install that was broken off may have
    left half a package, and one that was copied here points to its original: both are made anew.
    """
    had = set(stamp.get("extras", ())) & set(EXTRAS)
    if stamp and not (stamp.get("complete") and stamp.get("root") == ROOT):
        return "remake", had | set(extras)
    ready = stamp.get("digest") == digest() and set(extras) <= had
    return ("ready" if ready else "install"), had | set(extras)


def install_commands(extras):
    """Return the pip commands that install the project with these extras, as argument lists."""
    pip = [PYTHON, "-m", "pip"]
    install = [*pip, "install", "--retries", "2", "--progress-bar", "off", "-c", CONSTRAINTS]
    target = f".[{','.join(sorted(extras))}]" if extras else "."
    commands = [[*install, "-e", target]]
    if "gpu" in extras and sys.platform == "linux":
        # tensorflow-cpu and tensorflow own the same files: the last one written must be the GPU's.
        commands.append([*pip, "uninstall", "-y", "tensorflow-cpu"])
        commands.append([*install, "--no-deps", "--force-reinstall", "tensorflow==2.21.*"])
    if "vit" in extras:  # it asks for tensorflow and tensorflow-text, and a ViT needs neither
        commands.append([*install, "--no-deps", "keras-hub==0.32.*"])
    return commands


def explain(output):
    """Turn pip's (or venv's) output into one sentence with the way out."""
    if re.search(r"No space left|Errno 28|not enough space", output):
        return "the disk is full: free some space (the environment takes about 3 GB)."
    if re.search(r"ensurepip is not|No module named '?(ensurepip|venv)", output):
        package = "python{}.{}-venv".format(*sys.version_info[:2])
        return f"this Python lacks its venv module (on Debian: `sudo apt install {package}`)."
    if re.search(r"NewConnection|Failed to establish|timed out|ProxyError|versions: none", output):
        return "the package index cannot be reached: check the network, proxy and pip's settings."
    last = "\n  ".join([line for line in output.splitlines() if line.strip()][-12:])
    return f"its last lines (the rest is in {LOG}):\n  {last}"


def logged(command):
    """Run an install command, its output into the log; leave with a sentence if it fails."""
    output, count, shown = "", 0, sys.stdout.isatty()
    os.makedirs(VENV, exist_ok=True)
    with open(LOG, "a", encoding="utf-8", errors="replace") as log:
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace"
        ) as process:
            for line in process.stdout or ():
                log.write(line)
                output = output[-20000:] + line
                word, _, what = line.partition(" ")
                if word in ("Collecting", "Processing"):
                    count, what = count + 1, os.path.basename(what.split()[0])
                elif line.startswith("Installing collected"):
                    what = "all here; writing the files (a minute or two) ..."
                else:
                    continue
                text = f"  {time.time() - START:4.0f} s  {count:3d} packages  {what}"
                if shown or count % 50 == 0 or word == "Installing":
                    print("\r" * shown + text[:78].ljust(78), end="\n"[shown:], flush=True)
    print("\n" if shown and count else "", end="")
    if process.returncode:
        sys.exit(f"Setting up {VENV} failed: {explain(output)}")


def venv_works():
    """Say whether the environment's Python runs, has pip, and is a version we support."""
    code = f"import sys, pip; sys.exit(not {OLDEST} <= sys.version_info[:2] <= {NEWEST})"
    command = [PYTHON, "-c", code]
    return os.path.exists(PYTHON) and not subprocess.call(command, stderr=subprocess.DEVNULL)


def ensure(*extras):
    """Make `.venv` hold the project and these extras; do nothing when it does already."""
    action, everything = plan(extras, read_stamp())
    works = venv_works() if action == "install" else os.path.exists(PYTHON)
    if action == "ready" and works:
        return
    needed = 9 if "gpu" in everything else 4
    free = shutil.disk_usage(ROOT).free / 2**30
    if not works and free < needed:
        sys.exit(f"Setting up needs {needed} GB, and {ROOT} has {free:.1f} GB: free some space.")
    names = "".join(f" [{extra}]" for extra in sorted(everything))
    print(f"Setting up .venv{names}: two to five minutes the first time ...", flush=True)
    if action == "remake" or not works:
        clean_env([])
        logged([getattr(sys, "_base_executable", "") or sys.executable, "-m", "venv", VENV])
    write_stamp(everything, complete=False)
    for command in install_commands(everything):
        logged(command)
    write_stamp(everything, complete=True)
    print(f"Ready after {time.time() - START:.0f} s.", flush=True)


def setup(arguments):  # a target takes the arguments that follow it, and returns an exit status
    """Make the environment; `--gpu`, `--dev`, `--app`, ... add that extra."""
    known = ["--" + extra for extra in EXTRAS]
    if set(arguments) - set(known):
        sys.exit(f"setup does not know {' '.join(arguments)}; it takes {' '.join(known)}.")
    if "--gpu" in arguments and sys.platform != "linux":
        sys.exit("TensorFlow has a GPU build for Linux alone (on Windows: use WSL 2).")
    ensure(*(word[2:] for word in arguments))
    return 0


def run(arguments):
    """Execute notebooks 01-06 on the sample; arguments go to `w207 run`."""
    chosen = {"--only", "--from", "--to", "--help"}.intersection(arguments)
    return run_all([*([] if chosen else ["--to", "06"]), *arguments])


def run_all(arguments):
    """Execute all notebooks on the sample, with explanation, attacks and transfer."""
    ensure()
    return call([W207, "run", "--profile", "sample", *arguments])


def names_in(folder, ending):
    """Return the sorted names of a folder's files of one kind; none where there is no folder."""
    found = glob.glob(os.path.join(glob.escape(folder), "*" + ending))
    return sorted(os.path.basename(path) for path in found)


def find_browser():
    """Return a program that shows web pages without a window: `W207_BROWSER`, or Chromium's kin."""
    found = filter(None, map(shutil.which, BROWSERS))
    return os.environ.get("W207_BROWSER") or next(found, None)


def get_browser():
    """Install a browser for the page's test, as root with the libraries it needs."""
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    install = [PYTHON, "-m", "playwright", "install", *(["--with-deps"] if root else [])]
    if call([*install, "chromium"]) and root and shutil.which("apt-get"):
        call(["apt-get", "update"])
        call(["apt-get", "install", "-y", "--no-install-recommends", "chromium"])


def test(arguments, marker="not slow"):
    """Run the tests, then every notebook against its stored outputs; or `pytest ARGUMENTS`."""
    ensure("app", "cloud", "dev", "export", "grading", "slides", "vit")
    if os.environ.get("CI") and not find_browser():
        get_browser()
    pytest = [PYTHON, "-m", "pytest"]
    if arguments:
        return call([*pytest, *arguments])
    fit = processes_that_fit()
    commands = [[*pytest, "tests"]]
    if marker:
        commands[0] += ["-m", marker]
        if fit > 1:  # not the slow ones, too: they time kills, and count them in one process
            commands[0] += ["-n", str(fit), "--dist", "loadfile"]
    if names_in(os.path.join(ROOT, "notebooks"), ".ipynb"):
        commands.append([*pytest, "--nbval", "notebooks", "-p", "no:cacheprovider"])
    with contextlib.ExitStack() as stack:  # both always run, neither in the user's own runs
        runs = [
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix="w207-runs-", ignore_cleanup_errors=True)
            )
            for _ in commands
        ]
        if fit > 1 and len(commands) == 2:
            print(
                "The notebooks are executed meanwhile; what they say comes after the tests.",
                flush=True,
            )
            told = stack.enter_context(tempfile.TemporaryFile())
            env = {**os.environ, "W207_RUNS": runs[1]}
            notebooks = subprocess.Popen(
                commands.pop(), cwd=ROOT, env=env, stdout=told, stderr=subprocess.STDOUT
            )
        status = [call(command, W207_RUNS=runs[place]) for place, command in enumerate(commands)]
        if len(status) < len(runs):
            status.append(wait(lambda: notebooks))
            told.seek(0)
            print(told.read().decode(errors="replace"), flush=True)
    if any(status) and not status[-1]:
        print("The notebooks passed; the tests before them did not (see above).")
    return next(filter(None, status), 0)


def processes_that_fit():
    """Return how many test processes fit side by side: one a processor, and 6 GB each."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # Windows says it otherwise
        return 1
    return max(1, min(os.cpu_count() or 1, int(memory / 6e9)))


def test_full(arguments):
    """Run the slow tests too, and write the table of docs/reliability.md from what they tried.

    It takes hours; with `pytest` arguments it runs a part, whose rows replace those of before.
    """
    table = os.path.join(ROOT, "bench", "results", "reliability.csv")
    os.environ["W207_RELIABILITY"] = table
    if not arguments and os.path.exists(table):
        os.remove(table)
    status = test(arguments, marker="")
    return status or call([PYTHON, os.path.join("bench", "_reliability.py")])


def copy_notebooks(source, target):
    """Copy the notebooks that `target` lacks, overwrite none; return the names that differ."""
    os.makedirs(target, exist_ok=True)
    kept = []
    for name in names_in(source, ".ipynb"):
        old, new = os.path.join(source, name), os.path.join(target, name)
        if not os.path.lexists(new):
            shutil.copyfile(old, new + ".partial")
            os.rename(new + ".partial", new)
        else:
            with open(old, "rb") as first, open(new, "rb") as second:
                if first.read() != second.read():
                    kept.append(name)
    return kept


def lab(arguments):
    """Open JupyterLab on your own copy of the notebooks, in work/."""
    ensure()
    kept = copy_notebooks(os.path.join(ROOT, "notebooks"), os.path.join(ROOT, "work"))
    mine = os.path.join(ROOT, "work", "exercises")
    kept += copy_notebooks(os.path.join(ROOT, "exercises"), mine)
    if kept:
        print("Kept as you left them in work/ (delete one to get it fresh): " + ", ".join(kept))
    kernel = ["--sys-prefix", "--name", "w207lib", "--display-name", "Python (w207lib)"]
    logged([PYTHON, "-m", "ipykernel", "install", *kernel])
    first = [os.path.join("work", name) for name in names_in(os.path.join(ROOT, "work"), ".ipynb")]
    root = f"--ServerApp.root_dir={ROOT}"  # links lead out of work/, to the glossary for instance
    return call([PYTHON, "-m", "jupyterlab", root, *first[:1], *arguments])


def notebooks(arguments):
    """Execute, strip and store the notebooks (for those who change them)."""
    ensure("dev")
    return call([W207, "notebooks", *arguments])


def exercises(arguments):
    """Make the student versions from exercises/masters/, or `grade FOLDER` of submissions."""
    ensure("grading")
    return call([PYTHON, "-m", "w207lib.exercises", *(arguments or ["build"])])


def lint(arguments):
    """Check style with ruff and types with mypy; `--fix` repairs what ruff can."""
    ensure("dev")
    status = [
        call([PYTHON, "-m", "ruff", "check", *arguments]),
        call([PYTHON, "-m", "ruff", "format", *([] if arguments else ["--check"])]),
        call([PYTHON, "-m", "mypy"]),
    ]
    return next(filter(None, status), 0)


def figures(arguments):
    """Draw the slides' figures anew from results/ and the sample; or just those named."""
    ensure()
    return call([W207, "figures", *arguments])


def slides(arguments):
    """Build the presentation from slides/deck.md: a .pptx and one offline .html file."""
    ensure("slides")
    return call([W207, "slides", *arguments])


def app(arguments):
    """Open the web page that judges pictures; arguments go to `w207 app`."""
    ensure("app")
    return call([W207, "app", *arguments])


def site(arguments):
    """Build a website of README, docs, notebooks and docstrings, in site/."""
    ensure("docs")
    return call([PYTHON, os.path.join("docs", "site.py"), *arguments])


def bench(arguments):
    """Run the measurements in bench/, or the one named, and write docs/benchmarks.md."""
    names = [name[:-3] for name in names_in(os.path.join(ROOT, "bench"), ".py") if name[0] != "_"]
    if not names:
        print("bench/ holds no measurement yet.")
        return 0
    if arguments and arguments[0] not in names:
        sys.exit(f"bench/ has no {arguments[0]}; it has {', '.join(names)}.")
    ensure("dev")
    todo = [os.path.join("bench", name + ".py") for name in arguments[:1] or names]
    todo += [path for path in [os.path.join("bench", "_page.py")] if os.path.isfile(path)]
    status = [call([PYTHON, path, *arguments[1:]]) for path in todo]
    return next(filter(None, status), 0)


def doctor(arguments):
    """Say what this machine has, and what is missing."""
    ensure()
    return call([W207, "doctor", *arguments])


def clean_env(arguments):
    """Remove .venv (data, runs and work stay)."""
    if os.path.lexists(VENV):
        shutil.rmtree(VENV)
    return 0


def resolve(python, *arguments):
    """Let pip choose versions without installing; return {name: version}."""
    pip = [python, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed", "--report", "-"]
    report = subprocess.run([*pip, *arguments], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    found = (item["metadata"] for item in json.loads(report)["install"])
    pins = {re.sub(r"[-_.]+", "-", item["name"]).lower(): item["version"] for item in found}
    return {name: version for name, version in pins.items() if name != "w207lib"}


def constraints(arguments):
    """Pin every package of every extra anew, in constraints.txt (for those who maintain it)."""
    if sys.version_info[:2] != OLDEST or sys.platform != "linux":
        sys.exit("Run this on Linux by Python 3.11: what the oldest Python takes, the newer take.")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.check_call([sys.executable, "-m", "venv", folder])
        python = os.path.join(folder, "bin", "python")
        subprocess.check_call([python, "-m", "pip", "install", "-q", "--upgrade", "pip"])
        # 3.11.0: a package may ask for 3.11.5, and Debian 12 has 3.11.2.
        wheels = ["--python-version", "3.11.0", "--only-binary=:all:", "--target", folder]
        pins = resolve(python, *wheels, f".[{','.join(EXTRAS)}]", *ELSEWHERE)
        pins.update(resolve(python, *wheels, "--platform", "win_amd64", "--no-deps", "pywinpty"))
    with open(CONSTRAINTS, "w", encoding="utf-8", newline="\n") as file:
        file.write("# Every package of every extra, for Python 3.11 to 3.13 on Linux, macOS and\n")
        file.write("# Windows. Made by `python make.py constraints`.\n")
        file.writelines(f"{name}=={version}\n" for name, version in sorted(pins.items()))
    print(f"{len(pins)} packages pinned in {CONSTRAINTS}")
    return 0


FUNCTIONS = (
    setup, run, run_all, lab, test, test_full, lint, notebooks, figures, slides, app, exercises,
    site, bench, doctor, constraints, clean_env,
)  # fmt: skip
TARGETS = {function.__name__.replace("_", "-"): function for function in FUNCTIONS}


def main(arguments):
    """Run the target that the first argument names."""
    if not arguments or arguments[0] in ("help", "-h", "--help"):
        print("usage: python make.py TARGET [ARGUMENTS]    or: make TARGET [ARGS='...']\n")
        for name, function in TARGETS.items():
            print(f"  {name:<12} {str(function.__doc__).splitlines()[0]}")
        return 0
    if arguments[0] not in TARGETS:
        sys.exit(f"make.py has no target {arguments[0]!r}; it has: {', '.join(TARGETS)}.")
    try:
        return TARGETS[arguments[0]](arguments[1:])
    except KeyboardInterrupt:
        print("\nStopped; the same command begins anew.", file=sys.stderr)
        return 130
    except OSError as error:
        sys.exit(f"make.py {arguments[0]}: {error}. If .venv is damaged: python make.py clean-env")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
