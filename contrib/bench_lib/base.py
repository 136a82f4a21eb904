"""What all parts of the benchmark share."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any, NoReturn

TOP = Path(__file__).resolve().parent.parent.parent
RUNTIME_DIR = "xdg"  # beneath the ordinary user's directory; the state of all runtimes is in it
SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TASKS = {
    "run": "run /bin/true, cold",
    "warm": "run /bin/true, warm",
    "terminal": "run -t /bin/true, cold",
    "filtered": "run /bin/true with a seccomp profile, cold",
    "cycle": "create + start + delete",
    "exec": "exec ID /bin/true",
    "state": "state ID",
    "first": "run -d, the first of 100 alive",
    "hundredth": "run -d, the last of 100 alive",
}
ALL_TASKS = frozenset(TASKS)
CROWD_TASKS = frozenset({"first", "hundredth"})  # measured apart from the rounds, as is the memory of who stays

Result = dict[str, Any]


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def die(text: str) -> NoReturn:
    raise SystemExit(f"bench: {text}")


def which(name: str) -> str | None:
    return shutil.which(name, path=SEARCH)
