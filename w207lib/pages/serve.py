"""Serving the web page: on this computer alone, within limits, and without a file written."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import socket
from pathlib import Path

from w207lib.pages import uploads
from w207lib.plotting import style

ADDRESS = "127.0.0.1"
MODEL_VARIABLE = "W207_MODEL"
"""Names the detector to the page."""
DARK = {"REAL": "#56B4E9", "FAKE": "#F08A3C"}
"""Blue and orange that can be read on black, where ``style.COLOURS`` are for white."""


def check_port(port: int) -> None:
    """Raise ValueError unless a page can be served at this port."""
    if not 1 <= port <= 65535:
        raise ValueError(f"port {port} came; expected 1 to 65535, such as 8501.")
    with socket.socket() as probe:
        if os.name == "posix":  # a port that was left a second ago is free
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError as error:
            why = "needs the administrator" if error.errno == errno.EACCES else "is in use"
            raise ValueError(
                f"port {port} {why}, perhaps by a page that runs already; choose another: "
                f"w207 app --port {port + 1 if 1024 <= port < 65535 else 8501}"
            ) from None


def settings(port: int) -> list[str]:
    """Return Streamlit's command-line options: bound to loopback, limited, calm."""
    chosen = {
        "server.address": ADDRESS,
        "server.port": port,
        "server.headless": True,
        "server.showEmailPrompt": False,
        "server.maxUploadSize": uploads.MOST_MEGABYTES,
        "server.enableXsrfProtection": True,
        "server.fileWatcherType": "none",
        "browser.serverAddress": ADDRESS,
        "browser.gatherUsageStats": False,
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",
        "client.showErrorLinks": "false",
        "runner.magicEnabled": False,
        "logger.level": "error",
        "logger.enableRich": False,  # it would write to standard output
        "theme.baseFontSize": 17,
        "theme.baseRadius": "medium",
        "theme.light.primaryColor": style.COLOURS["REAL"],
        "theme.light.blueTextColor": style.COLOURS["REAL"],
        "theme.light.orangeTextColor": style.COLOURS["FAKE"],
        "theme.dark.primaryColor": DARK["REAL"],
        "theme.dark.blueTextColor": DARK["REAL"],
        "theme.dark.orangeTextColor": DARK["FAKE"],
    }
    hosts = [f"--server.allowedHosts={name}" for name in (ADDRESS, "localhost")]
    return [f"--{name}={value}" for name, value in chosen.items()] + hosts


def run(port: int, model: str) -> None:
    """Serve the page until Ctrl-C.

    Args:
        port: Port on ``ADDRESS``.
        model: A detector's name or file.

    Raises:
        RuntimeError: Streamlit is not installed.
    """
    try:
        from starlette.formparsers import MultiPartParser
        from streamlit.web import cli
    except ImportError:
        raise RuntimeError(
            "the web page needs Streamlit, which is not installed; add it with: "
            "python make.py setup --app"
        ) from None
    # Beyond this an upload would be spooled to disk: nothing that is allowed in reaches it.
    MultiPartParser.spool_max_size = (uploads.MOST_MEGABYTES + 1) * 2**20
    os.environ[MODEL_VARIABLE] = model
    page = str(Path(__file__).with_name("app.py"))  # beside a folder `pages`, Streamlit serves that
    with contextlib.redirect_stdout(io.StringIO()):  # our own words are said
        cli.main(["run", page, *settings(port)], prog_name="streamlit", standalone_mode=False)
