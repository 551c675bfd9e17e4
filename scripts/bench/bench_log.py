"""What a measurement says: progress on standard error, its table on standard output, and both in a folder too."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path


class Log:
    """`NAME.log` and `NAME.md` in a folder; written at once, so that a killed run leaves what it knew."""

    def __init__(self, folder, name):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / f"{name}.log"
        self.log, self.rows = self.path.open("a"), (self.folder / f"{name}.md").open("w")
        # A stop in order (a batch system, `timeout`) ends as Ctrl-C does: what is known is printed.
        signal.signal(signal.SIGTERM, signal.default_int_handler)

    def say(self, text):
        self.write(self.log, sys.stderr, text)

    def table(self, text):
        self.write(self.rows, sys.stdout, text)

    @staticmethod
    def write(file, stream, text):
        for place in (file, stream):
            print(text, file=place, flush=True)

    def lines(self, command, environment=None, deadline=None):
        """Lines of a program's standard output as they come; its standard error goes to the log.

        Ends early at the `deadline` (`time.time()`). A program that fails is said to have failed, no more.
        """
        command = [str(word) for word in command]
        self.write(self.log, sys.stderr, "$ " + " ".join(command))
        # A session of its own, so that what it started can be ended with it: torch.compile has workers, which keep the pipe open.
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=environment,
            start_new_session=True,
        )
        lines = queue.Queue()

        def read():
            for line in child.stdout:
                lines.put(line.rstrip())
            lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        try:
            while True:
                try:
                    line = lines.get(timeout=0.2)
                except queue.Empty:
                    if child.poll() is not None:
                        break
                    if deadline is not None and time.time() > deadline:
                        self.say("stopped: the time is up")
                        return
                else:
                    if line is None:
                        break
                    self.say(line)
                    yield line
            if child.wait():
                self.say(f"`{command[0]}` ended with {child.returncode}; its messages are in {self.path}")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
