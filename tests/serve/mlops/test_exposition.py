from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
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


def test_a_name_that_needs_quoting() -> None:
    page = merged([('a"b\\c\n', b"x 1\n")])
    assert samples(page) == [("x", 'a"b\\c\n', 1.0)]


CUT_LINES = st.tuples(st.sampled_from(PAGE.splitlines()), st.integers(1, 40)).map(lambda cut: cut[0][: cut[1]])


@given(st.binary() | st.text().map(str.encode) | CUT_LINES)
def test_a_page_that_cannot_be_read_hides_no_other(wild: bytes) -> None:
    page = merged([("wild", wild), ("good", b"good 1\n")])
    assert ("good", "good", 1.0) in samples(page)
