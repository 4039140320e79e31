"""Several processes' Prometheus pages as one, each sample with the replica that it is from."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector, CollectorRegistry
from typing_extensions import override

logger = logging.getLogger(__name__)


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    @override
    def collect(self) -> list[Metric]:
        return self._families


def merged(pages: Iterable[tuple[str, bytes]]) -> bytes:
    """`pages` are (replica id, text exposition). A family that several replicas have is shown once.

    A page that cannot be read is left out: one replica's fault must not hide all others.
    """
    families: dict[str, Metric] = {}
    for replica, page in pages:
        for family in _read(replica, page):
            into = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                into.samples.append(sample._replace(labels={**sample.labels, "replica": replica}))
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(families.values()))
    return generate_latest(registry)


def _read(replica: str, page: bytes) -> list[Metric]:
    try:
        return list(text_string_to_metric_families(page.decode()))
    except ValueError:
        logger.warning("the metrics of replica %s cannot be read", replica)
        return []
