"""The official SDKs on the ingress of a module's own `lab`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anthropic
import openai
import pytest

from tests.stream.ingress_lab import SECRET, Lab


@pytest.fixture
async def gpt(lab: Lab) -> AsyncIterator[openai.AsyncOpenAI]:
    """The OpenAI SDK on the ingress."""
    async with openai.AsyncOpenAI(base_url=f"{lab.url}/v1", api_key=SECRET, max_retries=0) as sdk:
        yield sdk


@pytest.fixture
async def claude(lab: Lab) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """The Anthropic SDK on the ingress."""
    async with anthropic.AsyncAnthropic(base_url=lab.url, api_key=SECRET, max_retries=0) as sdk:
        yield sdk
