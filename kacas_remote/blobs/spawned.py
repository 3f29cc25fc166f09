"""AfterFork: a blob store whose client does not survive a fork works in forked children, too.

obstore deadlocks in a child whose parent used it [measured: obstore 0.12.1]. There, a freshly spawned process talks to the
service, and the child talks to it over sockets. It is no child of multiprocessing, so that daemonic ones may have it.
"""

from __future__ import annotations

import os
import pickle
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

from kacas_remote.blobs import credentials
from kacas_remote.blobs.blob_store import BlobInfo, BlobStore
from kacas_remote.blobs.per_process import PerProcess
from kacas_remote.errors import RemoteUnavailableError

_LENGTH = struct.Struct("<Q")
_LOOK_S = 1.0
_PROGRAM = "import sys; sys.path[:] = {path!r}; from kacas_remote.blobs.spawned import serve; serve({fd}, {parent})"

_is_forked = False


def _note_fork() -> None:
    global _is_forked
    _is_forked = True


os.register_at_fork(after_in_child=_note_fork)


class AfterFork:
    """The store itself; in a child that was forked, the same store in another process."""

    def __init__(self, inner: BlobStore) -> None:
        """inner: picklable; it is used in this process, or in one that is spawned."""
        self._inner = inner
        self._spawned = PerProcess(lambda: _Spawned(inner))

    def __reduce__(self) -> tuple[Callable[[BlobStore], AfterFork], tuple[BlobStore]]:
        return AfterFork, (self._inner,)

    def __repr__(self) -> str:
        return f"AfterFork({self._inner!r})"

    @property
    def name(self) -> str:
        return self._inner.name

    def put_if_absent(self, key: str, data: bytes | bytearray | memoryview) -> bool:
        return self._here().put_if_absent(key, data)

    def put(self, key: str, data: bytes | bytearray | memoryview) -> None:
        self._here().put(key, data)

    def put_parts(self, key: str, parts: Iterable[bytes | bytearray | memoryview], *, size: int = 0) -> None:
        self._here().put_parts(key, parts, size=size)

    def get(self, key: str, limit: int) -> bytes:
        return self._here().get(key, limit)

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        return self._here().get_ranges(key, ranges)

    def head(self, key: str) -> BlobInfo | None:
        return self._here().head(key)

    def list(self, prefix: str, *, after: str = "") -> Iterator[BlobInfo]:
        return self._here().list(prefix, after=after)

    def delete(self, keys: Iterable[str]) -> None:
        self._here().delete(keys)

    def sign(self, key: str, method: str, expires_s: int) -> str:
        return self._here().sign(key, method, expires_s)

    def close(self) -> None:
        spawned = self._spawned.forget()
        if spawned:
            spawned.close()
        if not _is_forked:
            self._inner.close()

    def _here(self) -> BlobStore:
        return self._spawned.get() if _is_forked else self._inner


class _Spawned:
    """A blob store in a process of its own. Each call has a connection for itself, which is used again."""

    def __init__(self, inner: BlobStore) -> None:
        self._inner = inner
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._idle: list[socket.socket] = []

    @property
    def name(self) -> str:
        return self._inner.name

    def put_if_absent(self, key: str, data: bytes | bytearray | memoryview) -> bool:
        return bool(self._call("put_if_absent", key, _plain(data)))

    def put(self, key: str, data: bytes | bytearray | memoryview) -> None:
        self._call("put", key, _plain(data))

    def put_parts(self, key: str, parts: Iterable[bytes | bytearray | memoryview], *, size: int = 0) -> None:
        connection = self._connection()
        try:
            self._ask(connection, ("put_parts", (key, size)))
            for part in parts:
                self._ask(connection, _plain(part))
            self._ask(connection, None)
            self._answer(connection)
        except BaseException:
            connection.close()  # before the last part: nothing is put
            raise
        self._idle.append(connection)

    def get(self, key: str, limit: int) -> bytes:
        data: bytes = self._call("get", key, limit)
        return data

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        return [memoryview(data) for data in self._call("get_ranges", key, [*ranges])]

    def head(self, key: str) -> BlobInfo | None:
        info: BlobInfo | None = self._call("head", key)
        return info

    def list(self, prefix: str, *, after: str = "") -> Iterator[BlobInfo]:
        connection = self._connection()
        try:
            self._ask(connection, ("list", (prefix, after)))
            while infos := self._answer(connection):
                yield from infos
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)

    def delete(self, keys: Iterable[str]) -> None:
        self._call("delete", [*keys])

    def sign(self, key: str, method: str, expires_s: int) -> str:
        url: str = self._call("sign", key, method, expires_s)
        return url

    def close(self) -> None:
        with self._lock:
            process, control = self._process, self._control
            self._process = self._control = None
        while self._idle:
            self._idle.pop().close()
        if control:
            control.close()
        if process:
            try:
                process.wait(_LOOK_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _call(self, method: str, *arguments: Any) -> Any:
        connection = self._connection()
        try:
            self._ask(connection, (method, arguments))
            answer = self._answer(connection)
        except BaseException:
            connection.close()  # it costs less than to know what state it is in
            raise
        self._idle.append(connection)
        return answer

    def _ask(self, connection: socket.socket, message: Any) -> None:
        try:
            _send(connection, message)
        except OSError as exc:
            raise self._ended() from exc

    def _answer(self, connection: socket.socket) -> Any:
        """Raises what the store raised there."""
        try:
            failure, answer = _received(connection)
        except (OSError, EOFError) as exc:
            raise self._ended() from exc
        if failure:
            error = _rebuilt(*failure)
            raise error
        return answer

    def _ended(self) -> RemoteUnavailableError:
        self.close()
        return RemoteUnavailableError(
            f"the process that talks to {self.name} for this forked one ended; try again", path=self.name
        )

    def _connection(self) -> socket.socket:
        try:
            return self._idle.pop()
        except IndexError:
            ours, theirs = socket.socketpair()
        with self._lock, theirs:
            control = self._control = self._control or self._start()
            try:
                socket.send_fds(control, [b"+"], [theirs.fileno()])
            except OSError:  # it ended: another one
                control.close()
                control = self._control = self._start()
                socket.send_fds(control, [b"+"], [theirs.fileno()])
        return ours

    def _start(self) -> socket.socket:
        if self._process:
            self._process.kill()
            self._process.wait()
        ours, theirs = socket.socketpair()
        program = _PROGRAM.format(path=sys.path, fd=theirs.fileno(), parent=os.getpid())
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", program],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for those who ask, not for it
            )
        _send(ours, (credentials.all_kept(), self._inner))
        return ours


