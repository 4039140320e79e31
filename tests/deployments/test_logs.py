"""What reaches the person who runs it."""

from __future__ import annotations

import pytest

from deployments.logs import saying_why_not
from serve.launch import _failures


def test_the_launcher_finds_why_something_does_not_start(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="no\ndoor"), saying_why_not("a router"):
        raise ValueError("no\ndoor")
    assert _failures(capfd.readouterr().err) == {"could not start a router: ValueError: no door"}


def test_what_starts_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with saying_why_not("a router"):
        pass
    assert capfd.readouterr().err == ""
