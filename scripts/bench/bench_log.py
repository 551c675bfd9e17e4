"""What a measurement says: progress on standard error, its table on standard output, and both in a folder too."""

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
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment)
        late = threading.Event()
        timer = None
        if deadline is not None:
            timer = threading.Timer(max(0.0, deadline - time.time()), lambda: (late.set(), child.kill()))
            timer.start()
        try:
            for line in child.stdout:
                self.say(line.rstrip())
                yield line.rstrip()
            code = child.wait()
            if late.is_set():
                self.say("stopped: the time is up")
            elif code:
                self.say(f"`{command[0]}` ended with {code}; its messages are in {self.path}")
        finally:
            if timer:
                timer.cancel()
            if child.poll() is None:
                child.kill()
                child.wait()
