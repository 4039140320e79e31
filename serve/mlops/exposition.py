"""Several processes' Prometheus pages as one, each sample with the replica that it is from.

The pages are edited line by line: to parse an engine's page and to write it anew takes some 40 ms, and meanwhile the
router that is asked for metrics answers nobody else. Source: Prometheus' text-based exposition format, version 0.0.4,
as `prometheus_client` writes it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = r'(?!replica=)[a-zA-Z_][a-zA-Z0-9_]*="[^"\\]*(?:\\[\\"n][^"\\]*)*"'
_NUMBER = r"[-+]?(?:[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|Inf|NaN)"
_SAMPLE = re.compile(rf"({_NAME})(?:\{{((?:{_LABEL}(?:,{_LABEL})*,?)?)\}})? ({_NUMBER}(?: -?[0-9]+)?)")
"""Name, labels, and value with its timestamp."""
_ABOUT = re.compile(rf"# (?:HELP ({_NAME})(?: .*)?|TYPE ({_NAME}) (?:counter|gauge|histogram|summary|untyped))")
_PARTS = ("", "_bucket", "_sum", "_count")
"""What the names of a family's samples have beyond the family's."""


@dataclass(slots=True)
class _Family:
    about: dict[str, str] = field(default_factory=dict)
    """The lines that begin with `# HELP` and `# TYPE`, by that word."""
    samples: list[str] = field(default_factory=list)


def merged(pages: Iterable[tuple[str, bytes]]) -> bytes:
    """`pages` are (replica id, text exposition). A family that several replicas have is shown once.

    A page that cannot be read is left out: one replica's fault must not hide all others.
    """
    families: dict[str, _Family] = {}
    for replica, page in pages:
        try:
            labelled = _labelled(page.decode(), replica)
        except ValueError:
            logger.warning("the metrics of replica %s cannot be read", replica)
            continue
        for name, family in labelled.items():
            into = families.setdefault(name, _Family())
            into.about = into.about or family.about
            into.samples += family.samples
    lines = (line for family in families.values() for line in (*family.about.values(), *family.samples))
    return "".join(f"{line}\n" for line in lines).encode()


def _labelled(page: str, replica: str) -> dict[str, _Family]:
    """The page's families by name, each sample with one label more. Raises `ValueError` for what is no such page."""
    label = f'replica="{_escaped(replica)}"'
    families: dict[str, _Family] = {}
    family, members = _Family(), frozenset[str]()
    for line in page.split("\n"):
        if sample := _SAMPLE.fullmatch(line):
            name, labels, value = sample.groups()
            if name not in members:
                family, members = families.setdefault(name, _Family()), frozenset({name})
            family.samples.append(f"{name}{{{label},{labels}}} {value}" if labels else f"{name}{{{label}}} {value}")
        elif about := _ABOUT.fullmatch(line):
            name = about[1] or about[2]
            family, members = families.setdefault(name, _Family()), frozenset(name + part for part in _PARTS)
            family.about.setdefault(line[2:6], line)
        elif line and not line.startswith("#"):
            raise ValueError("neither a sample nor a comment")
    return families


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
