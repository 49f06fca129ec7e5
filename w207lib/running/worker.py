"""A worker of a search that another process keeps (``chief``): it may go, and so may the chief."""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from w207lib.running import chief

log = logging.getLogger(__name__)

NAME = re.compile(r"(?!(oracle|tuner0)$)[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""A worker's name; Keras Tuner has files of the two others."""
PAUSE = 0.5
"""Seconds before a worker asks again."""


def own_name() -> str:
    """Return a worker's usual name: that of the machine, and the process's number."""
    machine = re.sub(r"[^A-Za-z0-9-]+", "-", socket.gethostname()).strip("-")[:40]
    return f"{machine or 'worker'}-{os.getpid()}"


class Line:
    """A worker's connection to its chief; it stands in for Keras Tuner's gRPC stub.

    Attributes:
        search_id: The chief's search.
        trials: How many trials this worker has reported.
    """

    def __init__(self, address: str, name: str, facts: dict, minutes: float):
        grpc = chief.quiet_grpc()
        from keras_tuner.src import protos

        host, port = chief.parse(address)
        self.at = chief.target(host, port)
        self.name = name
        self.minutes = minutes
        self.search_id: str | None = None
        self.trials = 0
        self._trial: str | None = None
        self._asked = {"name": name, "process": secrets.token_hex(8), "facts": facts}
        self._channel = grpc.insecure_channel(self.at, options=chief.OPTIONS)
        self._calls = protos.get_service_grpc().OracleStub(self._channel)
        self._join = self._channel.unary_stream(f"/{chief.SERVICE}/{chief.JOIN}")
        self._ended: str | None = None
        self._closed = False

    def open(self) -> None:
        """Join the chief's search.

        Raises:
            RuntimeError: The chief does not answer, for ``minutes``.
            ValueError: It refuses: settings or data differ, or the name is taken.
        """
        import grpc

        until = time.monotonic() + 60 * self.minutes
        told = False
        while True:
            try:
                stream = self._joined()
                break
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.FAILED_PRECONDITION:
                    raise ValueError(self._refused(error)) from None
                if not _away(error) or time.monotonic() > until:
                    raise RuntimeError(
                        f"no chief answers at {self.at}, for {self.minutes:g} minutes now "
                        f"({error.details()}). Start it there (w207 tune … --chief HOST:PORT), or "
                        "look at the address, and at what lies between: a firewall, a tunnel."
                    ) from None
            if not told:
                log.info("search: no chief answers at %s yet; waiting for it", self.at)
                told = True
            time.sleep(PAUSE)
        threading.Thread(target=self._stay, args=(stream,), daemon=True).start()

    def close(self) -> None:
        """Leave; the chief gives an unfinished trial to another worker."""
        self._closed = True
        self._channel.close()

    def _joined(self):
        """Ask to join; return the open stream behind the chief's first word."""
        asked = self._asked | {"search_id": self.search_id, "trial": self._trial}
        stream = self._join(json.dumps(asked).encode())
        self.search_id = next(stream).decode()
        return stream

    def _refused(self, error) -> str:
        return f"the chief at {self.at} refuses this worker: {error.details()}"

    def _stay(self, stream) -> None:
        """Keep the connection open, and join again when the chief comes back."""
        import grpc

        while not self._closed and self._ended is None:
            try:
                if stream is None:
                    stream = self._joined()
                    log.info("search: the chief at %s is back", self.at)
                for reason in stream:
                    self._ended = f"the chief at {self.at} has ended: {reason.decode() or 'over'}"
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.FAILED_PRECONDITION:
                    self._ended = self._refused(error)
            except ValueError:  # the channel was closed here
                return
            stream = None
            time.sleep(PAUSE)

    def __getattr__(self, name: str):
        if name.startswith("_"):
            raise AttributeError(name)
        call = getattr(self._calls, name)

        def reached(request, **_):
            answer = self._reach(call, request)
            if name == "CreateTrial":
                self._note(answer.trial)
            elif name == "EndTrial":
                self._trial = None
                self.trials += 1
            return answer

        return reached

    def _note(self, trial) -> None:
        from keras_tuner.engine.trial import TrialStatus

        status = TrialStatus.from_proto(trial.status)
        self._trial = trial.trial_id if status == "RUNNING" else None
        if status == "IDLE":
            time.sleep(PAUSE)  # Keras Tuner asks again at once

    def _reach(self, call, request):
        """Ask the chief, for as long as it may be away."""
        import grpc
        from keras_tuner.errors import FatalRuntimeError  # others count as a trial's failure

        until = time.monotonic() + 60 * self.minutes
        told = False
        while True:
            if self._ended is not None:
                raise FatalRuntimeError(self._ended)
            try:
                return call(request, timeout=60, metadata=((chief.ID_KEY, self.search_id),))
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.FAILED_PRECONDITION:
                    raise FatalRuntimeError(self._refused(error)) from None
                if not _away(error):
                    raise FatalRuntimeError(
                        f"the chief at {self.at} has ended: {error.details()}"
                    ) from None
            if time.monotonic() > until:
                raise FatalRuntimeError(
                    f"the chief at {self.at} has been gone for {self.minutes:g} minutes. Its "
                    "search is kept: start it again with the same command, then this worker."
                )
            if not told:
                log.warning("search: the chief at %s does not answer; waiting for it", self.at)
                told = True
            time.sleep(PAUSE)


def _away(error) -> bool:
    """Whether a call failed because nobody answered, who may yet."""
    import grpc

    away = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    return error.code() in (*away, grpc.StatusCode.CANCELLED)


@contextmanager
def joined(
    address: str, name: str | None, facts: dict, *, minutes: float = chief.MINUTES
) -> Iterator[Line]:  # fmt: skip
    """Be a chief's worker inside a ``with`` block: Keras Tuner's tuners made in it are workers.

    Args:
        address: The chief's ``HOST:PORT``.
        name: Tells this worker from the others; None for machine and process.
        facts: What the chief compares with its own.
        minutes: How long to wait for a chief that does not answer.

    Yields:
        The connection, to be set as the ``stub`` of the tuner's oracle.

    Raises:
        ValueError: Address or name are none, or the chief refuses.
        RuntimeError: The chief does not answer.
    """
    name = own_name() if name is None else name
    if not NAME.fullmatch(name):
        raise ValueError(
            f"a worker cannot be called {name!r}; expected at most 64 letters, digits, '.', '_' "
            "and '-'."
        )
    line = Line(address, name, facts, minutes)
    host, port = chief.parse(address)
    own = {  # "worker": whatever has "chief" in it, Keras Tuner would take for the chief
        "KERASTUNER_TUNER_ID": "worker", "KERASTUNER_ORACLE_IP": host,
        "KERASTUNER_ORACLE_PORT": str(port),
    }  # fmt: skip
    before = {key: os.environ.get(key) for key in own}
    try:
        line.open()
        log.info("search: worker %s has joined the chief at %s", name, line.at)
        os.environ.update(own)
        yield line
    finally:
        line.close()
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
