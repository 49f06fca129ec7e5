"""The chief of a search: keeps Keras Tuner's state, and gives trials to workers (``worker``).

What they say to each other is Keras Tuner's protocol (gRPC, neither encrypted nor authenticated),
and one call more, ``Join``, which stays open while its worker lives. So the chief compares
settings and data before it gives a worker anything, notices at once when a worker is gone, and
gives its trial to another; Keras Tuner's own chief would wait for that worker for ever.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
MINUTES = 10.0
"""How long a chief waits without any worker, and a worker without its chief."""
RETRIES = 2
"""How often a trial that broke is given to another worker, for the fault may be the machine's."""
MOST_WORKERS = 1_000
JOIN = "Join"
SERVICE = "w207lib.Search"
ID_KEY = "search-id"
ANOTHER = "this chief has begun another search; start the worker again."
OPTIONS = [
    ("grpc.so_reuseport", 0),  # otherwise a second chief would share the first one's port
    ("grpc.enable_http_proxy", 0),
    ("grpc.keepalive_time_ms", 10_000),  # a machine that lost its power closes no connection
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]


def parse(address: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``; of ``PORT`` alone, this machine's loopback.

    Raises:
        ValueError: It is no address, or nobody knows the host.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]") or LOOPBACK
    if not port.isdecimal() or int(port) > 65_535:
        raise ValueError(f"address {address!r} came; expected HOST:PORT, such as 127.0.0.1:5207.")
    try:
        socket.getaddrinfo(host, int(port))
    except OSError as error:
        raise ValueError(
            f"host {host!r} is not known here ({error.strerror or error}); expected a name or an "
            "address that this machine can reach."
        ) from None
    return host, int(port)


def quiet_grpc():
    """Import gRPC, which otherwise tells of each connection that breaks, and return the module."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    import grpc

    return grpc


def target(host: str, port: int) -> str:
    """Return an address as gRPC reads it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def serve(
    oracle, facts: dict, address: str, *, search_id: str, keep: Callable[[], object],
    minutes: float = MINUTES,
) -> None:  # fmt: skip
    """Give a search's trials to workers until there is none left.

    Args:
        oracle: Keras Tuner's, reloaded where the search was begun before.
        facts: JSON-serialisable; what a worker must have exactly so, to be given a trial.
        address: Where to listen: ``HOST:PORT``. Port 0 takes any that is free.
        search_id: Tells this search from others, also when the chief is started again.
        keep: Called whenever trials were given out, finished or taken back, before anybody
            hears of it.
        minutes: How long to wait without any worker.

    Raises:
        ValueError: The address cannot be used.
        OSError: The port is taken.
        RuntimeError: No worker was there for that long, or Keras Tuner gave the search up. What
            is finished is kept.
    """
    grpc = quiet_grpc()
    from keras_tuner.src import protos

    host, port = parse(address)
    _require_port(host, port)
    desk = _Desk(oracle, facts, search_id, keep)
    if desk.nothing_left():
        return
    server = grpc.server(ThreadPoolExecutor(MOST_WORKERS), options=OPTIONS)
    protos.get_service_grpc().add_OracleServicer_to_server(desk, server)
    join = grpc.unary_stream_rpc_method_handler(desk.join)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {JOIN: join})])
    port = server.add_insecure_port(target(host, port))
    server.start()
    if host not in (LOOPBACK, "localhost", "::1"):
        log.warning(
            "search: %s can be reached from other machines, and nothing is encrypted or asked for "
            "a password. Use it in networks that you trust.", host,
        )  # fmt: skip
    at = target(socket.gethostname() if host in ("0.0.0.0", "::") else host, port)
    log.info("search: the chief is at %s, and waits for workers: --worker %s", at, at)
    seen = time.monotonic()
    try:
        while not desk.over.wait(0.2):
            if desk.workers:
                seen = time.monotonic()
            elif time.monotonic() - seen > 60 * minutes:
                raise RuntimeError(
                    f"no worker has been there for {minutes:g} minutes, so the chief stops. "
                    f"{desk.count()} trials are finished and kept: the same command goes on."
                )
        desk.dismiss()
    finally:
        desk.workers.clear()  # what they are at is theirs still when the chief comes back
        server.stop(0.5).wait()
    if desk.failure is not None:
        raise RuntimeError(f"Keras Tuner gave the search up: {desk.failure}") from None


