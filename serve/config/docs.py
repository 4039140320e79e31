"""Writes `docs/configuration.md` from the schema: `python -m serve.config.docs`. A test compares."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import JsonValue, SecretStr
from pydantic.fields import FieldInfo

from serve.config.base import Section, Unit
from serve.config.settings import Settings
from serve.config.shape import bare, element, is_section, keys, variants

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"

_INTRODUCTION = """\
# Configuration

Made from `serve/config/` by `python -m serve.config.docs`; change it there.

Switchboard is told everything by the `args` of its application in `serve_config.yaml`, Ray Serve's own config
file:

```yaml
http_options: {host: 127.0.0.1, port: 8000}
applications:
  - name: switchboard
    import_path: serve.app:build
    args:                       # what this page lists
      models:
        - {name: demo, provider: local, model_id: models/demo}
    deployments:
      - name: Registry
        user_config: {}         # what changes live, see below
```

It is read before anything starts. Every fault is reported at once, with its path
(`models[2].engine.max_loras`), and nothing starts until all are mended. Relative paths start at the working
directory.

**Values from the environment.** `${NAME}` in any text of `args` and of a `user_config` is replaced by that
variable, which must be set and not empty; the rest of the file is Serve's, which knows no such references.
`${NAME:-default}` takes the default instead. `$$` is a plain `$`. A text that is one reference and
nothing else may stand for a number, `true` or `false`; where it comes out empty (`${NAME:-}`), the key counts
as left out. Keys and passwords belong there: what is marked *secret* appears in no log, message or dump.

**Who may connect.** Without `auth.keys` Switchboard refuses to listen on anything but loopback. Serve's own
default for `http_options.host` is `0.0.0.0`.

**What changes live.** Bots, models' `default_params` and all `limits` change without a restart, through the
`user_config` of the deployment `Registry`, in the same shapes:

```yaml
user_config:
  bots: {support: {model: demo, adapters: [support]}}
  models: {demo: {default_params: {temperature: 0.2}, limits: {max_in_flight: 32}}}
  limits: {max_in_flight: 128}
```

`bots`, where given, replaces the whole table of `args`; everything else is merged into `args` key by key. Any
other change needs `serve run` or `serve deploy` again.
"""


def page() -> str:
    """The whole page, Markdown."""
    return "\n".join([_INTRODUCTION, *_section("args", "", Settings)])


def _section(title: str, path: str, section: type[Section]) -> Iterator[str]:
    """A heading, what the section is, its table of keys, then the sections below it."""
    fields = keys(section)
    yield f"## `{title}`\n\n{inspect.getdoc(section) if path else 'The top level.'}\n"
    yield "| key | type | default | unit | meaning |\n| --- | --- | --- | --- | --- |"
    for key, field in fields.items():
        yield _row(key, path, field)
    yield ""
    for key, field in fields.items():
        below = f"{path}.{key}".removeprefix(".")
        for place, inner in _inner_sections(below, field.annotation):
            yield from _section(place, place, inner)


def _inner_sections(path: str, annotation: Any) -> Iterator[tuple[str, type[Section]]]:
    inside = bare(annotation)
    if tagged := variants(annotation):
        for tag, variant in tagged.items():
            yield (f"{path} ({tag})" if len(tagged) > 1 else path), variant
    elif is_section(inside):
        yield path, inside
    elif (held := element(inside)) is not None:
        mark = "[]" if get_origin(inside) is tuple else ".<name>"
        yield from _inner_sections(path + mark, held)


def _row(key: str, path: str, field: FieldInfo) -> str:
    inner = list(_inner_sections(f"{path}.{key}".removeprefix("."), field.annotation))
    meaning = field.description or (inspect.getdoc(inner[0][1]) or "").split("\n")[0]
    cells = [f"`{key}`", _type(field.annotation, field.metadata), _default(field), _unit(field), meaning]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _type(annotation: Any, marks: list[Any]) -> str:
    nullable = type(None) in get_args(annotation)
    name = _name(bare(annotation), [*marks, *_marks(annotation)])
    return f"{name}, or null" if nullable else name


def _name(inside: Any, marks: list[Any]) -> str:
    simple = {bool: "true or false", str: "text", SecretStr: "text, secret"}
    if inside in simple:
        return simple[inside]
    if inside in (int, float):
        return ("whole number" if inside is int else "number") + _bounds(marks)
    if get_origin(inside) is Literal:
        return "one of " + ", ".join(f"`{value}`" for value in get_args(inside))
    held = element(inside)
    if held is None:
        return "mapping"
    if get_origin(inside) is tuple:
        return f"list of {_plural(held)}"
    return "mapping, free-form" if held is JsonValue else f"mapping of {_plural(held)} by name"


def _plural(held: Any) -> str:
    inside = bare(held)
    return {str: "texts", float: "numbers"}.get(inside, "mappings")


def _bounds(marks: list[Any]) -> str:
    words = [
        (Gt, "above {}", "gt"),
        (Ge, "from {}", "ge"),
        (Lt, "below {}", "lt"),
        (Le, "to {}", "le"),
    ]
    parts = [text.format(getattr(mark, name)) for kind, text, name in words for mark in marks if isinstance(mark, kind)]
    return " " + " ".join(parts) if parts else ""


def _marks(annotation: Any) -> list[Any]:
    """Every mark of `Annotated` on the way to the bare type."""
    if get_origin(annotation) is Annotated:
        inner, *marks = get_args(annotation)
        return [*_marks(inner), *marks]
    return [mark for member in get_args(annotation) if get_origin(member) is Annotated for mark in _marks(member)]


def _unit(field: FieldInfo) -> str:
    marks = [*field.metadata, *_marks(field.annotation)]
    return next((mark.name for mark in marks if isinstance(mark, Unit)), "")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default()
    if isinstance(default, Section):
        return ""
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    if isinstance(default, float) and default.is_integer():
        default = int(default)
    if isinstance(default, str):
        return f"`{default}`" if default else '`""`'
    return f"`{json.dumps(default)}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
