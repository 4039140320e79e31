from __future__ import annotations

import os
from pathlib import Path

import pytest

from adapters.sources import CONFIG_FILE, WEIGHTS_FILE, fetch, fingerprint, open_file
from serve.errors import AdapterUnusable
from tests.adapters.files import write_adapter


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "support")


def test_a_folder_on_disk_is_a_source_through_links_too(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "current").symlink_to(folder, target_is_directory=True)
    assert fetch(str(folder)) == folder
    assert fetch(str(tmp_path / "current")) == folder
    with open_file(folder, CONFIG_FILE) as file:
        assert file.read().startswith(b"{")


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("/tmp/a\0b", "NUL"),
        ("http://127.0.0.1/adapter", "URL"),
        ("s3://bucket/adapter", "URL"),
        ("file:///etc", "URL"),
        ("%2e%2e/%2e%2e/etc", "does not exist"),
        ("x" * 5000, "does not exist"),
        ("\ud800", "does not exist"),
        (__file__, "not a folder"),
    ],
)
def test_other_sources_are_refused_without_showing_a_path(source: str, why: str) -> None:
    with pytest.raises(AdapterUnusable, match=why) as caught:
        fetch(source)
    assert source not in str(caught.value)


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(AdapterUnusable, match="does not exist"):
        fetch(str(tmp_path / "a"))


def test_a_file_may_be_a_link_within_the_folder_only(tmp_path: Path, folder: Path) -> None:
    config = folder / CONFIG_FILE
    config.rename(folder / "v1.json")
    config.symlink_to("v1.json")
    open_file(folder, CONFIG_FILE).close()

    config.unlink()
    (tmp_path / "secret").write_text("{}")
    config.symlink_to(tmp_path / "secret")
    with pytest.raises(AdapterUnusable, match="leaves the adapter's folder"):
        open_file(folder, CONFIG_FILE)

    config.unlink()
    config.symlink_to("../support-elsewhere/config.json")
    with pytest.raises(AdapterUnusable, match="leaves the adapter's folder"):
        open_file(folder, CONFIG_FILE)

    config.unlink()
    config.symlink_to(CONFIG_FILE)
    with pytest.raises(AdapterUnusable, match="leads nowhere"):
        open_file(folder, CONFIG_FILE)


def test_only_regular_files_are_read_and_a_fifo_hangs_nobody(folder: Path) -> None:
    (folder / WEIGHTS_FILE).unlink()
    os.mkfifo(folder / WEIGHTS_FILE)
    with pytest.raises(AdapterUnusable, match="not a regular file"):
        open_file(folder, WEIGHTS_FILE)
    (folder / WEIGHTS_FILE).unlink()
    (folder / WEIGHTS_FILE).mkdir()
    with pytest.raises(AdapterUnusable, match="not a regular file"):
        open_file(folder, WEIGHTS_FILE)


@pytest.mark.parametrize("pickle", ["adapter_model.bin", "adapter_model.pt"])
def test_pickled_weights_are_refused_by_name(folder: Path, pickle: str) -> None:
    (folder / WEIGHTS_FILE).rename(folder / pickle)
    with pytest.raises(AdapterUnusable, match="pickle"):
        open_file(folder, WEIGHTS_FILE)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / CONFIG_FILE).unlink()
    with pytest.raises(AdapterUnusable, match=r"It has no adapter_config\.json"):
        open_file(folder, CONFIG_FILE)


def test_the_fingerprint_changes_with_the_files(folder: Path) -> None:
    first = fingerprint(folder)
    assert fingerprint(folder) == first
    os.utime(folder / WEIGHTS_FILE, ns=(1, 1))
    second = fingerprint(folder)
    (folder / WEIGHTS_FILE).unlink()
    assert len({first, second, fingerprint(folder)}) == 3
