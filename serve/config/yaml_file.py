"""YAML files, read with more care than `yaml.safe_load` takes: a key given twice is a fault."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from typing_extensions import override

from serve.errors import ConfigError

MAX_BYTES = 4 * 1024**2


class _Loader(yaml.SafeLoader):
    """PyYAML lets the last of two equal keys win without a word; that would lose a bot."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.faults: list[str] = []

    @override
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                self.faults.append(f"line {key.start_mark.line + 1}: the key '{key.value}' is there twice")
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)

    @override
    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError, OverflowError):
            # What PyYAML's constructors raise for `2026-02-31` or `!!int x`.
            raise yaml.constructor.ConstructorError(None, None, "not a value of its type", node.start_mark) from None


def read_yaml(path: Path) -> Any:
    """The file's one document. Raises `ConfigError`, with the line, for anything that is not sound YAML."""
    source = path.name
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(source, (f"cannot be read: {error.strerror}",)) from None
    if len(content) > MAX_BYTES:
        raise ConfigError(source, (f"is longer than {MAX_BYTES} bytes",))
    try:
        loader = _Loader(content.decode("utf-8-sig"))
        try:
            value = loader.get_single_data()
        finally:
            loader.dispose()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(source, (f"line {line}: is not UTF-8 text",)) from None
    except RecursionError:
        raise ConfigError(source, ("is nested too deeply",)) from None
    except yaml.YAMLError as error:
        raise ConfigError(source, (_explained(error),)) from None
    if loader.faults:
        raise ConfigError(source, tuple(loader.faults))
    return value


def _explained(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: "
        return where + " ".join(filter(None, (error.context, error.problem)))
    if isinstance(error, yaml.reader.ReaderError):
        return f"holds a character that YAML does not allow, at position {error.position}"
    return "is not YAML"
