"""What recent answers taught about a model: tokens per byte of its input and text, and how long its answers are.

Everything here errs high. A density is the most tokens a byte that any of the last 512 to 1,024 answers had, and an
eighth on top; so if requests keep coming as they came, the next one exceeds it less than once in 257 times even
without that eighth. Before 256 answers it is one token for two bytes, or more if more was seen. It is never below one
token for four bytes, whatever was seen, and never above one a byte. Learned only from what a provider reported, and
only where there was enough text. Lengths are quantiles of a small histogram whose counts halve from time to time.

Pure and deterministic: the same answers in the same order give the same figures. Memory is bounded by `MAX_MODELS` and
`MAX_PAIRS`; what was learned about the oldest goes first, and only that.
"""

from __future__ import annotations

from array import array

from schemas.tokens import TokenUsage

SCALE_BITS = 12
SCALE = 1 << SCALE_BITS
"""Densities are tokens for this many bytes."""
START_DENSITY = SCALE // 2
LEAST_DENSITY = SCALE // 4
MOST_DENSITY = SCALE
LEARN_AFTER = 256
GENERATION = 512
ENOUGH_INPUT_BYTES = 512
ENOUGH_TEXT_BYTES = 64

ENOUGH_ANSWERS = 64
"""From so many answers on their lengths say something."""
QUANTILE_PERCENT = 95
MAX_LENGTH = 1 << 20
MAX_MODELS = 1_024
MAX_PAIRS = 4_096

_REFRESH = 32
_HALVE_AT = 2_048


