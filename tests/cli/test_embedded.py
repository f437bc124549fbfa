"""The embedded servers, on data of their own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg2
import pytest
import redis

from bank.embedded import HOST, EmbeddedError, Postgres, Redis, secret
from bank.embedded import server as server_module
from tests.processes import ROOT


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data directory that PostgreSQL's user can reach, also when the suite runs as root."""
    directory = Path(tempfile.mkdtemp(prefix="bank-embedded-"))
    yield directory
    if (directory / "postgres").is_symlink():
        shutil.rmtree((directory / "postgres").resolve(), ignore_errors=True)
    shutil.rmtree(directory, ignore_errors=True)


def ask(url: str, statement: str) -> object:
    connection = psycopg2.connect(url.replace("+psycopg2", ""))
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchone()[0] if cursor.description else None
    finally:
        connection.close()


def test_data_survives_a_crash_of_the_database(data_dir: Path) -> None:
    postgres = Postgres(data_dir)
    url = postgres.start()
    ask(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    postgres._child.send_signal(signal.SIGKILL)
    postgres._child.wait()
    postgres.close()
    again = Postgres(data_dir)
    try:
        assert ask(again.start(), "SELECT answer FROM kept") == 42
        assert again.port == postgres.port
    finally:
        again.stop()


def test_a_process_id_that_was_given_away_does_not_stop_the_database(data_dir: Path) -> None:
    postgres = Postgres(data_dir, durable=False)
    postgres.start()
    postgres.stop()
    # What a crash leaves behind, naming a process that lives: this one.
    stale = data_dir / "postgres" / "data" / "postmaster.pid"
    stale.write_text(f"{os.getpid()}\n{data_dir}\n1\n1\n\n{HOST}\n  1 1\nready\n")
    try:
        assert ask(postgres.start(), "SELECT 1") == 1
    finally:
        postgres.stop()


def test_the_bank_is_no_superuser_and_data_is_guarded(data_dir: Path) -> None:
    postgres = Postgres(data_dir, durable=False)
    try:
        url = postgres.start()
        assert ask(url, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
        assert ask(url, "SHOW data_checksums") == "on"
        assert ask(url, "SHOW server_encoding") == "UTF8"
        with pytest.raises(psycopg2.OperationalError, match=r"password authentication failed"):
            psycopg2.connect(host=HOST, port=postgres.port, user="bank", dbname="bank", password="wrong")
    finally:
        postgres.stop()


def test_a_second_server_on_the_same_data_is_refused(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "LOCK_TIMEOUT_S", 0.0)
    first = Redis(data_dir)
    first.start()
    try:
        with pytest.raises(EmbeddedError, match=r"runs on .* already"):
            Redis(data_dir).start()
    finally:
        first.stop()


def test_redis_asks_for_its_password_and_keeps_what_it_acknowledged(data_dir: Path) -> None:
    server = Redis(data_dir)
    try:
        with redis.Redis.from_url(server.start()) as client:
            client.set("kept", "yes")
        with redis.Redis(host=HOST, port=server.port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.get("kept")
        server._child.kill()
        server._child.wait()
        server.close()
        with redis.Redis.from_url(server.start()) as client:
            assert client.get("kept") == b"yes"
    finally:
        server.stop()


def test_a_remembered_port_that_is_taken_is_given_up(data_dir: Path) -> None:
    server = Redis(data_dir)
    server.start()
    server.stop()
    with socket.create_server((HOST, server.port)):
        another = Redis(data_dir)
        try:
            another.start()
            assert another.port != server.port
        finally:
            another.stop()


STARTS = """
import pathlib, sys
sys.path.insert(0, sys.argv[2])
from bank.embedded import Postgres, Redis
servers = [server(pathlib.Path(sys.argv[1]), durable=False) for server in (Postgres, Redis)]
print([server.start() for server in servers], flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_servers_end_with_a_parent_that_is_killed_and_start_again(data_dir: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", STARTS, str(data_dir), str(ROOT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None and parent.stdin is not None
    parent.stdout.readline()
    children = psutil.Process(parent.pid).children(recursive=True)
    assert {"postgres", "valkey-server"} <= {child.name() for child in children}
    parent.kill()
    parent.communicate()
    # Not awaiting their end: whoever starts again at once is made to wait for it.
    postgres = Postgres(data_dir, durable=False)
    try:
        assert ask(postgres.start(), "SELECT 1") == 1
    finally:
        postgres.stop()
    _, left = psutil.wait_procs(children, timeout=10)
    assert not left


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the database as another user")
def test_as_root_the_database_lies_where_its_user_reaches_it(data_dir: Path) -> None:
    closed = data_dir / "closed"
    closed.mkdir(mode=0o700)
    postgres = Postgres(closed / "data", durable=False)
    try:
        url = postgres.start()
        assert ask(url, "SELECT 1") == 1
        assert (closed / "data" / "postgres").is_symlink()
        assert postgres.home.stat().st_uid != 0
        assert closed.stat().st_mode & 0o777 == 0o700
        pid = postgres._child.pid
        assert psutil.Process(pid).uids().effective == postgres.home.stat().st_uid
    finally:
        postgres.stop()
        shutil.rmtree(postgres.home)


def test_a_database_of_another_version_is_named(data_dir: Path) -> None:
    postgres = Postgres(data_dir, durable=False)
    postgres.start()
    postgres.stop()
    (data_dir / "postgres" / "data" / "PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedError, match="made by PostgreSQL 17"):
        postgres.start()


def test_a_secret_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "one"
    before = os.umask(0)
    try:
        value = secret(path)
    finally:
        os.umask(before)
    assert secret(path) == value and len(value) >= 43
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
