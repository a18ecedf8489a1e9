"""The generated pages: current, whole, and free of dangling references."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from deploy.reference.__main__ import DOCS
from deploy.reference.configuration import PARTS
from deploy.reference.fields import field_docs
from deploy.reference.pages import SETTINGS, pages
from deploy.reference.topics import asyncapi
from schemas.connection import KafkaConnection
from schemas.topics import TOPICS

PAGES = pages()


@pytest.mark.parametrize("name", list(PAGES))
def test_a_committed_page_is_what_the_code_says(name: str) -> None:
    """`make docs` would change nothing."""
    assert (DOCS / name).read_text() == PAGES[name], f"docs/{name} is stale: run `make docs`"


def test_asyncapi_names_every_topic_and_its_references_hold() -> None:
    """Every channel, message and schema that is referred to exists."""
    document: dict[str, Any] = yaml.safe_load(asyncapi())
    assert list(document["channels"]) == [topic.name for topic in TOPICS]
    for reference in re.findall(r"\$ref: '?(#/[^\s']+)'?", asyncapi()):
        place: Any = document
        for part in reference.removeprefix("#/").split("/"):
            assert part in place, reference
            place = place[part]


@pytest.mark.parametrize("model", [*(part for _, part in PARTS), KafkaConnection, *(found for _, found in SETTINGS)])
def test_every_field_is_documented(model: type[BaseModel]) -> None:
    """A field of the policy or of settings has a docstring below it."""
    nested = {name for name, field in model.model_fields.items() if field.annotation is KafkaConnection}
    missing = set(model.model_fields) - set(field_docs(model)) - nested
    assert not missing, f"{model.__module__}.{model.__name__}: {sorted(missing)}"
