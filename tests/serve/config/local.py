from __future__ import annotations

from serve.config import LocalModel, Settings


def local(settings: Settings, place: int = 0) -> LocalModel:
    """The model there, which is a local one."""
    model = settings.models[place]
    assert isinstance(model, LocalModel)
    return model
