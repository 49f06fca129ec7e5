import os
import socket
import time

import pytest

from w207lib.machine.devices import quiet_keras
from w207lib.running import chief, worker


@pytest.fixture(scope="module", autouse=True)
def loaded():
    quiet_keras()


@pytest.fixture
def nowhere():
    """An address at which nobody listens."""
    with socket.create_server((chief.LOOPBACK, 0)) as taken:
        address = f"{chief.LOOPBACK}:{taken.getsockname()[1]}"
    return address


def test_a_chief_that_does_not_answer_is_waited_for_and_then_named(nowhere, tally, caplog):
    caplog.set_level("INFO", "w207lib")
    began = time.monotonic()
    with tally("search", "unreachable chief") as tried:
        with (
            pytest.raises(RuntimeError, match=f"no chief answers at {nowhere}, for 0.01 minutes"),
            worker.joined(nowhere, None, {}, minutes=0.01),
        ):
            pass
        tried()
    assert 0.5 < time.monotonic() - began < 10
    assert f"no chief answers at {nowhere} yet; waiting for it" in caplog.text
    assert "KERASTUNER_ORACLE_IP" not in os.environ


def test_a_port_at_which_something_else_listens_is_no_chief():
    with (
        socket.create_server((chief.LOOPBACK, 0)) as other,
        pytest.raises(RuntimeError, match="no chief answers"),
    ):
        other.settimeout(20)
        import threading

        def hang_up():
            for _ in range(50):
                try:
                    connection, _ = other.accept()
                except OSError:
                    return
                connection.sendall(b"220 mail\r\n")
                connection.close()

        threading.Thread(target=hang_up, daemon=True).start()
        with worker.joined(f"127.0.0.1:{other.getsockname()[1]}", None, {}, minutes=0.01):
            pass


@pytest.mark.parametrize("name", ["", "a b", "../a", "oracle", "tuner0", "x" * 65])
def test_a_name_that_would_be_no_file_or_keras_tuners_is_refused(nowhere, name):
    with (
        pytest.raises(ValueError, match="a worker cannot be called"),
        worker.joined(nowhere, name, {}, minutes=0),
    ):
        pass


def test_the_usual_name_is_one_and_tells_processes_apart(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "Chief's laptop.örtlich")
    assert worker.NAME.fullmatch(worker.own_name())
    assert worker.own_name().endswith(f"-{os.getpid()}")
