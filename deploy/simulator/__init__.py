"""The built-in simulated provider: answers like OpenAI and Anthropic, without an account, a model or randomness.

* Routes: `POST /v1/chat/completions`, `/v1/completions`, `/v1/responses`, `/v1/embeddings`, `/v1/moderations`,
  `/v1/messages`, `/v1/messages/count_tokens`, `/v1/images/generations`, `/v1/images/edits`, `/v1/images/variations`,
  `/v1/audio/speech`, `/v1/audio/transcriptions`, `/v1/audio/translations`; all of `/v1/files`, `/v1/batches` and
  `/v1/messages/batches`; `GET /v1/models`, `GET /v1/models/{id}`, and for tests `GET /__sim/ledger`,
  `GET /__sim/health`. Any model name is served.
* Tokens: the input counts the whitespace-separated words of all text in the request, the output is 16 words or
  `max_tokens`, whichever is less. A directive at the beginning of the last user message (or of the first embedding
  input) asks for something else, and is not counted itself (see `deploy.simulator.wishes` for every key):
  `[[sim output=120 chunks=10 delay_ms=5 usage_input=4808 cached=100]] Tell me a story nonce=abc`.
* Ledger: totals of all completed answers at `/__sim/ledger`, and with `--ledger FILE` a JSON line for each, written
  before the last byte of the answer is handed to the network.
"""

from deploy.simulator.ledger import Entry, Ledger
from deploy.simulator.server import Simulator

__all__ = ["Entry", "Ledger", "Simulator"]
