"""Requests of images and audio, JSON or forms, understood. Pure."""

import msgspec

from deploy.simulator.ask import Ask, check_output, decode, input_of, named_tier
from deploy.simulator.connection import Request
from deploy.simulator.form import Form, read_form
from deploy.simulator.wishes import BadRequest, find_nonce, parse_wish

IMAGE_TOKENS = {"low": 272, "medium": 1_056, "high": 4_160, "auto": 1_056}
"""Output tokens of a square image, by quality."""
PICTURE_TOKENS = 194
"""Input tokens of an uploaded image, where none are wished."""
AUDIO_BYTES_PER_SECOND = 16_000
AUDIO_TOKENS_PER_SECOND = 10


class ImagesBody(msgspec.Struct):
    """Body of `POST /v1/images/generations`, and of edits as JSON."""

    model: str
    prompt: str = ""
    n: int | None = None
    quality: str | None = None
    stream: bool | None = None
    partial_images: int | None = None
    images: list[msgspec.Raw] = []
    user: str = ""


class SpeechBody(msgspec.Struct):
    """Body of `POST /v1/audio/speech`."""

    model: str
    input: str
    voice: str | dict[str, str]
    response_format: str = "mp3"
    stream_format: str = "audio"


_images = msgspec.json.Decoder(ImagesBody)
_speech = msgspec.json.Decoder(SpeechBody)


def read_images(request: Request) -> Ask:
    """Understand a request for images, new or edited; its directive is in the prompt or in `user`."""
    content_type = request.headers.get(b"content-type", b"")
    if content_type.startswith(b"application/json"):
        body = decode(_images, request.body)
        pictures = len(body.images)
    else:
        body, pictures = _images_of(read_form(content_type, request.body))
    wish, prompt = parse_wish(body.prompt or body.user)
    count = 1 if body.n is None else body.n
    if not 1 <= count <= 10:
        raise BadRequest(f"n: {count} is not between 1 and 10")
    if body.model.startswith("dall-e"):
        return Ask(
            model=body.model, wish=wish, nonce=find_nonce(prompt), input_tokens=0, output_tokens=0, count=count,
            units={"images": count},
        )  # fmt: skip
    quality = body.quality or "auto"
    if quality not in IMAGE_TOKENS:
        raise BadRequest(f"quality: {quality!r} is not one of {', '.join(IMAGE_TOKENS)}")
    if not wish.image_input:
        wish = msgspec.structs.replace(wish, image_input=pictures * PICTURE_TOKENS)
    output = wish.output if wish.output is not None else (wish.image_output or count * IMAGE_TOKENS[quality])
    wish = msgspec.structs.replace(wish, image_output=wish.image_output or output)
    check_output(wish, output)
    ask = Ask(
        model=body.model,
        wish=wish,
        nonce=find_nonce(prompt),
        input_tokens=input_of(wish, len(prompt.split()) + wish.image_input),
        output_tokens=output,
        count=count,
        stream=bool(body.stream),
        vectors=body.partial_images or 0,
    )
    return named_tier(ask, None)


def read_speech(request: Request) -> Ask:
    """Understand a text to be spoken; `tts-1` is billed by its characters, others by tokens."""
    body = decode(_speech, request.body)
    wish, text = parse_wish(body.input)
    format_ = "sse" if body.stream_format == "sse" else body.response_format
    if body.model.startswith("tts-1"):
        if format_ == "sse":
            raise BadRequest(f"stream_format: 'sse' is not supported by {body.model}")
        return Ask(
            model=body.model, wish=wish, nonce=find_nonce(text), input_tokens=0, output_tokens=0, format=format_,
            units={"characters": len(body.input)},
        )  # fmt: skip
    output = wish.output if wish.output is not None else wish.audio_output or max(1, len(text.split()) * 4)
    wish = msgspec.structs.replace(wish, audio_output=wish.audio_output or output)
    check_output(wish, output)
    counted = input_of(wish, len(text.split()))
    nonce = find_nonce(text)
    return Ask(
        model=body.model, wish=wish, nonce=nonce, input_tokens=counted, output_tokens=output, format=format_,
        stream=format_ == "sse",
    )  # fmt: skip


def read_audio(request: Request) -> Ask:
    """Understand a transcription or translation; its directive is in the form's `prompt`."""
    form = read_form(request.headers.get(b"content-type", b""), request.body)
    model = form.texts.get("model", "")
    if not model or not form.files:
        raise BadRequest(f"{'file' if model else 'model'}: is missing")
    wish, prompt = parse_wish(form.texts.get("prompt", ""))
    size = len(form.files[0][2])
    seconds = max(1, -(-size // AUDIO_BYTES_PER_SECOND)) if wish.seconds is None else wish.seconds
    format_ = form.texts.get("response_format", "json")
    nonce = find_nonce(prompt)
    if model.startswith("whisper"):
        return Ask(
            model=model, wish=wish, nonce=nonce, input_tokens=0, output_tokens=0, format=format_,
            units={"audio_ms": seconds * 1000},
        )  # fmt: skip
    heard = wish.audio_input or seconds * AUDIO_TOKENS_PER_SECOND
    wish = msgspec.structs.replace(wish, audio_input=heard)
    output = wish.output if wish.output is not None else 16
    check_output(wish, output)
    return Ask(
        model=model,
        wish=wish,
        nonce=nonce,
        input_tokens=input_of(wish, heard + len(prompt.split())),
        output_tokens=output,
        stream=form.texts.get("stream") == "true",
        format=format_,
    )


def _images_of(form: Form) -> tuple[ImagesBody, int]:
    texts = form.texts
    if not texts.get("model") or not form.files:
        raise BadRequest(f"{'image' if texts.get('model') else 'model'}: is missing")
    body = ImagesBody(
        model=texts["model"],
        prompt=texts.get("prompt", ""),
        n=_number(texts, "n"),
        quality=texts.get("quality"),
        stream=texts.get("stream") == "true",
        partial_images=_number(texts, "partial_images"),
        user=texts.get("user", ""),
    )
    return body, sum(name.startswith("image") for name, _, _ in form.files)


def _number(texts: dict[str, str], name: str) -> int | None:
    value = texts.get(name)
    if value is None:
        return None
    if not (value.isascii() and value.isdigit()):
        raise BadRequest(f"{name}: {value[:20]!r} is not a whole number")
    return int(value)
