"""A TCP proxy that misbehaves on order: what a network does to a connection, done on purpose.

In a test it runs in a thread of the process:

    with Proxy("127.0.0.1:6379") as proxy:
        proxy.stall("to_server")

and as a program it takes the same orders as lines on standard input, answering each with `ok`
or `error: ...`:

    python -m sandbox.proxy --listen 7000 --to 127.0.0.1:6379
    stall to_server
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Self

from sandbox.link import DIRECTIONS, Direction, Link, Rules
from sandbox.servers.process import free_port

_ORDER_TIMEOUT = 30.0


class Proxy:
    """Carries every connection of 127.0.0.1:`port` on to a server.

    When an order returns, it is in force, for the connections there are and for those to come.
    """

    def __init__(self, to: str | tuple[str, int], *, listen: int = 0) -> None:
        self.to = _address(to) if isinstance(to, str) else to
        self.port = listen or free_port()
        self._rules: dict[Direction, Rules] = {d: Rules() for d in DIRECTIONS}
        self._links: set[Link] = set()
        self._listener: asyncio.Task[None] | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url_host(self) -> str:
        """host:port, as it stands in a URL."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True
        )
        self._thread.start()
        try:
            self._order(self._listen())
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Reset all connections and go away."""
        if self._thread is None:
            return
        self._order(self._stop_listening())
        self._order(self._reset())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._thread = None
        self._loop.close()

    @property
    def connections(self) -> int:
        return len(self._links)

    def delay(self, direction: Direction, seconds: float) -> None:
        """Every byte arrives so much later; how many pass in a second stays the same."""
        self._change(direction, delay=seconds)

    def stall(self, direction: Direction) -> None:
        """Accept bytes and hold them, and the news of a side's end too, until `release`."""
        self._change(direction, stalled=True)

    def release(self) -> None:
        """Pass on what both directions hold."""
        for direction in DIRECTIONS:
            self._change(direction, stalled=False)

    def cut_after(self, direction: Direction, count: int) -> None:
        """Once: pass so many more bytes in all, and close the connection that carried the last."""
        self._change(direction, cut_after=count)

    def refuse(self, refused: bool) -> None:
        """Whether new connections are refused; those that are open stay."""
        self._order(self._stop_listening() if refused else self._listen())

    def reset(self) -> None:
        """Break all connections now, with RST; bytes that were held are lost."""
        self._order(self._reset())

    def clear(self) -> None:
        """Behave; what was held is passed on."""
        for direction in DIRECTIONS:
            self._change(direction, delay=0.0, stalled=False, cut_after=None)
        self.refuse(False)

    def _change(self, direction: Direction, **values: Any) -> None:
        async def change() -> None:
            for name, value in values.items():
                setattr(self._rules[direction], name, value)
            for link in self._links:
                link.look_again()

        self._order(change())

    def _order(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_ORDER_TIMEOUT)

    async def _listen(self) -> None:
        if self._listener is None:
            door = socket.create_server(("127.0.0.1", self.port), backlog=128)
            door.setblocking(False)
            self._listener = asyncio.create_task(self._accept(door))

    async def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait([self._listener])
            self._listener = None

    async def _accept(self, door: socket.socket) -> None:
        with door:
            while True:
                client, _ = await asyncio.get_running_loop().sock_accept(door)
                link = Link(client, self._rules)
                self._links.add(link)
                link.task = asyncio.create_task(link.carry(self.to))
                link.task.add_done_callback(partial(self._forget, link))

    def _forget(self, link: Link, _: asyncio.Task[None]) -> None:
        link.close()
        self._links.discard(link)

    async def _reset(self) -> None:
        tasks = [link.task for link in self._links]
        for link in self._links:
            link.rudely = True
            link.task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host or "127.0.0.1", int(port)


def _obey(proxy: Proxy, line: str) -> None:
    """Carry out an order such as `delay to_client 0.5`."""
    name, *arguments = line.split()
    orders: dict[str, tuple[Callable[..., None], tuple[Callable[[str], Any], ...]]] = {
        "delay": (proxy.delay, (_direction, float)),
        "stall": (proxy.stall, (_direction,)),
        "release": (proxy.release, ()),
        "cut_after": (proxy.cut_after, (_direction, int)),
        "refuse": (proxy.refuse, ({"on": True, "off": False}.__getitem__,)),
        "reset": (proxy.reset, ()),
        "clear": (proxy.clear, ()),
    }
    order, types = orders[name]
    order(*(kind(text) for kind, text in zip(types, arguments, strict=True)))


def _direction(text: str) -> Direction:
    return DIRECTIONS[DIRECTIONS.index(text)]


def _take_orders(proxy: Proxy) -> None:
    for line in filter(str.strip, sys.stdin):
        try:
            _obey(proxy, line)
        except (KeyError, ValueError) as error:
            print(f"error: {error!r}", flush=True)
        else:
            print("ok", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="sandbox.proxy", description="a TCP proxy with faults")
    parser.add_argument("--listen", type=int, default=0, metavar="PORT", help="0: any free port")
    parser.add_argument("--to", required=True, type=_address, metavar="HOST:PORT")
    arguments = parser.parse_args()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with Proxy(arguments.to, listen=arguments.listen) as proxy:
        print(json.dumps({"port": proxy.port}), flush=True)
        # Orders end with standard input, the proxy with a signal.
        threading.Thread(target=_take_orders, args=(proxy,), daemon=True).start()
        ended.wait()


if __name__ == "__main__":
    main()
