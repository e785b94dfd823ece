"""The proxy passes everything on unharmed, until it is told to do otherwise."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from sandbox.proxy import Proxy
from sandbox.servers import Redis, free_port

PROJECT = Path(__file__).parents[2]
PATIENCE = 60.0
A_MOMENT = 0.3


class Peer:
    """A server that the tests speak for: it hands out its ends of the connections."""

    def __init__(self) -> None:
        self.door = socket.create_server(("127.0.0.1", 0))
        self.door.settimeout(PATIENCE)
        self.address: tuple[str, int] = self.door.getsockname()
        self.open: list[socket.socket] = [self.door]

    def accept(self) -> socket.socket:
        end, _ = self.door.accept()
        end.settimeout(PATIENCE)
        self.open.append(end)
        return end

    def pair(self, proxy: Proxy) -> tuple[socket.socket, socket.socket]:
        """The client's end and the server's end of a new connection through the proxy."""
        client = socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE)
        self.open.append(client)
        return client, self.accept()


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    for end in peer.open:
        end.close()


@pytest.fixture
def proxy(peer: Peer) -> Iterator[Proxy]:
    with Proxy(peer.address) as proxy:
        yield proxy


def read(end: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size and (part := end.recv(size - len(found))):
        found += part
    return bytes(found)


def quiet(end: socket.socket) -> bool:
    """Whether nothing comes for a moment."""
    end.settimeout(A_MOMENT)
    try:
        end.recv(1)
    except TimeoutError:
        return True
    finally:
        end.settimeout(PATIENCE)
    return False


def until(condition, what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_both_directions_pass_and_an_end_is_passed_on_alone(peer, proxy):
    client, server = peer.pair(proxy)
    client.sendall(b"question")
    assert read(server, 8) == b"question"
    client.shutdown(socket.SHUT_WR)
    assert server.recv(1) == b""
    server.sendall(b"answer")
    assert read(client, 6) == b"answer"
    server.close()
    assert client.recv(1) == b""
    until(lambda: proxy.connections == 0, "the connection is not forgotten")


def test_much_data_passes_unharmed(peer, proxy):
    client, server = peer.pair(proxy)
    data = os.urandom(1 << 20) * 16
    sender = threading.Thread(target=client.sendall, args=(data,))
    sender.start()
    assert read(server, len(data)) == data
    sender.join()


def test_who_does_not_read_slows_down_who_writes(peer, proxy):
    client, _ = peer.pair(proxy)
    client.settimeout(A_MOMENT)
    with pytest.raises(TimeoutError):
        client.sendall(bytes(256 << 20))


def test_a_reset_on_one_side_is_a_reset_on_the_other(peer, proxy):
    client, server = peer.pair(proxy)
    server.sendall(b"unread")
    until(lambda: client.recv(1, socket.MSG_PEEK), "nothing came")
    client.close()  # with unread bytes, which makes it a reset
    with pytest.raises(ConnectionResetError):
        server.recv(1)


@pytest.mark.parametrize("direction", ["to_server", "to_client"])
def test_a_stall_holds_one_direction_and_release_passes_it_on(peer, proxy, direction):
    client, server = peer.pair(proxy)
    sender, receiver = (client, server) if direction == "to_server" else (server, client)
    proxy.stall(direction)
    data = os.urandom(8 << 20)
    sender.sendall(data)  # taken, although nobody reads it
    assert quiet(receiver)
    receiver.sendall(b"the other way")
    assert read(sender, 13) == b"the other way"
    later, later_server = peer.pair(proxy)
    sent_by, read_by = (later, later_server) if direction == "to_server" else (later_server, later)
    sent_by.sendall(b"x")
    assert quiet(read_by)
    proxy.release()
    assert read(receiver, len(data)) == data
    assert read(read_by, 1) == b"x"


def test_a_stall_holds_the_news_of_the_end_too(peer, proxy):
    client, server = peer.pair(proxy)
    proxy.stall("to_server")
    client.sendall(b"last words")
    client.close()
    assert quiet(server)
    proxy.release()
    assert read(server, 11) == b"last words"


@pytest.mark.parametrize("direction", ["to_server", "to_client"])
@pytest.mark.parametrize("count", [0, 1, 100_000, 100_003])
def test_a_cut_passes_exactly_so_many_bytes_once(peer, proxy, direction, count):
    client, server = peer.pair(proxy)
    sender, receiver = (client, server) if direction == "to_server" else (server, client)
    proxy.cut_after(direction, count)
    data = os.urandom(100_003)
    with suppress(ConnectionError):  # it may be cut while it is still sending
        sender.sendall(data)
    assert read(receiver, len(data)) == data[:count]
    assert receiver.recv(1) == b""
    client, server = peer.pair(proxy)
    sender, receiver = (client, server) if direction == "to_server" else (server, client)
    sender.sendall(data)
    assert read(receiver, len(data)) == data


def test_a_cut_counts_from_now_and_over_connections(peer, proxy):
    first, first_server = peer.pair(proxy)
    second, second_server = peer.pair(proxy)
    first.sendall(b"before")
    assert read(first_server, 6) == b"before"
    proxy.cut_after("to_server", 6)
    first.sendall(b"1234")
    assert read(first_server, 4) == b"1234"
    second.sendall(b"567890")
    assert read(second_server, 3) == b"56"
    first.sendall(b"still open")
    assert read(first_server, 10) == b"still open"


def test_a_delay_is_later_but_no_slower(peer, proxy):
    client, server = peer.pair(proxy)
    proxy.delay("to_server", 1)
    data = os.urandom(32 << 20)
    begin = time.monotonic()
    client.sendall(data)
    assert read(server, len(data)) == data
    # Each chunk delayed after the one before, this would take more than eight minutes.
    assert 1 <= time.monotonic() - begin < 4 * PATIENCE
    server.sendall(b"answer")
    assert read(client, 6) == b"answer"


def test_bytes_on_their_way_feel_a_change_of_the_delay(peer, proxy):
    client, server = peer.pair(proxy)
    proxy.delay("to_server", 10 * PATIENCE)
    client.sendall(b"late")
    assert quiet(server)
    proxy.delay("to_server", 0)
    assert read(server, 4) == b"late"


def test_refuse_turns_new_connections_away_and_leaves_the_open_ones(peer, proxy):
    client, server = peer.pair(proxy)
    proxy.refuse(True)
    proxy.refuse(True)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE)
    client.sendall(b"still here")
    assert read(server, 10) == b"still here"
    proxy.refuse(False)
    client, server = peer.pair(proxy)
    client.sendall(b"welcome")
    assert read(server, 7) == b"welcome"


def test_reset_breaks_every_connection_and_drops_what_was_held(peer, proxy):
    pairs = [peer.pair(proxy) for _ in range(3)]
    proxy.stall("to_server")
    for client, _ in pairs:
        client.sendall(b"held")
    until(lambda: proxy.connections == 3, "not all are open")
    proxy.reset()
    for end in (end for pair in pairs for end in pair):
        with pytest.raises(ConnectionResetError):
            end.recv(1)
    assert proxy.connections == 0
    proxy.release()
    client, server = peer.pair(proxy)
    client.sendall(b"new")
    assert read(server, 3) == b"new"


def test_clear_takes_everything_back(peer, proxy):
    client, server = peer.pair(proxy)
    proxy.stall("to_server")
    proxy.delay("to_client", 10 * PATIENCE)
    proxy.cut_after("to_server", 1)
    proxy.refuse(True)
    client.sendall(b"held")
    proxy.clear()
    assert read(server, 4) == b"held"
    server.sendall(b"quick")
    assert read(client, 5) == b"quick"
    peer.pair(proxy)


def test_a_server_that_is_not_there_resets_the_client():
    def ask(port: int) -> None:
        # The reset may be quicker than the client's own connect.
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
            client.recv(1)

    with Proxy(("127.0.0.1", free_port())) as proxy, pytest.raises(ConnectionResetError):
        ask(proxy.port)


def test_stop_breaks_connections_and_frees_the_port(peer):
    threads = threading.active_count()
    proxy = Proxy(peer.address).start()
    client, server = peer.pair(proxy)
    proxy.stop()
    for end in (client, server):
        with pytest.raises(ConnectionResetError):
            end.recv(1)
    assert threading.active_count() == threads
    with Proxy(peer.address, listen=proxy.port) as again:
        peer.pair(again)


def test_a_port_that_is_taken_is_told(peer):
    proxy = Proxy(peer.address, listen=peer.address[1])
    with pytest.raises(OSError, match="in use"):
        proxy.start()


def test_redis_works_through_it(private_redis: Redis):
    with (
        Proxy(f"127.0.0.1:{private_redis.port}") as proxy,
        redis.Redis(port=proxy.port) as client,
    ):
        assert client.ping()
        client.set("key", bytes(5_000_000))
        assert len(client.get("key")) == 5_000_000


def test_as_a_program_it_takes_orders_from_its_input(peer):
    program = subprocess.Popen(
        [sys.executable, "-m", "sandbox.proxy", "--to", f"127.0.0.1:{peer.address[1]}"],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with program:
        port = json.loads(program.stdout.readline())["port"]

        def order(line: str) -> str:
            program.stdin.write(line + "\n")
            program.stdin.flush()
            return program.stdout.readline().strip()

        client = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        peer.open.append(client)
        server = peer.accept()
        assert order("stall to_server") == "ok"
        client.sendall(b"held")
        assert quiet(server)
        assert order("release") == "ok"
        assert read(server, 4) == b"held"
        for good in ("delay to_client 0.01", "cut_after to_client 5", "clear", "refuse on"):
            assert order(good) == "ok"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        for bad in ("stall sideways", "dance", "delay to_client", "refuse perhaps"):
            assert order(bad).startswith("error:")
        assert order("reset") == "ok"
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        program.terminate()
        assert program.wait(PATIENCE) == 0
