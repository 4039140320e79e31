from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest

from adapters.snapshots import SnapshotStore
from adapters.sources import ADAPTER_FILES, CONFIG_FILE, WEIGHTS_FILE
from serve.errors import AdapterUnusable, Unavailable
from tests.adapters.files import lora, write_adapter

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "support")


def contents(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ADAPTER_FILES]


def test_a_copy_is_named_by_what_is_in_it(store: SnapshotStore, folder: Path) -> None:
    snapshot = store.take("demo", "support", folder)
    digest = hashlib.sha256()
    for name, data in zip(ADAPTER_FILES, contents(folder), strict=True):
        digest.update(name.encode() + b"\0" + len(data).to_bytes(8, "big") + data)
    assert snapshot.digest == digest.hexdigest()[:12]
    assert snapshot.path.parts[-2:] == ("demo", f"support@{snapshot.digest}")
    assert contents(snapshot.path) == contents(folder)


def test_edits_and_deletion_of_the_source_do_not_touch_the_copy(store: SnapshotStore, folder: Path) -> None:
    snapshot = store.take("demo", "support", folder)
    before = contents(snapshot.path)
    write_adapter(folder, lora(value=2))
    second = store.take("demo", "support", folder)
    shutil.rmtree(folder)
    assert second.digest != snapshot.digest
    assert contents(snapshot.path) == before


def test_the_same_bytes_make_the_same_copy(store: SnapshotStore, folder: Path, tmp_path: Path) -> None:
    first = store.take("demo", "support", folder)
    inode = first.path.stat().st_ino
    second = store.take("demo", "support", write_adapter(tmp_path / "moved"))
    assert (second.path, second.path.stat().st_ino) == (first.path, inode)


def test_other_files_of_the_folder_are_not_copied(store: SnapshotStore, folder: Path) -> None:
    (folder / "adapter_model.bin").write_bytes(b"cos\nsystem\n")
    assert {file.name for file in store.take("demo", "support", folder).path.iterdir()} == set(ADAPTER_FILES)


def test_a_damaged_copy_is_replaced(store: SnapshotStore, folder: Path) -> None:
    snapshot = store.take("demo", "support", folder)
    (snapshot.path / WEIGHTS_FILE).unlink()
    assert contents(store.take("demo", "support", folder).path) == contents(folder)


def test_names_cannot_leave_the_root(store: SnapshotStore, folder: Path, tmp_path: Path) -> None:
    for model, name in (("..", ".."), ("org/model", "../../x"), (".", "a")):
        path = store.take(model, name, folder).path
        assert path.resolve().is_relative_to(tmp_path / "cache")
        assert path.parent.parent == tmp_path / "cache"


def test_too_large_files_are_refused_before_they_are_copied(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterUnusable, match=r"adapter_model\.safetensors has \d+ bytes; at most 10"):
        SnapshotStore(tmp_path / "cache", max_weights_bytes=10).take("demo", "support", folder)
    (folder / CONFIG_FILE).write_bytes(b" " * (2 << 20))
    with pytest.raises(AdapterUnusable, match=r"adapter_config\.json has"):
        SnapshotStore(tmp_path / "cache", max_weights_bytes=1 << 20).take("demo", "support", folder)


def test_what_cannot_be_written_may_go_better_next_time(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in the way")
    with pytest.raises(Unavailable):
        SnapshotStore(tmp_path / "cache", max_weights_bytes=1 << 20).take("demo", "support", folder)


def test_a_refused_adapter_leaves_nothing_behind(store: SnapshotStore, folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS_FILE).unlink()
    with pytest.raises(AdapterUnusable):
        store.take("demo", "support", folder)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_files_that_change_during_the_copy_make_no_version(
    store: SnapshotStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The writer strikes between the two files: a configuration of one version, the weights of another.
    copy_file = SnapshotStore._copy_file

    def and_the_writer_strikes(self: SnapshotStore, source: Path, copy: Path, digest: object) -> None:
        copy_file(self, source, copy, digest)
        if copy.name == CONFIG_FILE:
            write_adapter(folder, lora(value=2), lora_alpha=4)

    monkeypatch.setattr(SnapshotStore, "_copy_file", and_the_writer_strikes)
    with pytest.raises(Unavailable, match="changed while they were read"):
        store.take("demo", "support", folder)


def test_a_sweep_takes_only_what_nobody_holds(store: SnapshotStore, folder: Path, tmp_path: Path) -> None:
    held = store.take("demo", "support", folder)
    released = store.take("demo", "support", write_adapter(folder, lora(value=2)))
    twice = store.take("demo", "support", write_adapter(folder, lora(value=3)))
    store.take("demo", "support", folder).release()
    released.release()
    (tmp_path / "cache" / ".incoming-crashed").mkdir()

    # Another process, as far as locks go: it opens the same files anew.
    assert SnapshotStore(tmp_path / "cache", 1).sweep() == 1

    left = {path.name for path in (tmp_path / "cache").glob("*/*")}
    assert left == {held.path.name, twice.path.name}
    assert not (tmp_path / "cache" / ".incoming-crashed").exists()


HOLD = """
import sys
from pathlib import Path
from adapters.snapshots import SnapshotStore

SnapshotStore(Path(sys.argv[1]), 1 << 20).take("demo", "support", Path(sys.argv[2]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_copy_stays_while_another_process_holds_it(store: SnapshotStore, folder: Path, tmp_path: Path) -> None:
    snapshot = store.take("demo", "support", folder)
    command = [sys.executable, "-c", HOLD, str(tmp_path / "cache"), str(folder)]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True, cwd=ROOT) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        snapshot.release()
        assert store.sweep() == 0
        other.kill()
    assert store.sweep() == 1


def test_nothing_to_sweep(store: SnapshotStore) -> None:
    assert store.sweep() == 0
