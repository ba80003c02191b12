"""Kept SSH connections."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fleet import ssh
from fleet.ssh import Connection, ConnectionPool
from tests.fleet.ssh_host import SshHost, ssh_host


def test_pool_keeps_one_connection_when_many_threads_ask(host: SshHost) -> None:
    pool = ConnectionPool(timeout=5)
    with ThreadPoolExecutor(8) as threads:
        got = list(threads.map(lambda _number: pool.get(host.endpoint()), range(16)))
    assert len(set(map(id, got))) == 1
    assert len(host.connections) == 1
    pool.close()
    assert not got[0].is_alive


def test_pool_connects_anew_when_connection_was_dropped(host: SshHost) -> None:
    pool = ConnectionPool(timeout=5)
    first = pool.get(host.endpoint())
    first.close()
    second = pool.get(host.endpoint())
    pool.drop(host.endpoint())
    assert not second.is_alive
    third = pool.get(host.endpoint())
    assert third.run("echo there").stdout == b"there\n"
    assert len({id(first), id(second), id(third)}) == 3
    pool.close()


def test_pool_connects_anew_when_credentials_changed(host: SshHost) -> None:
    pool = ConnectionPool(timeout=5)
    by_key = pool.get(host.endpoint())
    by_password = pool.get(host.endpoint(private_key="", password=host.password))
    assert by_password.is_alive
    assert not by_key.is_alive
    pool.close()


def test_pool_asks_for_a_sign_of_life_when_connection_was_idle(host: SshHost) -> None:
    pool = ConnectionPool(timeout=5)
    first = pool.get(host.endpoint())
    first.used_at -= pool.IDLE_SECONDS
    assert pool.get(host.endpoint()) is first
    assert time.monotonic() - first.used_at < pool.IDLE_SECONDS
    with host.paused():
        assert not first.ping(0.3)
    assert not first.is_alive
    assert pool.get(host.endpoint()) is not first
    pool.close()


def test_pool_limits_the_starts_when_many_hosts_are_new(monkeypatch: pytest.MonkeyPatch) -> None:
    starting, most, lock = 0, 0, threading.Lock()
    really_open = Connection.open

    def counting_open(endpoint: ssh.Endpoint, timeout: float) -> Connection:
        nonlocal starting, most
        with lock:
            starting += 1
            most = max(most, starting)
        time.sleep(0.05)
        try:
            return really_open(endpoint, timeout)
        finally:
            with lock:
                starting -= 1

    monkeypatch.setattr(Connection, "open", counting_open)
    pool = ConnectionPool(starts=2, timeout=5)
    with ssh_host() as host, ThreadPoolExecutor(6) as threads:
        users = [host.endpoint(user=f"user{number}") for number in range(6)]
        assert all(connection.is_alive for connection in threads.map(pool.get, users))
        pool.close()
    assert most == 2
