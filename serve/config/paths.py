"""Files and directories that the configuration names, and whether what they hold fits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import SecretStr

from serve.config.base import GIB
from serve.config.draft import Draft
from serve.config.faults import Fault, Loc
from serve.config.hosted import HuggingFaceModel, KeyedModel
from serve.config.managers import managers_of
from serve.config.models import EngineModel, LocalModel
from serve.config.providers import ModelConfig
from serve.config.schema import AdapterConfig
from serve.config.settings import Settings
from serve.config.sizes import size_in_memory

_SQLITE = "sqlite:///"


def path_faults(draft: Draft, root: Path, look: bool = True) -> list[Fault]:
    """Every path that is not what it should be. Without `look` the disk, another machine's, is not asked."""
    faults = []
    for loc, path, wanted in _named_paths(draft):
        if "://" in path:
            faults.append(Fault(loc, "must be a path on disk, not a URL"))
        elif look and (missing := _missing(path, root, wanted)):
            faults.append(Fault(loc, missing))
    return [*faults, *_too_small_caches(draft, root)] if look else faults


def _named_paths(draft: Draft) -> Iterator[tuple[Loc, str, str | None]]:
    """Each path with its place, and the file that the directory must hold: None if it is a file itself."""
    for place, model in draft.models.items():
        if isinstance(model, LocalModel) and model.base_url is None:
            yield ("models", place, "model_id"), model.model_id, "config.json"
        if isinstance(model, EngineModel) and model.engine.chat_template is not None:
            yield ("models", place, "engine", "chat_template"), model.engine.chat_template, None
    for place, adapter in draft.adapters.items():
        for label, path in adapter.sources.items():
            key = ("source",) if label is None else ("versions", label)
            yield ("adapters", place, *key), path, "adapter_config.json"


def _missing(path: str, root: Path, wanted: str | None) -> str | None:
    # os.path's questions answer False where pathlib's raise: forbidden, too long, a NUL in the name.
    full = os.path.join(root, path)
    if wanted is None:
        return None if os.path.isfile(full) else f"there is no file {path!r}"
    if not os.path.isdir(full):
        return f"there is no directory {path!r}"
    return None if os.path.isfile(os.path.join(full, wanted)) else f"the directory {path!r} holds no {wanted}"


def _too_small_caches(draft: Draft, root: Path) -> Iterator[Fault]:
    """Model caches without room for even one of their models alone, which no replica could ever load."""
    bounds = {manager.name: manager.model_cache_bytes for manager in managers_of(draft.models.values())}
    for model in draft.models.values():
        if not isinstance(model, LocalModel) or model.is_remote or _missing(model.model_id, root, "config.json"):
            continue
        size = size_in_memory(root / model.model_id, model.engine)
        if size > bounds[model.manager_name]:
            message = f"is too small for the weights and KV cache of '{model.name}', {size / GIB:.2f} GiB"
            yield Fault(("models", _who_bounds(draft, model.manager_name), "model_cache_gib"), message)


def _who_bounds(draft: Draft, manager: str) -> int:
    """The place of the model whose `model_cache_gib` counts for the manager."""
    of = (place for place, model in draft.models.items() if model.manager_name == manager)
    return next(place for place in of if "model_cache_gib" in draft.models[place].model_fields_set)


def resolved(settings: Settings, root: Path) -> Settings:
    """The settings with absolute paths, which mean the same whatever a process's working directory."""
    storage = settings.adapter_storage
    sessions = settings.sessions
    return settings.model_copy(
        update={
            "models": tuple(_resolved_model(model, root) for model in settings.models),
            "adapters": tuple(_resolved_adapter(adapter, root) for adapter in settings.adapters),
            "adapter_storage": storage.model_copy(update={"cache_dir": _absolute(storage.cache_dir, root)}),
            "sessions": sessions.model_copy(update={"store": _resolved_store(sessions.store, root)}),
        }
    )


def _absolute(path: str, root: Path) -> str:
    return os.path.abspath(os.path.join(root, path))


def _resolved_model(model: ModelConfig, root: Path) -> ModelConfig:
    changed: dict[str, object] = {}
    if isinstance(model, EngineModel) and model.engine.chat_template is not None:
        template = _absolute(model.engine.chat_template, root)
        changed["engine"] = model.engine.model_copy(update={"chat_template": template})
    if isinstance(model, LocalModel) and model.base_url is None:
        changed["model_id"] = _absolute(model.model_id, root)
    if isinstance(model, KeyedModel) and model.api_key_file is not None:
        changed["api_key_file"] = _absolute(model.api_key_file, root)
    if isinstance(model, HuggingFaceModel):
        changed["cache_dir"] = _absolute(model.cache_dir, root)
    return model.model_copy(update=changed)


def _resolved_adapter(adapter: AdapterConfig, root: Path) -> AdapterConfig:
    if adapter.versions is None:
        return adapter.model_copy(update={"source": _absolute(adapter.source or "", root)})
    versions = {label: _absolute(path, root) for label, path in adapter.versions.items()}
    return adapter.model_copy(update={"versions": versions})


def _resolved_store(store: SecretStr, root: Path) -> SecretStr:
    """SQLAlchemy counts slashes: three before a relative path, four before an absolute one."""
    url = store.get_secret_value()
    file, mark, query = url.removeprefix(_SQLITE).partition("?")
    if not url.startswith(_SQLITE):
        return store
    return SecretStr(_SQLITE + _absolute(file, root) + mark + query)
