from __future__ import annotations

import pytest

from deployments.vendor_fields import missing
from serve.api.endpoints import Kind


@pytest.mark.parametrize(
    ("kind", "lacks", "has"),
    [
        (
            Kind.CHAT,
            {"best_of", "truncation", "max_output_tokens", "text"},
            {"max_tokens", "seed", "reasoning_effort", "reasoning"},
        ),
        (Kind.COMPLETION, {"reasoning_effort", "tools", "max_completion_tokens"}, {"max_tokens", "best_of", "stop"}),
        (
            Kind.RESPONSE,
            {"frequency_penalty", "reasoning_effort", "seed", "stop", "max_tokens", "response_format"},
            {"reasoning", "text", "max_output_tokens", "temperature", "truncation", "top_logprobs"},
        ),
        (
            Kind.MESSAGE,
            {"frequency_penalty", "reasoning_effort", "seed", "stop", "user", "verbosity"},
            {"max_tokens", "temperature", "top_p", "tools", "metadata", "context_management"},
        ),
    ],
)
def test_what_openai_has_elsewhere_is_missing(kind: Kind, lacks: set[str], has: set[str]) -> None:
    assert lacks <= missing(kind)
    assert not has & missing(kind)


@pytest.mark.parametrize("kind", list(Kind))
def test_what_no_vendor_has_may_be_the_providers_own(kind: Kind) -> None:
    assert not missing(kind) & {"top_k", "min_p", "thinking", "chat_template_kwargs"}
