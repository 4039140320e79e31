"""Models of Anthropic."""

from __future__ import annotations

from collections.abc import Mapping

from typing_extensions import override

from deployments.hosted_manager import HostedManager
from deployments.provider import Provider, anthropic_provider
from serve.config import AnthropicModel, ModelConfig
from serve.translate.chained import Chained
from serve.translate.openai_anthropic import ChatToMessages
from serve.translate.responses_chat import ResponsesToChat
from serve.translate.translator import Translator


class AnthropicManager(HostedManager):
    """Anthropic's own format goes through whole; OpenAI's is translated."""

    signs_thinking = True

    @override
    async def _provider(self, config: ModelConfig, key: str) -> Provider:
        assert isinstance(config, AnthropicModel)
        return await anthropic_provider(config, key)

    @override
    def _routes(self, config: ModelConfig) -> Mapping[str, Translator | None]:
        assert isinstance(config, AnthropicModel)
        chat = ChatToMessages(config.default_max_tokens)
        return {
            "/v1/messages": None,
            "/v1/messages/count_tokens": None,
            "/v1/chat/completions": chat,
            "/v1/responses": Chained(ResponsesToChat(thinking=True), chat),
        }
