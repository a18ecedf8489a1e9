"""What a person reads when a deployment is ready: addresses, a key, and examples to paste. Pure text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas import published
from schemas.policy import Policy


def chat_model(policy: Policy) -> str | None:
    """Return the first model of a policy that an OpenAI chat request can name."""
    for name, model in policy.models.items():
        chats = "chat.completions" in model.operations if model.operations else "embed" not in name
        if chats and policy.providers[model.provider].protocol == "openai":
            return name
    return None


def ready_text(ready: Mapping[str, Any], simulated: bool, model: str | None, policy_version: int) -> str:
    """Return the page for a deployment described by `ready` (the object that `--json` prints)."""
    base = f"{ready['ingress'][0]}/v1"
    key = ready["key"]
    lines = [
        "",
        f"Tollway is ready ({ready['ready_s']:.1f} s), policy version {policy_version}.",
        "",
        *(f"  {'ingress' if number == 0 else '       '}   {url}" for number, url in enumerate(ready["ingress"])),
        f"  api       {ready['api']}",
        f"  history   {ready['history']}",
        f"  broker    {ready['broker']}",
        f"  state     {ready['state']}",
        f"  key       {key or '(the demo key was revoked; make one with tollway keys create)'}",
        "",
    ]
    if key and model:
        lines += _examples(base, key, model)
    lines += [
        "See what was spent, and that every ledger agrees:",
        "",
        "  tollway report spend --by team,model",
        "  tollway verify",
        "",
    ]
    if simulated:
        lines += [
            "Answers come from the built-in simulated provider. A real one is one edit (base_url and credential):",
            "",
            "  tollway policy show > policy.yaml",
            "  tollway policy apply policy.yaml",
            "",
        ]
    lines.append(f"Ctrl-C stops everything (running requests get {published.DRAIN_S} s); state and keys stay.")
    return "\n".join(lines)


def _examples(base: str, key: str, model: str) -> list[str]:
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}], "max_tokens": 20}}'
    curl = f"curl -s {base}/chat/completions -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json'"
    return [
        "Ask something with curl:",
        "",
        f"  {curl} \\",
        f"    -d '{body}'",
        "",
        "or with the openai SDK:",
        "",
        "  from openai import OpenAI",
        f'  client = OpenAI(base_url="{base}", api_key="{key}")',
        '  messages = [{"role": "user", "content": "Hello!"}]',
        f'  print(client.chat.completions.create(model="{model}", messages=messages, max_tokens=20))',
        "",
        "See a refusal (429): ask more often than the key may. It names rule, limit, use and when to retry:",
        "",
        f"  for n in $(seq 25); do {curl} \\",
        f"    -d '{body}'; echo; done | tail -1",
        "",
    ]
