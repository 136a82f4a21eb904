"""The tables of tests/lockdown, and how a command is run under a condition."""

import os
import re
import signal
import subprocess
import tempfile

HERE = os.path.dirname(os.path.realpath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
LOCKDOWN = os.path.join(HERE, "lockdown")
# Only against a hang: it must hold on a machine that is much slower.
LIMIT_SECONDS = 120
CANNOT = 77
# How a user could have each tool run a container; the next is tried where the one before failed.
WAYS = {
    "lodger": ["as it is", "--proc=auto"],
    "crun": ["as it is", "one id", "/proc bound", "one id, /proc bound"],
    "runc": ["as it is", "one id", "/proc bound", "one id, /proc bound"],
    "podman": ["as it is", "/proc bound"],
    "bwrap": ["as it is", "/proc bound"],
}
CODE = r"LDG-[A-Z0-9]+(?:-[A-Z0-9]+)*"


def read_table(name):
    """The rows of a table: lists of columns, without comments and empty lines."""
    with open(os.path.join(HERE, name)) as file:
        lines = [line.rstrip("\n") for line in file]
    return [line.split("\t") for line in lines if line and not line.startswith("#")]


def conditions():
    """The names of all conditions."""
    out = subprocess.run([LOCKDOWN, "list"], capture_output=True, text=True, check=True).stdout
    return [line.split()[0] for line in out.splitlines()]


def codes_of_source():
    """Every code that the source has, and where."""
    found = {}
    for directory, _, files in os.walk(os.path.join(TOP, "src")):
        for name in files:
            if name.endswith("tests.rs"):
                continue
            path = os.path.join(directory, name)
            with open(path) as file:
                for code in re.findall(f'"({CODE})"', file.read()):
                    found.setdefault(code, os.path.relpath(path, TOP))
    return found


class Ran:
    """What a command left: its status (`None`: it did not end in time), what it printed, and what it left behind."""

    def __init__(self, status, out="", err="", left=()):
        self.status, self.out, self.err, self.left = status, out, err, list(left)

    def last_words(self):
        """The last that it said, in one line."""
        lines = (self.err.strip() or self.out.strip()).splitlines()
        return " / ".join(lines)[-300:] if lines else "nothing was said"


def run_under(condition, command, home=None, directory=None):
    """Runs a command under a condition; `directory` is to be had by every user, and gets what `within` writes."""
    environment = dict(os.environ)
    if home is not None:
        environment["LOCKDOWN_HOME"] = home
    if directory is not None:
        command = [os.path.join(HERE, "within"), directory, *command]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = subprocess.Popen([LOCKDOWN, condition, *command], env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                 start_new_session=True)
        try:
            status = child.wait(LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            status = None
            # The end of unshare(1) ends all of its namespace.
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        out.seek(0), err.seek(0)
        printed, words = out.read(), err.read()
    if directory is None or not os.path.exists(f"{directory}/status"):
        return Ran(status, printed, words)
    texts = [open(f"{directory}/{name}", errors="replace").read() for name in ("status", "stdout", "stderr", "left")]
    return Ran(None if status is None else int(texts[0]), texts[1], words + texts[2], texts[3].splitlines())