class _Desk:
    """Answers workers: as Keras Tuner's own servicer does, but for what stands here."""

    def __init__(self, oracle, facts: dict, search_id: str, keep: Callable[[], object]):
        from keras_tuner.src.distribute.oracle_chief import OracleServicer
        from keras_tuner.src.protos import get_service

        self.oracle = oracle
        self.facts = json.loads(json.dumps(facts))
        self.search_id = search_id
        self._keep = keep
        self.over = threading.Event()
        self.failure: Exception | None = None
        self.workers: dict[str, tuple[str, threading.Event]] = {}
        self._usual = OracleServicer(oracle)
        self._messages = get_service()
        self._lock = threading.RLock()
        oracle.max_retries_per_trial = RETRIES
        self._save()

    def __getattr__(self, name: str):
        answer = getattr(self._usual, name)  # GetSpace, UpdateSpace, GetTrial, GetBestTrials

        def answered(request, context):
            with self._order(context):
                return answer(request, context)

        return answered

    @contextmanager
    def _order(self, context, number: str | None = None) -> Iterator[None]:
        """One at a time; after an exception, which leaves Keras Tuner's own lock shut, nobody."""
        import grpc

        with self._lock:
            if (ID_KEY, self.search_id) not in context.invocation_metadata():
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, ANOTHER)
            if number is not None and number not in self.oracle.trials:
                context.abort(grpc.StatusCode.NOT_FOUND, f"this search has no trial {number!r}")
            if self.failure is None:
                try:
                    yield
                    return
                except Exception as error:
                    self.failure = error
                    self.over.set()
            context.abort(grpc.StatusCode.ABORTED, str(self.failure))

    def _save(self) -> None:
        self.oracle.save()
        self._keep()

    def nothing_left(self) -> bool:
        """Whether a search with a fixed number of trials has finished them all."""
        most = self.oracle.max_trials
        return bool(most) and len(self.oracle.end_order) >= most

    def count(self) -> int:
        """Return the number of finished trials."""
        return len(self.oracle.end_order)

    def CreateTrial(self, request, context):  # noqa: N802  (Keras Tuner's name)
        """Give a trial to a worker that has joined; let it wait while others may still fail."""
        name = request.tuner_id
        with self._order(context):
            known = name in self.oracle.ongoing_trials
            if name in self.workers:
                trial = self.oracle.create_trial(name)
            else:  # after a restart, until it has joined again
                from keras_tuner.engine.trial import Trial

                trial = Trial(self.oracle.get_space(), trial_id="", status="IDLE")
            if trial.status == "STOPPED":
                if self.oracle.ongoing_trials:
                    trial.status = "IDLE"
                else:
                    self.over.set()
            elif trial.status == "RUNNING" and not known:
                self._save()
                log.info("search: trial %s goes to worker %s", trial.trial_id, name)
            return self._messages.CreateTrialResponse(trial=trial.to_proto())

    def UpdateTrial(self, request, context):  # noqa: N802
        """Take a trial's figures, unless it is finished."""
        with self._order(context, request.trial_id):
            if request.trial_id in self.oracle.end_order:
                trial = self.oracle.trials[request.trial_id]
                return self._messages.UpdateTrialResponse(trial=trial.to_proto())
            return self._usual.UpdateTrial(request, context)

    def EndTrial(self, request, context):  # noqa: N802
        """Finish a trial, once: a worker that was thought gone may report it, too."""
        number = request.trial.trial_id
        with self._order(context, number):
            if number in self.oracle.end_order:
                return self._messages.EndTrialResponse()
            name = next((n for n, t in self.oracle.ongoing_trials.items() if t.trial_id == number),
                        "that was thought gone")  # fmt: skip
            if number in self.oracle._retry_queue:
                self.oracle._retry_queue.remove(number)
            answer = self._usual.EndTrial(request, context)
            self._save()  # Keras Tuner's own save still has the trial going on
            trial = self.oracle.trials[number]
            log.info(
                "search: trial %s %s, validation accuracy %s, %s, by worker %s; %d finished",
                number, trial.status, trial.score, trial.hyperparameters.values, name,
                self.count(),
            )  # fmt: skip
            return answer

    def join(self, request: bytes, context) -> Iterator[bytes]:
        """Take a worker in, and its trial back when it is gone.

        Args:
            request: JSON: the worker's ``name``, a word that tells its ``process`` from others,
                its ``facts`` and, when it comes again, the ``search_id`` and its ``trial``.
            context: gRPC's; it ends with the connection.

        Yields:
            The search's id, and when the search is over, why.
        """
        import grpc

        asked = json.loads(request)
        name, process = asked["name"], asked["process"]
        gone = threading.Event()
        with self._lock:
            wrong = self._refusal(asked)
            if wrong:
                log.warning("search: worker %s was refused: %s", name, wrong)
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, wrong)
            self.workers[name] = (process, gone)
            self._resume(name, asked.get("trial"))
        log.info("search: worker %s has joined", name)
        try:
            if not context.add_callback(gone.set):
                gone.set()
            yield self.search_id.encode()
            gone.wait()
            if self.over.is_set():
                yield str(self.failure or "").encode()
        finally:
            with self._lock:
                if self.workers.get(name) == (process, gone):
                    del self.workers[name]
                    self._release(name)

    def _refusal(self, asked: dict) -> str:
        name = asked["name"]
        if asked.get("search_id") not in (None, self.search_id):
            return ANOTHER
        if name in self.workers and self.workers[name][0] != asked["process"]:
            return f"a worker called {name!r} is at work already. Give another --name."
        here, there = _flat(asked["facts"]), _flat(self.facts)
        differ = [key for key in there | here if here.get(key) != there.get(key)]
        if not differ:
            return ""
        listed = "; ".join(
            f"{key} is {_brief(here.get(key))} here, {_brief(there.get(key))} at the chief"
            for key in differ
        )
        advice = "Start both with the same options."
        if "data_digest" in differ:
            advice = "The images are not the same: copy the chief's data set here."
        elif any(key.startswith("software.") for key in differ):
            advice = "Install the same versions."
        elif differ == ["precision"]:
            advice = "Give both the same --precision."
        return f"{listed}. {advice}"

    def _resume(self, name: str, number: str | None) -> None:
        """Leave a worker the trial that it was at when the chief was stopped."""
        if number in self.oracle._retry_queue:
            self.oracle._retry_queue.remove(number)
            self.oracle.ongoing_trials[name] = self.oracle.trials[number]
            self._save()
            log.info("search: worker %s is still at trial %s", name, number)

    def _release(self, name: str) -> None:
        """Let the next worker take what a worker that is gone was at."""
        trial = self.oracle.ongoing_trials.pop(name, None)
        self.oracle.tuner_ids.discard(name)
        if trial is None:
            log.info("search: worker %s has left", name)
            return
        self.oracle._retry_queue.append(trial.trial_id)
        self._save()
        log.warning(
            "search: worker %s is gone; its trial %s goes to the next that asks",
            name, trial.trial_id,
        )  # fmt: skip

    def dismiss(self) -> None:
        """Give the workers time to hear that the search is over."""
        until = time.monotonic() + 5
        while self.workers and self.failure is None and time.monotonic() < until:
            time.sleep(0.05)
        with self._lock:
            for _, gone in self.workers.values():
                gone.set()


def _flat(facts: dict, start: str = "") -> dict:
    found: dict = {}
    for key, value in facts.items():
        found |= _flat(value, f"{start}{key}.") if isinstance(value, dict) else {start + key: value}
    return found


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"


def _require_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise OSError(
            f"the chief cannot listen at {target(host, port)} ({os.strerror(error.errno or 0)}). "
            "Give an address of this machine and a port that is free, or port 0 for any."
        ) from None
