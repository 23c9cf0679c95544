"""A student's functions in processes of their own, reached over a pipe.

What is promised of such a process, on Linux, and tested by attacks:

- it reads Python's folders, topk_lib and its own working folder; no other file, and no other process. It can
  ask whether a path exists and how large it is, nothing more;
- it writes regular files into its working folder, of 16 MB each and 64 MB together, and nowhere else (what it
  deletes while it holds it open is not seen in the folder: at most 32 files);
- it has no network, starts no process, thread or program, signals nobody, and cannot undo its locks;
- its time, memory and files are limited, and it ends with its question;
- nothing of the grader is in its memory or environment: the checks run here, and see plain data only. Code in
  the process can forge what it answers, and gains what that answer is worth: it is right or it is not. Counts
  of operations are such answers, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import site
import socket
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from topk_lib.grading import locks, wire
from topk_lib.grading.judging import Answer, Raised, Refused, Session, plain, unpacked
from topk_lib.grading.process import FILES, Running

__all__ = ["Sandbox"]

_PACKAGE = Path(__file__).resolve().parents[1]
_SO_PASSCRED = 16  # Linux
_LOADING = 10  # seconds more than for a call: imports
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "TRITON_INTERPRET": "1",
    "LC_ALL": "C.UTF-8",
}
_KEPT = ("ATEN_CPU_CAPABILITY", "MKL_CBWR", "ONEDNN_MAX_CPU_ISA")  # which instructions: sums in one order


class Sandbox:
    """Makes processes for students' functions.

    Args:
        hide: what must not be readable, such as the private overlay and the submissions.
        preload: modules that answers import, imported once for all.
        trust: without locks, where a system has none. The code can then do whatever you can.

    Raises:
        RuntimeError: this system has no such locks, and ``trust`` is not set.
        ValueError: one of ``hide`` lies in a folder that answers must read.
    """

    def __init__(
        self, *, hide: Sequence[str | os.PathLike[str]] = (), preload: Sequence[str] = (), trust: bool = False
    ) -> None:
        reason = locks.unlockable()
        if reason and (not trust or os.name != "posix"):
            raise RuntimeError(reason)
        self.trust, self._preload = trust, list(preload)
        self.readable = _readable()
        for path in map(Path, hide):
            for folder in self.readable:
                if path.resolve().is_relative_to(folder):
                    raise ValueError(f"{path} lies in {folder}, which answers can read: move it elsewhere")
        self.folder = tempfile.TemporaryDirectory(prefix="answers-")
        self._zygote: subprocess.Popen[bytes] | None = None
        self._number = 0
        if not trust:
            self._running_zygote()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End whatever runs, and remove the working folders."""
        if self._zygote:
            self._control.close()
            try:
                self._zygote.wait(5)
            except subprocess.TimeoutExpired:
                self._zygote.kill()
                self._zygote.wait()
            self._zygote = None
        self.folder.cleanup()

    @contextlib.contextmanager
    def question(
        self, source: str, *, seconds: float = 5.0, megabytes: int = 1500
    ) -> Iterator[Callable[[str], Answer]]:
        """A function that gives answers by their names; all their processes end with the context.

        Args:
            source: the file that defines the functions, see :func:`~topk_lib.grading.collect.collect`.
            seconds: CPU time of one call; it ends, too, where it does nothing for 2 seconds longer than this.
            megabytes: memory beyond what Python and PyTorch take.

        Three processes run at a time: the oldest that ``fresh`` has made ends, and starts anew when asked.
        """
        running: list[Running] = []
        process = _Process(self, source, seconds, megabytes, running)
        try:
            yield lambda name: Answer(process, name)
        finally:
            for each in running:
                each.remove()

    def begin(self, seconds: float, megabytes: int) -> Running:
        """Start one process, in an empty folder of its own."""
        self._number += 1
        folder = Path(self.folder.name, str(self._number))
        folder.mkdir()
        ours, theirs = socket.socketpair()
        output, their_output = os.pipe()
        try:
            if self.trust:
                popen = _start(["plain", str(theirs.fileno())], theirs, folder, their_output)
                return Running(ours, output, folder, popen.pid, lambda: _stopped(popen))
            ours.setsockopt(socket.SOL_SOCKET, _SO_PASSCRED, 1)
            control = self._running_zygote()
            request = {
                "folder": str(folder),
                "megabytes": megabytes,
                "seconds": int(100 * seconds) + 60,
                "readable": self.readable,
            }
            socket.send_fds(control, [json.dumps(request).encode()], [theirs.fileno(), their_output])
            pid = json.loads(control.recv(2**16) or b"{}").get("pid")
            if pid is None:
                raise RuntimeError("the process that makes processes for answers died: try again")
        finally:
            theirs.close()
            os.close(their_output)
        running = Running(ours, output, folder, 0, lambda: _ended(control, pid))
        running.greet()
        return running

    def _running_zygote(self) -> socket.socket:
        if self._zygote is None or self._zygote.poll() is not None:
            self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._zygote = _start(
                ["fork", str(theirs.fileno()), *self._preload],
                theirs,
                Path(self.folder.name),
                subprocess.DEVNULL,
            )
            theirs.close()
            if not self._control.recv(2**16):
                raise RuntimeError(
                    "the process that runs answers does not start: try python -c 'import torch'"
                )
        return self._control


