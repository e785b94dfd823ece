"""One connection of the proxy: what it carries, holds, delays and cuts."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, get_args

Direction = Literal["to_server", "to_client"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)

_CHUNK = 64 * 1024
# A connection at full speed must feel the other side's pressure; one that is held back must not.
_FLOWING = 4 * _CHUNK
_HOLDING = 64 * 1024 * 1024


@dataclass
class Rules:
    """What happens to one direction."""

    delay: float = 0.0
    stalled: bool = False
    cut_after: int | None = None


class _EndedError(Exception):
    """The connection is over."""


class Link:
    """One connection: the client's socket, the server's, and a pipe each way."""

    task: asyncio.Task[None]

    def __init__(self, client: socket.socket, rules: dict[Direction, Rules]) -> None:
        self.client = client
        self.server = socket.socket()
        self.rules = rules
        self.rudely = False
        self.pipes: list[_Pipe] = []

    def look_again(self) -> None:
        for pipe in self.pipes:
            pipe.changed()

    async def carry(self, to: tuple[str, int]) -> None:
        try:
            self.client.setblocking(False)
            self.server.setblocking(False)
            await asyncio.get_running_loop().sock_connect(self.server, to)
            for sock in (self.client, self.server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            forth = _Pipe(self, self.client, self.server, self.rules["to_server"])
            back = _Pipe(self, self.server, self.client, self.rules["to_client"])
            forth.opposite, back.opposite = back, forth
            self.pipes = [forth, back]
            async with asyncio.TaskGroup() as group:
                for pipe in self.pipes:
                    group.create_task(pipe.fill())
                    group.create_task(pipe.drain())
        except* _EndedError:
            pass
        except* OSError:  # the server is not there
            self.rudely = True

    def close(self) -> None:
        """Apart from `carry`, because a task that is cancelled at once never runs at all."""
        for sock in (self.client, self.server):
            if self.rudely:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()


class _Pipe:
    """One direction of one connection: what came in and has not gone out yet, in order."""

    opposite: _Pipe

    def __init__(
        self, link: Link, source: socket.socket, sink: socket.socket, rules: Rules
    ) -> None:
        self.link = link
        self.source = source
        self.sink = sink
        self.rules = rules
        # With the time of arrival. Empty bytes are the source's end, None is its reset.
        self.held: deque[tuple[float, bytes | None]] = deque()
        self.held_bytes = 0
        self.work = asyncio.Event()
        self.room = asyncio.Event()

    def changed(self) -> None:
        self.work.set()
        self.room.set()

    def hold(self, chunk: bytes | None) -> None:
        self.held.append((asyncio.get_running_loop().time(), chunk))
        self.held_bytes += len(chunk or b"")
        self.work.set()

    async def fill(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while self.held_bytes >= self._limit():
                await _next(self.room)
            try:
                chunk = await loop.sock_recv(self.source, _CHUNK)
            except OSError:
                self.hold(None)
                return
            self.hold(chunk)
            if not chunk:
                return

    async def drain(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self.held or self.rules.stalled:
                await _next(self.work)
                continue
            arrived, chunk = self.held[0]
            if (left := arrived + self.rules.delay - loop.time()) > 0:
                await _next(self.work, left)
                continue
            self.held.popleft()
            if chunk is None:
                self.link.rudely = True
                raise _EndedError
            self.held_bytes -= len(chunk)
            self.room.set()
            try:
                if not chunk:
                    self.sink.shutdown(socket.SHUT_WR)
                    return
                await self._send(chunk)
            except OSError:
                # Who wrote to a dead side hears of it over the other direction, when that flows.
                self.opposite.hold(None)
                return

    async def _send(self, chunk: bytes) -> None:
        loop = asyncio.get_running_loop()
        if self.rules.cut_after is None or len(chunk) < self.rules.cut_after:
            if self.rules.cut_after is not None:
                self.rules.cut_after -= len(chunk)
            await loop.sock_sendall(self.sink, chunk)
            return
        chunk, self.rules.cut_after = chunk[: self.rules.cut_after], None
        await loop.sock_sendall(self.sink, chunk)
        raise _EndedError

    def _limit(self) -> int:
        return _HOLDING if self.rules.stalled or self.rules.delay else _FLOWING


async def _next(event: asyncio.Event, seconds: float | None = None) -> None:
    event.clear()
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
