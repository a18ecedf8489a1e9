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


def ready_text(
    ready: Mapping[str, Any], simulated: bool, model: str | None, policy_version: int, tollway: str, at: str
) -> str:
    """Return the page for a deployment described by `ready` (the object that `--json` prints).

    `tollway` is how this command is typed here, and `at` the options by which it finds this deployment.
    """
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
        f"  key       {key or f'(the demo key was revoked; make one with: {tollway} keys create --help)'}",
        "",
    ]
    if key and model:
        lines += _examples(f"{ready['ingress'][0]}/v1", key, model)
    lines += [
        "# what was spent, and whether every ledger agrees:",
        f"{tollway} report spend --by team,model{at}",
        f"{tollway} verify{at}",
        "",
    ]
    if simulated:
        lines += [
            "# answers are simulated; a real provider is one edit of the policy (base_url and credential):",
            f"{tollway} policy show{at} > policy.yaml",
            f"{tollway} policy apply policy.yaml{at}",
            "",
        ]
    lines.append(f"Ctrl-C stops everything (running requests get {published.DRAIN_S} s); state and keys stay.")
    return "\n".join(lines)


def _examples(base: str, key: str, model: str) -> list[str]:
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}], "max_tokens": 20}}'
    curl = f"curl -s {base}/chat/completions -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json'"
    return [
        "# ask something with curl:",
        f"{curl} \\",
        f"  -d '{body}'",
        "",
        "# or in Python, with the openai SDK:",
        "from openai import OpenAI",
        f'client = OpenAI(base_url="{base}", api_key="{key}")',
        'messages = [{"role": "user", "content": "Hello!"}]',
        f'print(client.chat.completions.create(model="{model}", messages=messages, max_tokens=20))',
        "",
        "# see a refusal (429): ask more often than the key may; it names rule, limit, use and when to retry:",
        f"for n in $(seq 25); do {curl} \\",
        f"  -d '{body}'; echo; done | tail -1",
        "",
    ]
