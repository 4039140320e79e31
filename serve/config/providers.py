"""Which providers there are: one variant of `models[]` each."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Discriminator, Tag

from serve.config.hosted import AnthropicModel, HuggingFaceModel, OpenAIModel
from serve.config.models import LocalModel

ModelConfig: TypeAlias = LocalModel | HuggingFaceModel | OpenAIModel | AnthropicModel
"""A model of any provider."""

AnyModel: TypeAlias = Annotated[
    Annotated[LocalModel, Tag("local")]
    | Annotated[HuggingFaceModel, Tag("huggingface")]
    | Annotated[OpenAIModel, Tag("openai")]
    | Annotated[AnthropicModel, Tag("anthropic")],
    Discriminator("provider"),
]
"""The same, told apart by `provider`."""
