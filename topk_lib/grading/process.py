"""One process of a student's: what is said over its channel, and how it ends."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topk_lib.grading import wire
from topk_lib.grading.judging import Refused, Wrong
from topk_lib.grading.perform import said

__all__ = ["FILES", "Running"]

FILES = 1000
_FOLDER_LIMIT = 64 * 2**20
_SIGSYS = 31
_SCM_CREDENTIALS = 2  # Linux


@dataclass(frozen=True)
class _Limits:
    seconds: float
    cpu: float  # before the call
    waited: float


class Running:
    """One process: its channel, its output, its folder, its number here, and how it is ended."""

    def __init__(
        self, channel: socket.socket, output: int, folder: Path, pid: int, end: Callable[[], int]
    ) -> None:
        self.channel, self.output, self.folder, self.pid, self._end = channel, output, folder, pid, end
        os.set_blocking(output, False)
        self.printed = b""
        self.alive = True

    def greet(self) -> None:
        """Wait until the process is locked; the kernel says which number it has here."""
        prefix, told, _, _ = self.channel.recvmsg(wire.PREFIX, socket.CMSG_SPACE(12))
        for _, kind, data in told:
            if kind == _SCM_CREDENTIALS:
                self.pid = struct.unpack("3i", data)[0]
        rest = self.channel.recv(wire.lengths(prefix)) if prefix else b""
        reason = wire.loads(prefix + rest)["unlocked"] if rest else "it died"
        if reason:
            self.end()
            raise RuntimeError(f"this system does not lock processes up ({reason}): use another, or --trust")

    def _times(self) -> tuple[float, float]:
        """Seconds of CPU time so far, and a clock that stands while the process or this one works or is kept
        waiting for a processor by others: so that a busy machine gives the same marks."""
        now = time.monotonic()
        try:
            worked, kept, _ = map(int, Path(f"/proc/{self.pid}/schedstat").read_text().split())
            mine, kept_mine, _ = map(int, Path("/proc/thread-self/schedstat").read_text().split())
        except (OSError, ValueError):  # not on Linux: there the second clock is the only one
            return 0.0, now
        return worked / 1e9, now - (worked + kept + mine + kept_mine) / 1e9

    def end(self) -> int:
        """Kill it, and say how it ended, as os.waitpid does."""
        if not self.alive:
            return 0
        self.alive = False
        status = self._end()
        self.hear()
        self.channel.close()
        os.close(self.output)
        return status

    def hear(self) -> None:
        """Take what was printed; a little at a time, as it may never end."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(20):
                self.printed = (self.printed + os.read(self.output, 2**16))[-8000:]

    def remove(self) -> None:
        self.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def exchange(self, message: bytes, seconds: float, call_backs: Sequence[Callable[..., Any]]) -> Any:
        limits = _Limits(seconds, *self._times())
        if self._poll(select.POLLIN, 0):
            raise self._ended("spoke without being asked")
        while True:
            self._send(message, limits)
            told = self._receive(limits)
            if not isinstance(told, dict) or "call" not in told:
                self._within(limits)
                return told
            message = self._called(told, call_backs)

    def _called(self, told: Mapping[str, Any], call_backs: Sequence[Callable[..., Any]]) -> bytes:
        """What a function of the grader's gives, which the student's has called."""
        number, args, kwargs = told["call"], told.get("args"), told.get("kwargs")
        known = isinstance(number, int) and 0 <= number < len(call_backs)
        if not known or not isinstance(args, tuple) or not isinstance(kwargs, dict):
            raise self._ended("forged a call")
        try:
            return wire.dumps({"result": call_backs[number](*args, **kwargs)})
        except (Wrong, Refused):
            self.end()
            raise
        except Exception as error:
            kinds = (ValueError, TypeError, IndexError, KeyError, NotImplementedError, RuntimeError)
            name = next((kind.__name__ for kind in kinds if isinstance(error, kind)), "RuntimeError")
            return wire.dumps({"raised": name, "message": said(error)[:500]})

    def _send(self, message: bytes, limits: _Limits) -> None:
        left = memoryview(message)
        while left:
            if self._poll(select.POLLOUT, 20):
                try:
                    left = left[self.channel.send(left[: 2**20], socket.MSG_DONTWAIT) :]
                except BlockingIOError:
                    pass
                except OSError:
                    raise self._ended() from None
            self._within(limits)

    def _receive(self, limits: _Limits) -> Any:
        message, size = bytearray(), wire.PREFIX
        while len(message) < size:
            if self._poll(select.POLLIN, 20):
                try:
                    part = self.channel.recv(min(size - len(message), 2**20))
                except OSError:
                    part = b""
                if not part:
                    raise self._ended()
                message += part
                if len(message) == wire.PREFIX:
                    try:
                        size += wire.lengths(bytes(message))
                    except wire.Malformed as error:
                        raise self._ended(f"sent an answer {error}") from None
            self._within(limits)
        try:
            return wire.loads(message)
        except wire.Malformed as error:
            raise self._ended(f"sent what is not an answer ({error})") from None

    def _within(self, limits: _Limits) -> None:
        self.hear()
        cpu, waited = self._times()
        if cpu - limits.cpu > limits.seconds:
            self.end()
            raise Refused("too slow", f"took more than {limits.seconds:g} seconds")
        if waited - limits.waited > limits.seconds + 2:
            self.end()
            raise Refused("too slow", f"did nothing for {limits.seconds + 2:g} seconds and gave no answer")
        size = count = 0
        with os.scandir(self.folder) as entries:
            for entry in entries:
                count += 1
                if count > FILES:
                    break
                with contextlib.suppress(OSError):
                    size += entry.stat(follow_symlinks=False).st_size
        if size > _FOLDER_LIMIT or count > FILES:
            self.end()
            raise Refused("not allowed", f"wrote more than {_FOLDER_LIMIT >> 20} MB or {FILES} files")

    def _ended(self, did: str = "") -> Refused:
        status = self.end()
        if did:
            return Refused("not allowed", f"{did} on the grader's channel")
        if not os.WIFSIGNALED(status):
            return Refused("ended itself", f"ended its process (exit code {os.WEXITSTATUS(status)})")
        number = os.WTERMSIG(status)
        if number == _SIGSYS:
            return Refused(
                "not allowed",
                "tried what is not allowed: to signal, trace or change other processes or the system",
            )
        if number == signal.SIGKILL:
            return Refused("ended itself", "closed its channel, or was killed for lack of memory")
        return Refused("ended itself", f"crashed its process ({signal.Signals(number).name})")

    def _poll(self, event: int, milliseconds: int) -> bool:
        poll = select.poll()
        poll.register(self.channel, event)
        return bool(poll.poll(milliseconds))
