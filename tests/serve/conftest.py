"""Databases for the tests: a SQLite file always, PostgreSQL where its programs are installed."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest

INITDB_OPTIONS = ("--no-locale", "--encoding=UTF8", "--no-sync")
SERVER_OPTIONS = ("-c", "listen_addresses=", "-c", "fsync=off", "-c", "log_min_messages=log")

_names = count()


def _postgres_bin() -> Path | None:
    """Debian keeps the server's programs out of PATH."""
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None, key=lambda path: int(path.parent.name))


def _as_other_user() -> list[str]:
    """PostgreSQL refuses to run as root. And it ends with this process, however that ends."""
    user = ["--reuid=postgres", "--regid=postgres", "--init-groups"] if os.geteuid() == 0 else []
    return ["setpriv", *user, "--pdeathsig=QUIT"]


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[Path]:
    """The folder of a throwaway server's only socket: no port to collide on."""
    programs = _postgres_bin()
    if programs is None or shutil.which("setpriv") is None:
        pytest.skip("PostgreSQL's programs are not installed")
    with tempfile.TemporaryDirectory(prefix="pg-") as name:
        folder = Path(name)
        if os.geteuid() == 0:
            try:
                user = pwd.getpwnam("postgres")
            except KeyError:
                pytest.skip("no user that PostgreSQL could run as")
            os.chown(folder, user.pw_uid, user.pw_gid)
        data = folder / "data"
        initdb = [f"{programs}/initdb", "-D", f"{data}", "-U", "postgres", "-A", "trust", *INITDB_OPTIONS]
        subprocess.run([*_as_other_user(), *initdb], check=True, capture_output=True, cwd=folder)
        postgres = [f"{programs}/postgres", "-D", f"{data}", "-k", f"{folder}", *SERVER_OPTIONS]
        server = subprocess.Popen(
            [*_as_other_user(), *postgres],
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
        )
        assert server.stderr is not None
        with server.stderr as log:
            assert any("ready to accept connections" in line for line in log), "PostgreSQL did not start"
            yield folder
            server.send_signal(signal.SIGQUIT)  # at once: nothing in it is to be kept
            log.read()
        server.wait()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/state/switchboard.db"


@pytest.fixture
def postgres_url(postgres_cluster: Path) -> str:
    """An empty database."""
    name = f"test{next(_names)}"
    with psycopg.connect(host=str(postgres_cluster), user="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return f"postgresql://postgres@/{name}?host={postgres_cluster}"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url
