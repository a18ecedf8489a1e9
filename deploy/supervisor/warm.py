"""`python -m deploy.supervisor.warm MODULE`: `python -m MODULE`, its imports done while the broker is still starting.

A process spends seconds on imports before it needs the broker. The supervisor starts it in this way, keeps the writing
end of its standard input, and closes that when the topics are there; until then the process has done nothing but
import. Only a first start goes through here: a process that died is started again plainly.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import runpy
import sys

MODULES = {
    "meter": "meter.worker",
    "meter.sink": "meter.sink.app",
    "enforcer": "enforcer.app",
    "ingress": "ingress.app",
}
"""What to import ahead of `python -m …`: most of what the process needs, and nothing that acts when imported."""


def main() -> None:
    """Import, wait for the end of standard input, become the module."""
    module = sys.argv[1]
    with contextlib.suppress(Exception):  # the module itself fails in the same way below, in its own words
        importlib.import_module(MODULES[module])
    while os.read(0, 1):
        pass
    sys.argv = [module, *sys.argv[2:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