class Density:
    """The most tokens a byte of late, with a margin: tokens for `SCALE` bytes in `bound`."""

    __slots__ = ("_count", "_newest", "_older", "bound")

    def __init__(self) -> None:
        """Know nothing: one token for two bytes."""
        self._count = self._newest = self._older = 0
        self.bound = START_DENSITY

    def note(self, tokens: int, size: int) -> None:
        """Take that `size` > 0 bytes had `tokens`; more than a token a byte is no text and teaches nothing."""
        if tokens << SCALE_BITS > size * self._newest:
            if tokens > size:
                return
            self._newest = -(-(tokens << SCALE_BITS) // size)
            self._refresh()
        count = self._count = self._count + 1
        if not count & (LEARN_AFTER - 1):
            if count == GENERATION:
                self._older, self._newest, self._count = self._newest, 0, 0
            self._refresh()

    def would_rise(self, tokens: int, size: int) -> bool:
        """Tell whether `note` of the same would raise the bound; seldom true after a while."""
        return tokens << SCALE_BITS > size * self._newest

    def tokens(self, size: int) -> int:
        """Return the most tokens that `size` bytes probably have."""
        return -(-size * self.bound >> SCALE_BITS)

    def _refresh(self) -> None:
        peak = max(self._newest, self._older)
        knows = self._older or self._count >= LEARN_AFTER
        self.bound = min(max(peak + (peak >> 3) + 1, LEAST_DENSITY if knows else START_DENSITY), MOST_DENSITY)


class Lengths:
    """A histogram of output lengths with steps of an eighth; `bound` is the upper end of the 95th percent's step."""

    __slots__ = ("_counts", "_fresh", "_total", "bound")

    def __init__(self) -> None:
        """Know nothing."""
        self._counts = array("H", bytes(2 * (_step(MAX_LENGTH) + 1)))
        self._total = self._fresh = 0
        self.bound = 0
        """Tokens; 0 until `ENOUGH_ANSWERS` were seen."""

    def note(self, tokens: int) -> None:
        """Take one answer's output tokens."""
        self.add(_step(tokens))

    def add(self, step: int) -> None:
        """Take one answer by its step."""
        self._counts[step] += 1
        fresh = self._fresh = self._fresh + 1
        if fresh == _REFRESH:
            self._refresh()

    def _refresh(self) -> None:
        counts = self._counts
        self._total += self._fresh
        self._fresh = 0
        if self._total < ENOUGH_ANSWERS:
            return
        if self._total >= _HALVE_AT:
            for step, count in enumerate(counts):
                if count:
                    counts[step] = count >> 1
            self._total = sum(counts)
        above = self._total - -(-self._total * QUANTILE_PERCENT // 100)
        longest = len(counts.tobytes().rstrip(b"\0")) // counts.itemsize  # the last step that has a count
        for step in range(longest, -1, -1):
            above -= counts[step]
            if above < 0:
                self.bound = max(1, _upper_end(step))
                return


class ModelProfile:
    """What is known of one served model."""

    __slots__ = ("lengths", "prompt", "text")

    def __init__(self) -> None:
        """Know nothing."""
        self.prompt = Density()
        """Of request bodies without blobs."""
        self.text = Density()
        """Of streamed text."""
        self.lengths = Lengths()


class Profile:
    """What is known of one model as one key uses it."""

    __slots__ = ("lengths", "model")

    def __init__(self, model: ModelProfile) -> None:
        """Know only what is known of the model."""
        self.model = model
        self.lengths = Lengths()

    @property
    def output_bound(self) -> int:
        """Output tokens that 95 % of answers stay within: of this key's, else of the model's; 0 if unknown."""
        return self.lengths.bound or self.model.lengths.bound

    def note(self, usage: TokenUsage, total: int, choices: int, prompt_bytes: int, text_bytes: int) -> None:
        """Learn from one answer.

        Args:
            usage: as the provider reported it.
            total: of `usage`.
            choices: how many answers it is.
            prompt_bytes: of the request's text; 0 where it held more than text.
            text_bytes: of the streamed text, as it was written in JSON; 0 if it was not streamed.
        """
        model = self.model
        prompt, output = usage.input, usage.output
        if prompt + output != total:
            output = usage.all_output
            prompt = total - output
        if prompt_bytes >= ENOUGH_INPUT_BYTES and not usage.audio_input:
            model.prompt.note(prompt, prompt_bytes)
        if output:
            if text_bytes >= ENOUGH_TEXT_BYTES and output == usage.output:
                model.text.note(output, text_bytes)
            step = _step(output if choices == 1 else -(-output // choices))
            self.lengths.add(step)
            model.lengths.add(step)


class Learned:
    """All that one process has learned."""

    __slots__ = ("_models", "_pairs")

    def __init__(self) -> None:
        """Know nothing."""
        self._models: dict[str, ModelProfile] = {}
        self._pairs: dict[tuple[str, str], Profile] = {}

    def __len__(self) -> int:
        """Return how many profiles are kept."""
        return len(self._models) + len(self._pairs)

    def of(self, key_id: str, model: str) -> Profile:
        """Return the profile of a served model as a key uses it."""
        found = self._pairs.get((key_id, model))
        return self._begin(key_id, model) if found is None else found

    def _begin(self, key_id: str, model: str) -> Profile:
        known = self._models.get(model)
        if known is None:
            if len(self._models) >= MAX_MODELS:
                del self._models[next(iter(self._models))]
            known = self._models[model] = ModelProfile()
        if len(self._pairs) >= MAX_PAIRS:
            del self._pairs[next(iter(self._pairs))]
        profile = self._pairs[key_id, model] = Profile(known)
        return profile


def _step(tokens: int) -> int:
    """Return the histogram's step: exact below 16, then eight a doubling, up to `MAX_LENGTH`."""
    if tokens < 16:
        return tokens
    if tokens > MAX_LENGTH:
        tokens = MAX_LENGTH
    shift = tokens.bit_length() - 4
    return (shift << 3) + (tokens >> shift)


def _upper_end(step: int) -> int:
    """Return the largest count of a step."""
    if step < 16:
        return step
    shift = (step >> 3) - 1
    return (((step & 7) + 9) << shift) - 1
