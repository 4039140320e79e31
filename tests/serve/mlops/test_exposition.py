"""One page of metrics out of many."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from serve.mlops.exposition import merged

PAGE = b"""# HELP requests_total Requests.
# TYPE requests_total counter
requests_total{model="demo"} 3.0
# HELP seconds Time.
# TYPE seconds histogram
seconds_bucket{le="1.0"} 1.0
seconds_bucket{le="+Inf"} 2.0
seconds_count 2.0
seconds_sum 3.0
"""


def samples(page: bytes) -> list[tuple[str, str, float]]:
    """Name, replica and value."""
    return [
        (sample.name, sample.labels["replica"], sample.value)
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    ]


def test_each_family_once_each_sample_with_its_replica() -> None:
    page = merged([("one", PAGE), ("two", PAGE)])
    assert page.count(b"# TYPE seconds histogram") == page.count(b"# TYPE requests_total counter") == 1
    one = [sample for sample in samples(page) if sample[1] == "one"]
    assert [(name, value) for name, _, value in one] == [
        ("requests_total", 3.0),
        ("seconds_bucket", 1.0),
        ("seconds_bucket", 2.0),
        ("seconds_count", 2.0),
        ("seconds_sum", 3.0),
    ]
    assert len(samples(page)) == 10


def test_a_familys_samples_stand_together_after_what_it_is() -> None:
    other = b"# HELP more More.\n# TYPE more gauge\nmore 1.0\n" + PAGE
    assert merged([("one", PAGE), ("two", other)]).decode().splitlines() == [
        "# HELP requests_total Requests.",
        "# TYPE requests_total counter",
        'requests_total{replica="one",model="demo"} 3.0',
        'requests_total{replica="two",model="demo"} 3.0',
        "# HELP seconds Time.",
        "# TYPE seconds histogram",
        'seconds_bucket{replica="one",le="1.0"} 1.0',
        'seconds_bucket{replica="one",le="+Inf"} 2.0',
        'seconds_count{replica="one"} 2.0',
        'seconds_sum{replica="one"} 3.0',
        'seconds_bucket{replica="two",le="1.0"} 1.0',
        'seconds_bucket{replica="two",le="+Inf"} 2.0',
        'seconds_count{replica="two"} 2.0',
        'seconds_sum{replica="two"} 3.0',
        "# HELP more More.",
        "# TYPE more gauge",
        'more{replica="two"} 1.0',
    ]


@pytest.mark.parametrize(
    ("line", "labelled"),
    [
        ("x 1", 'x{replica="r"} 1'),
        ("x{} 1", 'x{replica="r"} 1'),
        ('x{a="1"} +Inf', 'x{replica="r",a="1"} +Inf'),
        ('x{a="1",} NaN', 'x{replica="r",a="1",} NaN'),
        ('x{a="1",b=""} -1.5e-07', 'x{replica="r",a="1",b=""} -1.5e-07'),
        ('x{a="} 1",b="\\\\\\",\\n{"} 1.0', 'x{replica="r",a="} 1",b="\\\\\\",\\n{"} 1.0'),
        ('x{its_replica="a replica="} 1', 'x{replica="r",its_replica="a replica="} 1'),
        ('vllm:x{a="ü"} 1.0 1792000000000', 'vllm:x{replica="r",a="ü"} 1.0 1792000000000'),
    ],
)
def test_a_sample_keeps_all_that_it_has(line: str, labelled: str) -> None:
    assert merged([("r", f"{line}\n".encode())]).decode() == f"{labelled}\n"


@pytest.mark.parametrize(
    "line",
    [
        "x",
        "x y",
        "1x 1",
        "x{a=1} 1",
        'x{a="1} 1',
        'x{a="1"b="2"} 1',
        'x{a="\\t"} 1',
        'x{replica="other"} 1',  # a label twice: Prometheus would refuse all of it
        'x 1 # {id="1"} 0.5',  # an exemplar, which is not of this format
    ],
)
def test_a_page_with_a_line_that_is_no_sample_is_left_out(line: str) -> None:
    assert merged([("bad", f"good 1\n{line}\n".encode()), ("good", b"good 1\n")]) == b'good{replica="good"} 1\n'


def test_comments_are_left_out() -> None:
    assert merged([("r", b"# a comment\n#\n# TYPE x nonsense\n\nx 1\n# EOF\n")]) == b'x{replica="r"} 1\n'


TEXTS = st.text(st.characters(codec="utf-8"))


@given(help_text=TEXTS, labels=st.lists(TEXTS, min_size=1, unique=True), replica=TEXTS)
def test_whatever_labels_and_help_hold_is_kept(help_text: str, labels: list[str], replica: str) -> None:
    registry = CollectorRegistry()
    counter = Counter("x", help_text, ["a", "b"], registry=registry)
    for label in labels:
        counter.labels(label, "b").inc()
    page = generate_latest(registry)
    before = [family for family in text_string_to_metric_families(page.decode()) if family.samples]
    after = list(text_string_to_metric_families(merged([(replica, page)]).decode()))
    for family in before:
        family.samples = [sample._replace(labels=sample.labels | {"replica": replica}) for sample in family.samples]
    assert after == before


def test_a_name_that_needs_quoting() -> None:
    page = merged([('a"b\\c\n', b"x 1\n")])
    assert samples(page) == [("x", 'a"b\\c\n', 1.0)]


CUT_LINES = st.tuples(st.sampled_from(PAGE.splitlines()), st.integers(1, 40)).map(lambda cut: cut[0][: cut[1]])


@given(st.binary() | st.text().map(str.encode) | CUT_LINES)
def test_a_page_that_cannot_be_read_hides_no_other(wild: bytes) -> None:
    page = merged([("wild", wild), ("good", b"good 1\n")])
    assert ("good", "good", 1.0) in samples(page)
