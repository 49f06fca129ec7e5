"""Memory of a process and its children, sampled ten times a second."""

import threading
import time

import psutil


class Memory(threading.Thread):
    """The highest resident memory of a process and its children, in bytes."""

    def __init__(self):
        super().__init__(daemon=True)
        self.process, self.highest = psutil.Process(), 0

    def sample(self):
        total = 0
        for process in [self.process, *self.process.children(recursive=True)]:
            try:
                total += process.memory_info().rss
            except psutil.Error:
                continue
        self.highest = max(self.highest, total)

    def run(self):
        while True:
            self.sample()
            time.sleep(0.1)
