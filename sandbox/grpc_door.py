"""gRPC as the sandboxes of Google speak it: the door of a platform, and what a fault does to one of
its calls.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, Protocol, TypeVar

import grpc

from sandbox.calls import Calls
from sandbox.faults import Fault, Faults

MESSAGE_BYTES = 64 * 1024 * 1024
# A call that hangs keeps its thread, so there must be more of these than any test hangs.
THREADS = 64


class _Book(Protocol):
    def keys_of(self, list_id: str) -> Iterable[str]: ...

    def user_list(self, list_id: str) -> Any: ...

    def state(self) -> Mapping[str, Any]: ...

    def reset(self) -> None: ...


Book = TypeVar("Book", bound=_Book)


class GrpcDoor(ABC, Generic[Book]):
    """The platform behind the control port, and the gRPC port of it. Each platform adds how a call
    is done.
    """

    def __init__(self, book: Book, faults: Faults) -> None:
        self.book = book
        self.faults = faults
        self.calls = Calls()

    def listen(
        self,
        name: str,
        address: str,
        handlers: Sequence[grpc.GenericRpcHandler],
        options: Sequence[tuple[str, int]] = (),
    ) -> None:
        """Take the port, once the handlers are there; `port` then tells which."""
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix=name)
        self._server = grpc.server(
            self._threads,
            handlers=handlers,
            options=[
                ("grpc.max_receive_message_length", MESSAGE_BYTES),
                *options,
                # Or a second sandbox on the same port would quietly get half of the calls.
                ("grpc.so_reuseport", 0),
            ],
        )
        self.port = self._server.add_insecure_port(address)

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        """End at once what still runs; a call that hangs ends too."""
        self._server.stop(grace=0).wait()
        self._threads.shutdown()

    def members(self, audience_id: str) -> Iterable[str]:
        return self.book.keys_of(audience_id)

    def member_count(self, audience_id: str) -> int:
        return len(self.book.user_list(audience_id).members)

    def state(self) -> Mapping[str, Any]:
        return self.book.state()

    def reset(self) -> None:
        self.book.reset()

    def unary(
        self, method: str, request: Any, work: Callable[..., Any], response: Any = None
    ) -> grpc.RpcMethodHandler:
        def answer(message: Any, context: grpc.ServicerContext) -> Any:
            return self.call(method, work, message, context)

        serialize = response.SerializeToString if response else _serialize
        return grpc.unary_unary_rpc_method_handler(answer, request.FromString, serialize)

    @abstractmethod
    def call(
        self, method: str, work: Callable[..., Any], request: Any, context: grpc.ServicerContext
    ) -> Any:
        """Let the method's planned fault act, do the work, count it, and answer or refuse."""


class GrpcMishap(ABC):
    """The fault of one call, or none: then nothing here does anything."""

    def __init__(self, fault: Fault | None, context: grpc.ServicerContext) -> None:
        self._fault = fault
        self._context = context
        self._name = fault.name if fault else None

    def before(self) -> None:
        """Wait and refuse as planned, before any of the call's work is done."""
        if self._fault is None:
            return
        if self._name == "hang":
            self._wait(None)
        elif self._fault.delay:
            self._wait(self._fault.delay)
        self._refuse(self._fault)

    @abstractmethod
    def _refuse(self, fault: Fault) -> None:
        """Raise the platform's refusal, where the fault is one."""

    @abstractmethod
    def _client_gone(self) -> Exception:
        """What ends the call; the client's own status counts, and this one reaches nobody."""

    def _wait(self, seconds: float | None) -> None:
        gone = threading.Event()
        if not self._context.add_callback(gone.set) or gone.wait(seconds):
            raise self._client_gone()


def _serialize(message: Any) -> bytes:
    return bytes(message.SerializeToString())
