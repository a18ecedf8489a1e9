"""Other gateways, measured in the same run where they are installed: LiteLLM's proxy and Portkey's gateway.

Neither is a dependency. LiteLLM is found as the command `litellm`, Portkey as the package `@portkey-ai/gateway` below
the folder that `PORTKEY_HOME` names. Both forward the same request to the same upstream, with a key check at most.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.bench.proxies import Proxy
from tests.bench.stack import child, free_port, wait_for

_MASTER_KEY = "sk-bench-0123456789abcdef0123456789abcdef"
_LITELLM = """
model_list:
  - model_name: gpt-4o-mini
    litellm_params: {{model: openai/gpt-4o-mini, api_base: "{upstream}/v1", api_key: sk-none}}
litellm_settings: {{telemetry: false}}
general_settings: {{master_key: {key}}}
"""


@contextlib.contextmanager
def litellm(place: Path, upstream: str) -> Iterator[Proxy | None]:
    """Run LiteLLM's proxy before `upstream`; None where it is not installed."""
    command = shutil.which("litellm")
    if command is None:
        yield None
        return
    config, port = place / "litellm.yaml", free_port()
    config.write_text(_LITELLM.format(upstream=upstream, key=_MASTER_KEY))
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
    arguments = ("--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False")
    with child(command, *arguments, env=env) as process:
        base = f"http://127.0.0.1:{port}"
        wait_for(f"{base}/health/liveliness", 90)
        yield Proxy("litellm", f"{base}/v1/chat/completions", process.pid, {"Authorization": f"Bearer {_MASTER_KEY}"})


@contextlib.contextmanager
def portkey(_place: Path, upstream: str) -> Iterator[Proxy | None]:
    """Run Portkey's gateway before `upstream`; None where it is not installed."""
    server = Path(os.environ.get("PORTKEY_HOME", "")) / "node_modules/@portkey-ai/gateway/build/start-server.js"
    node = shutil.which("node")
    if node is None or not server.exists():
        yield None
        return
    port = free_port()
    headers = {
        "Authorization": "Bearer sk-none",
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"{upstream}/v1",
    }
    with child(node, str(server), f"--port={port}", "--headless") as process:
        base = f"http://127.0.0.1:{port}"
        wait_for(base, 60)
        yield Proxy("portkey", f"{base}/v1/chat/completions", process.pid, headers)
