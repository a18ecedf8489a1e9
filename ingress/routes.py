"""The metered routes, by the exact path; every other path belongs to the ASGI application, which forwards nothing."""

from __future__ import annotations

from ingress.core.protocols import ANTHROPIC_MESSAGES, OPENAI_CHAT, OPENAI_EMBEDDINGS, Operation

METERED: dict[bytes, Operation] = {
    b"/v1/chat/completions": OPENAI_CHAT,
    b"/v1/embeddings": OPENAI_EMBEDDINGS,
    b"/v1/messages": ANTHROPIC_MESSAGES,
}
