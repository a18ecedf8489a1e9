"""Processes end when their work has, whatever is left in their loops."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

DEADLINE_S = 30.0
STUBBORN = """
    import asyncio, sys, threading
    import uvloop
    from schemas.process import run_process

    async def holds_on():
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass

    async def work(outcome):
        global task
        task = asyncio.create_task(holds_on())
        asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)
        await asyncio.sleep(0)
        print("said before the end")
        return outcome

    run_process(work(3), {loop})
"""


@pytest.mark.parametrize("loop", ["None", "uvloop.new_event_loop"])
def test_a_process_ends_though_a_task_and_a_thread_hold_on(loop: str) -> None:
    """With its exit code, and with all that it printed."""
    code = textwrap.dedent(STUBBORN).format(loop=loop)
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )  # fmt: skip
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "said before the end\n", "")
