"""Models of OpenAI, and of every server that speaks OpenAI's dialect."""

from __future__ import annotations

from collections.abc import Mapping

from typing_extensions import override

from deployments.hosted_manager import HostedManager
from deployments.provider import Provider, openai_provider
from serve.config import ModelConfig, OpenAIModel
from serve.translate.anthropic_openai import MessagesToChat
from serve.translate.responses_chat import ResponsesToChat
from serve.translate.translator import Translator

PATHS = {
    "chat": "/v1/chat/completions",
    "completion": "/v1/completions",
    "embedding": "/v1/embeddings",
    "response": "/v1/responses",
}


class OpenAIManager(HostedManager):
    """OpenAI's own format goes through whole; Anthropic's is translated."""

    @override
    async def _provider(self, config: ModelConfig, key: str) -> Provider:
        assert isinstance(config, OpenAIModel)
        return await openai_provider(config, key)

    @override
    def _routes(self, config: ModelConfig) -> Mapping[str, Translator | None]:
        assert isinstance(config, OpenAIModel)
        routes: dict[str, Translator | None] = {}
        if "chat" in config.endpoints:
            routes = {"/v1/messages": MessagesToChat(config.length_field), "/v1/responses": ResponsesToChat()}
        return routes | {PATHS[kind]: None for kind in config.endpoints}
