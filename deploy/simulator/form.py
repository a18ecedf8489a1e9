"""Forms: bodies of `multipart/form-data`, read with the standard library's parser of e-mail. Pure."""

from email.parser import BytesParser
from email.policy import HTTP

import msgspec

from deploy.simulator.wishes import BadRequest


class Form(msgspec.Struct, frozen=True):
    """Texts by name (the last one counts), and files with their field and file names, in order."""

    texts: dict[str, str]
    files: list[tuple[str, str, bytes]]


def read_form(content_type: bytes, body: bytes) -> Form:
    """Read a form. Raises `BadRequest`."""
    if not content_type.lower().startswith(b"multipart/form-data"):
        raise BadRequest("content-type: must be multipart/form-data")
    message = BytesParser(policy=HTTP).parsebytes(b"content-type: %b\r\n\r\n%b" % (content_type, body))
    if not message.is_multipart():
        raise BadRequest("request body: is no form with this boundary")
    texts: dict[str, str] = {}
    files: list[tuple[str, str, bytes]] = []
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if not isinstance(name, str) or not isinstance(content, bytes):
            raise BadRequest("request body: a part of the form has no name")
        filename = part.get_filename()
        if filename is None:
            texts[name] = content.decode("utf-8", "replace")
        else:
            files.append((name, filename, content))
    return Form(texts, files)