def serve(fd: int, parent: int) -> NoReturn:
    """In the spawned process: answer until the one that started it closes `fd`, or is no more."""
    control = socket.socket(fileno=fd)
    kept, inner = _received(control)
    credentials.keep(kept)
    control.settimeout(_LOOK_S)
    while os.getppid() == parent:
        try:
            message, fds, _, _ = socket.recv_fds(control, 1, 1)
        except TimeoutError:
            continue
        if not message:
            break
        for number in fds:
            threading.Thread(target=_serve_connection, args=(inner, socket.socket(fileno=number)), daemon=True).start()
    os._exit(0)


def _serve_connection(inner: BlobStore, connection: socket.socket) -> None:
    with connection:
        try:
            while True:
                method, arguments = _received(connection)
                try:
                    answer = _done(inner, connection, method, arguments)
                except Exception as exc:  # noqa: BLE001 - it is raised where it was asked for
                    _send(connection, ((type(exc), exc.args, vars(exc)), None))
                else:
                    _send(connection, (None, answer))
        except (EOFError, OSError):
            pass  # whoever asked is gone


def _done(inner: BlobStore, connection: socket.socket, method: str, arguments: tuple[Any, ...]) -> Any:
    if method == "put_parts":
        parts = _parts(connection)
        try:
            return inner.put_parts(arguments[0], parts, size=arguments[1])
        finally:
            for _ in parts:
                pass  # the store gave up before: the next request comes behind what is still sent
    if method == "list":
        prefix, after = arguments
        page: list[BlobInfo] = []
        for info in inner.list(prefix, after=after):
            page.append(info)
            if len(page) == 1000:
                _send(connection, (None, page))
                page = []
        if page:
            _send(connection, (None, page))
        return []
    answer = getattr(inner, method)(*arguments)
    return [bytes(part) for part in answer] if method == "get_ranges" else answer


def _parts(connection: socket.socket) -> Iterator[bytes]:
    """Raises EOFError, so that nothing is put, if whoever sends them stops before the end."""
    while (part := _received(connection)) is not None:
        yield part


def _send(connection: socket.socket, message: Any) -> None:
    data = pickle.dumps(message, protocol=5)
    connection.sendall(_LENGTH.pack(len(data)))
    connection.sendall(data)


def _received(connection: socket.socket) -> Any:
    (size,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
    return pickle.loads(_exactly(connection, size))  # from a process that we started, or that started us


def _exactly(connection: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while len(view):
        got = connection.recv_into(view)
        if not got:
            raise EOFError("the other process closed its end")
        view = view[got:]
    return data


def _rebuilt(kind: type[Exception], arguments: tuple[Any, ...], state: dict[str, Any]) -> Exception:
    """What was raised there. Our errors want their ids by name, which pickle does not know; they keep them under that name."""
    code = getattr(kind.__init__, "__code__", None)
    error = kind(*arguments, **{name: state[name] for name in (code.co_varnames if code else ()) if name in state})
    vars(error).update(state)
    return error


def _plain(data: bytes | bytearray | memoryview) -> bytes | bytearray:
    return bytes(data) if isinstance(data, memoryview) else data