def _ended(control: socket.socket, pid: int) -> int:
    try:
        control.send(json.dumps({"end": pid}).encode())
        return int(json.loads(control.recv(2**16))["status"])
    except (OSError, ValueError):  # with what made it, it is dead
        return signal.SIGKILL


def _start(
    arguments: list[str], channel: socket.socket, folder: Path, output: int
) -> subprocess.Popen[bytes]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    home = {"HOME": str(folder), "TMPDIR": str(folder)}
    return subprocess.Popen(
        [sys.executable, str(_PACKAGE / "grading" / "worker.py"), *arguments],
        env=_ENVIRONMENT | kept | home,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=[channel.fileno()],
        start_new_session=True,
    )


def _stopped(popen: subprocess.Popen[bytes]) -> int:
    popen.kill()
    code = popen.wait()
    return -code if code < 0 else code << 8  # as os.waitpid has it


def _readable() -> list[str]:
    folders = {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), *site.getsitepackages()}
    folders |= {site.getusersitepackages(), "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"}
    files = {"/etc/ld.so.cache", "/etc/localtime", "/dev/urandom", "/proc/cpuinfo"}
    real = {os.path.realpath(path) for path in folders | files | {str(_PACKAGE)} if os.path.exists(path)}
    return sorted(real - {"/"})


class _Process(Session):
    def __init__(
        self, sandbox: Sandbox, source: str, seconds: float, megabytes: int, running: list[Running]
    ) -> None:
        self._sandbox, self._source = sandbox, source
        self.seconds, self.megabytes = seconds, megabytes
        self._all = running
        self._running: Running | None = None
        self._unloadable: Refused | None = None

    def ask(self, function: str, operation: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        call_backs: list[Callable[..., Any]] = []
        request = {"function": function, "operation": operation, "args": list(args), "kwargs": kwargs}
        message = wire.dumps(request, call_backs)
        running = self._ready()
        try:
            return unpacked(running.exchange(message, self.seconds, call_backs))
        except Refused as error:
            if error.kind == "too much memory":
                raise Refused(error.kind, f"needed more than {self.megabytes} MB of memory") from None
            if error.kind == "not allowed" and not isinstance(error, Raised):
                running.end()  # it speaks for itself
            raise

    def files(self) -> dict[str, bytes]:
        found = {}
        with os.scandir(self._ready().folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False))
        for name in names[:FILES]:
            place = os.open(self._ready().folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(place, "rb") as file:
                if stat.S_ISREG(os.fstat(place).st_mode):
                    found[name] = file.read(2**20 + 1)
            if len(found.get(name, b"")) > 2**20:
                raise Refused("wrong type", f"wrote {name}, which is larger than 1 MB")
        return found

    def put(self, name: str, data: bytes) -> None:
        path = self._ready().folder / name
        with contextlib.suppress(FileNotFoundError):
            path.unlink()  # whatever the process has made of it
        place = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(place, "wb") as file:
            file.write(data)

    def fresh(self) -> Session:
        return _Process(self._sandbox, self._source, self.seconds, self.megabytes, self._all)

    def printed(self) -> str:
        if not self._running:
            return ""
        if self._running.alive:
            self._running.hear()
        return plain(self._running.printed.decode(errors="replace")[-2000:])

    def _ready(self) -> Running:
        if self._unloadable:
            raise self._unloadable
        if self._running is None or not self._running.alive:
            if self._running:
                self._running.remove()
            self._running = self._sandbox.begin(self.seconds, self.megabytes)
            for old in [each for each in self._all if each.alive][:-2]:
                old.end()
            self._all.append(self._running)
            try:
                self._running.exchange(wire.dumps({"source": self._source}), self.seconds + _LOADING, [])
            except Refused as error:
                self._unloadable = Refused(error.kind, f"could not be loaded: the file {error}")
                raise self._unloadable from None
        return self._running
