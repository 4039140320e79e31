"""Models that a vendor hosts: asked with a key, at the vendor's own address or another server of its dialect."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ModelWrapValidatorHandler, PrivateAttr, SecretStr, model_validator
from typing_extensions import override

from serve.config.base import Bool, Gib, Seconds, Text, Tokens
from serve.config.models import EngineModel, ModelBase, Resources, http_url

MAX_KEY_CHARS = 4096
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")

ApiKey = Annotated[SecretStr, Field(min_length=1, max_length=MAX_KEY_CHARS)]


class MissingVariable(str):
    """The name of an environment variable that should hold a key and is not set."""

    __slots__ = ()


def with_missing_keys(args: Any, env: Mapping[str, str]) -> Any:
    """`args` with a `MissingVariable` for each key of a hosted model whose variable is not set.

    One provider's missing key must not keep the others from starting, as any other missing variable does.
    """
    if not isinstance(args, Mapping) or not isinstance(args.get("models"), list):
        return args
    return {**args, "models": [_with_missing_key(model, env) for model in args["models"]]}


def _with_missing_key(model: Any, env: Mapping[str, str]) -> Any:
    if not isinstance(model, Mapping) or model.get("provider") not in HOSTED:
        return model
    key = model.get("api_key")
    reference = _REFERENCE.fullmatch(key) if isinstance(key, str) else None
    if reference is None or env.get(reference[1]):
        return model
    return {**model, "api_key": MissingVariable(reference[1])}


class KeyedModel(ModelBase):
    """A model behind a key."""

    api_key: ApiKey | None = Field(
        None,
        description="The provider's key, as a reference: `${OPENAI_API_KEY}`. Where the variable is not set, the model "
        "is listed as unavailable and the others start.",
    )
    api_key_file: Text | None = Field(
        None, description="A file on the manager's machine that holds the key, in `api_key`'s place."
    )
    _missing: str | None = PrivateAttr(None)

    @property
    @override
    def why_unavailable(self) -> str | None:
        return f"the environment variable {self._missing} is not set" if self._missing else None

    @model_validator(mode="wrap")
    @classmethod
    def _without_its_key(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        missing = data.get("api_key") if isinstance(data, Mapping) else None
        if not isinstance(missing, MissingVariable):
            return handler(data)
        model = handler({key: value for key, value in data.items() if key != "api_key"})
        model._missing = str(missing)
        return model

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if self.api_key is not None and self.api_key_file is not None:
            raise ValueError("takes either api_key or api_key_file")
        return self

    def key(self) -> str | None:
        """The key, read from its file where it is in one. Raises `OSError`; `ValueError` for a file that holds none."""
        if self.api_key is not None:
            return self.api_key.get_secret_value()
        if self.api_key_file is None:
            return None
        key = Path(self.api_key_file).read_text(encoding="ascii").strip()
        if not re.fullmatch(rf"[!-~]{{1,{MAX_KEY_CHARS}}}", key):
            raise ValueError("the file holds no key")
        return key


class OpenAIModel(KeyedModel):
    """A model of OpenAI, or of any server that speaks its dialect (Azure, Groq, Ollama) at a `base_url`."""

    provider: Literal["openai"] = Field(description="Who serves the model.")
    model_id: Text = Field(description="What the provider calls it (`gpt-5.2`).")
    base_url: Annotated[Text, AfterValidator(http_url)] | None = Field(
        None, description="Another server of OpenAI's dialect, with its `/v1`; null: OpenAI itself."
    )
    organization: Text | None = Field(None, description="OpenAI's organization to bill; null: the key's own.")
    project: Text | None = Field(None, description="OpenAI's project to bill; null: the key's own.")
    endpoints: Annotated[tuple[Literal["chat", "completion", "embedding", "response"], ...], Field(min_length=1)] = (
        Field(
            ("chat", "completion", "embedding", "response"),
            description="What the server has of OpenAI's API. `/v1/responses` and `/v1/messages` are translated to "
            "`chat` where they are missing.",
        )
    )
    length_field: Literal["max_completion_tokens", "max_tokens"] = Field(
        "max_completion_tokens",
        description="What translated requests call the bound of the answer; older servers know only `max_tokens`.",
    )
    resources: Resources = Resources(num_cpus=0.2)


class AnthropicModel(KeyedModel):
    """A model of Anthropic, or behind a server that speaks its dialect."""

    provider: Literal["anthropic"] = Field(description="Who serves the model.")
    model_id: Text = Field(description="What the provider calls it (`claude-sonnet-4-5`).")
    base_url: Annotated[Text, AfterValidator(http_url)] | None = Field(
        None, description="Another server of Anthropic's dialect, without `/v1`; null: Anthropic itself."
    )
    default_max_tokens: Tokens = Field(
        4096,
        ge=1,
        le=1_000_000,
        description="Bound of an answer whose request, translated from OpenAI's API, has none.",
    )
    resources: Resources = Resources(num_cpus=0.2)


def _commit(revision: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ValueError("must be a commit, 40 hexadecimal digits: a branch or tag may change under a running model")
    return revision


def _repository(model_id: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", model_id, re.ASCII):
        raise ValueError("must be a repository of the hub: organisation/name")
    return model_id


class HuggingFaceModel(EngineModel):
    """A model of the Hugging Face hub, downloaded and run in an engine of ours."""

    provider: Literal["huggingface"] = Field(description="Who serves the model.")
    model_id: Annotated[Text, AfterValidator(_repository)] = Field(description="The repository: `organisation/name`.")
    revision: Annotated[Text, AfterValidator(_commit)] = Field(
        description="The commit, 40 hexadecimal digits, as the hub's page of the repository's history shows it."
    )
    token: ApiKey | None = Field(
        None, description="The hub's token, as a reference (`${HF_TOKEN:-}`); only gated and private ones need it."
    )
    trust_remote_code: Bool = Field(
        False, description="Run Python code that comes with exactly this revision. It may do anything."
    )
    hub: Annotated[Text, AfterValidator(http_url)] | None = Field(
        None, description="The hub's address; null: `HF_ENDPOINT`, or huggingface.co."
    )
    cache_dir: Text = Field(
        ".switchboard/hub", description="Where downloads are kept, on each machine. Models may share it."
    )
    cache_gib: Gib = Field(
        200.0,
        gt=0,
        le=1_048_576,
        description="Bound of `cache_dir`; what was used longest ago goes, unless it is in use.",
    )
    stall_s: Seconds = Field(
        60.0,
        gt=0,
        le=3600,
        description="A download in which nothing comes for so long is begun again where it stopped.",
    )


HOSTED = ("openai", "anthropic")
"""Providers whose missing key is no fault of the whole configuration."""
