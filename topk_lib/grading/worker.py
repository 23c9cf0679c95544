"""Where a student's code runs. A program, started afresh, so that nothing of the grader's memory is in it.

``worker.py fork CONTROL [MODULE ...]`` imports what answers need once, and then makes one locked process a
request; ``worker.py plain CHANNEL`` is one process without any lock, for copies that are trusted.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import contextlib
import fcntl
import gc
import importlib
import json
import linecache
import os
import random
import signal
import socket
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

_HERE = str(Path(__file__).resolve().parents[2])
if __name__ == "__main__":
    sys.path[0] = _HERE  # this topk_lib, and not the folder of this file

import numpy as np  # noqa: E402
import torch  # noqa: E402

from topk_lib.grading import locks, wire  # noqa: E402
from topk_lib.grading.perform import ANSWER, reply, said  # noqa: E402


def main() -> None:
    torch.set_num_threads(1)
    if sys.argv[1] == "plain":
        with contextlib.suppress(EOFError):
            _serve(socket.socket(fileno=int(sys.argv[2])))
        return
    _go_apart()
    with contextlib.suppress(ImportError):
        for module in ("topk_lib.reference", "topk_lib.ops", *sys.argv[3:]):
            importlib.import_module(module)
    torch.softmax(torch.ones(2, 2) @ torch.ones(2, 2), -1)  # what PyTorch sets up at its first use
    gc.collect()
    gc.freeze()
    _fork_on_request(socket.socket(fileno=int(sys.argv[2])))


def _go_apart() -> None:
    """Go apart, where this is allowed; who is apart is a child of this process, which waits for it."""
    trial = os.fork()
    if trial == 0:
        try:
            locks.apart()
        except BaseException:
            os._exit(1)
        os._exit(0)
    if os.waitpid(trial, 0)[1] == 0:
        locks.apart()
        if (pid := os.fork()) != 0:
            os.close(int(sys.argv[2]))
            os.waitpid(pid, 0)
            os._exit(0)


def _fork_on_request(control: socket.socket) -> None:
    children: set[int] = set()
    control.send(b"{}")
    while True:
        text, descriptors, _, _ = socket.recv_fds(control, 2**16, 2)
        if not text:
            break
        request = json.loads(text)
        if "end" in request:
            pid = request["end"]
            os.kill(pid, signal.SIGKILL)  # not yet waited for, so the number is still its own
            children.remove(pid)
            control.send(json.dumps({"status": os.waitpid(pid, 0)[1]}).encode())
            continue
        pid = os.fork()
        if pid == 0:
            try:
                _child(request, *descriptors)
            finally:
                os._exit(70)
        for descriptor in descriptors:
            os.close(descriptor)
        children.add(pid)
        control.send(json.dumps({"pid": pid}).encode())
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def _child(request: dict[str, Any], channel: int, output: int) -> None:
    os.setsid()
    channel, output = (fcntl.fcntl(each, fcntl.F_DUPFD, 10) for each in (channel, output))
    for have, want in ((os.open(os.devnull, os.O_RDWR), 0), (output, 1), (output, 2), (channel, 3)):
        os.dup2(have, want)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    sys.stdout = sys.stderr = open(1, "w", buffering=1, closefd=False, errors="backslashreplace")  # noqa: SIM115
    pipe = socket.socket(fileno=3)
    try:
        folder = request["folder"]
        os.chdir(folder)
        os.environ.update(HOME=folder, TMPDIR=folder)
        locks.lock(request["readable"], folder, request["megabytes"], request["seconds"])
    except OSError as error:
        _write(pipe, {"unlocked": str(error)})
        return
    _write(pipe, {"unlocked": ""})
    with contextlib.suppress(EOFError):
        _serve(pipe)
    os._exit(0)


def _serve(channel: socket.socket) -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    faults: list[str] = []

    def back(number: int) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            _write(channel, {"call": number, "args": args, "kwargs": kwargs})
            told = wire.loads(wire.receive(channel), back)
            if "raised" in told:
                kind = getattr(builtins, told["raised"], RuntimeError)
                raise kind(told["message"])
            return told["result"]

        return call

    while True:
        request = wire.loads(wire.receive(channel), back)
        if "source" in request:
            names, faults = _load(request["source"])
            answer: dict[str, Any] = {"loaded": True}
        else:
            function = names.get(request["function"])
            answer = reply(
                function if callable(function) else None,
                request["operation"],
                request["args"],
                request["kwargs"],
                faults,
            )
        sys.stdout.flush()
        try:
            _write(channel, answer, wire.LARGEST)
        except MemoryError:
            _write(channel, {"refused": "too much memory", "sentence": ""})
        except wire.Unsendable as error:
            sentence = f"returned {error}: results are plain data, such as numbers, lists and tensors"
            _write(channel, {"refused": "wrong type", "sentence": sentence})


def _write(channel: socket.socket, value: Any, largest: int = 2**40) -> None:
    message = memoryview(wire.dumps(value))
    if len(message) > largest:
        raise wire.Unsendable(f"more than {largest >> 20} MB")
    while message:
        message = message[os.write(channel.fileno(), message) :]


def _load(source: str) -> tuple[dict[str, Any], list[str]]:
    """The names that a file defines. A statement that raises costs itself, and is told."""
    module = types.ModuleType("answer")
    sys.modules["answer"] = module  # dataclasses, pickle and Triton look there
    linecache.cache[ANSWER] = (len(source), None, source.splitlines(keepends=True), ANSWER)
    later = __future__.annotations.compiler_flag if "import annotations" in source else 0
    faults = []
    for node in ast.parse(source).body:
        try:
            code = compile(ast.Module([node], []), ANSWER, "exec", later, dont_inherit=True)
            exec(code, module.__dict__)
        except BaseException as error:
            line = linecache.getline(ANSWER, node.lineno).strip()[:100]
            faults.append(f"`{line}` raised {type(error).__name__}: {said(error)[:200]}")
    return module.__dict__, faults


if __name__ == "__main__":
    main()
