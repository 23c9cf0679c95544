"""Plain data as bytes and back, for talking with a process that may lie.

A message is its header's and its body's length, the header (JSON) and the body (of bytes, tensors and
arrays). Reading executes nothing and refuses what does not fit: see :func:`loads`.
"""

from __future__ import annotations

import json
import math
import os
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["LARGEST", "Malformed", "Unsendable", "copied", "dumps", "lengths", "loads", "receive"]

LARGEST = 32 * 2**20
"""Bytes of the largest result."""
PREFIX = 16
_HEADER = 8 * 2**20
_DEPTH = 20
_NUMPY = [
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64", "complex64", "complex128",
]  # fmt: skip
_TORCH = [*_NUMPY, "bfloat16", "float8_e4m3fn", "float8_e5m2"]


class Unsendable(Exception):
    """A value that is not plain data; the message says which."""


class Malformed(Exception):
    """A message that :func:`dumps` does not write."""


def dumps(value: Any, call_backs: list[Callable[..., Any]] | None = None) -> bytes:
    """The message of a value: None, bool, int, float, str, bytes, lists, tuples, dicts with str keys,
    dense tensors and NumPy arrays of numbers.

    Subclasses are sent as these. Callables are put into ``call_backs``, and their number is sent.
    Raises :class:`Unsendable` for anything else, and for what is nested more than 20 deep.
    """
    body: list[bytes] = []
    header = json.dumps(_flat(value, body, call_backs, _DEPTH)).encode()
    if len(header) > _HEADER:
        raise Unsendable("too many values; put numbers into a tensor")
    return struct.pack("<QQ", len(header), sum(map(len, body))) + header + b"".join(body)


def _flat(value: Any, body: list[bytes], call_backs: list[Callable[..., Any]] | None, depth: int) -> Any:
    if depth == 0:
        raise Unsendable(f"nested more than {_DEPTH} deep")
    if isinstance(value, Tensor):
        return _tensor(value, body)
    if isinstance(value, np.ndarray):
        if value.dtype.name not in _NUMPY:
            raise Unsendable(f"an array of {value.dtype}")
        body.append(np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes())
        return {"N": [value.dtype.name, list(value.shape)]}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if value.bit_length() > 4096:
            raise Unsendable("a whole number of more than 4096 bits")
        return int(value)
    if isinstance(value, (float, str)):
        return float(value) if isinstance(value, float) else str.__str__(value)
    if isinstance(value, (bytes, bytearray)):
        body.append(bytes(value))
        return {"b": len(value)}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise Unsendable("a dict whose keys are not all strings")
        return {"d": {key: _flat(part, body, call_backs, depth - 1) for key, part in value.items()}}
    if isinstance(value, (list, tuple)):
        parts = [_flat(part, body, call_backs, depth - 1) for part in value]
        return parts if isinstance(value, list) else {"t": parts}
    if call_backs is not None and callable(value):
        call_backs.append(value)
        return {"f": len(call_backs) - 1}
    raise Unsendable(f"a value of type {type(value).__name__}")


def _tensor(value: Tensor, body: list[bytes]) -> Any:
    name = str(value.dtype).removeprefix("torch.")
    if name not in _TORCH or value.layout != torch.strided or value.device.type != "cpu":
        raise Unsendable(f"a tensor of {value.dtype} ({value.layout}, on {value.device})")
    plain = value.detach().resolve_conj().resolve_neg()
    # contiguous() may leave a row of one element with a stride of its own
    plain = plain.clone(memory_format=torch.contiguous_format).reshape(-1)
    body.append(plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    return {"T": [name, list(value.shape)]}


def lengths(prefix: bytes, largest: int = LARGEST) -> int:
    """Bytes that follow the first :data:`PREFIX`. Raises :class:`Malformed` where they are too many."""
    header, body = struct.unpack("<QQ", prefix)
    if header > _HEADER or body > largest:
        raise Malformed(f"larger than {largest / 2**20:.0f} MB")
    return int(header + body)


def loads(message: bytes | bytearray, call_back: Callable[[int], Callable[..., Any]] | None = None) -> Any:
    """The value of a message.

    Lengths, types, dtypes and shapes must agree with the bytes that came, to the byte; nothing may be nested
    more than 20 deep; ``call_back`` gives the callable of a number, and without it there is none. Raises
    :class:`Malformed` for all else.
    """
    try:
        header, body = struct.unpack("<QQ", message[:PREFIX])
        if len(message) != PREFIX + header + body:
            raise Malformed("lengths do not agree")
        tree = json.loads(bytes(message[PREFIX : PREFIX + header]))
        parts = _Body(memoryview(message)[PREFIX + header :], call_back)
        value = parts.value(tree, _DEPTH)
        if parts.left:
            raise Malformed("bytes are left")
        return value
    except (ValueError, TypeError, KeyError, RecursionError, RuntimeError, struct.error) as error:
        raise Malformed(f"not a message: {error}") from error


class _Body:
    def __init__(self, data: memoryview, call_back: Callable[[int], Callable[..., Any]] | None) -> None:
        self.left, self.call_back = data, call_back

    def take(self, size: int) -> bytes:
        if size < 0 or size > len(self.left):
            raise Malformed("too few bytes")
        taken, self.left = bytes(self.left[:size]), self.left[size:]
        return taken

    def value(self, tree: Any, depth: int) -> Any:
        if depth == 0:
            raise Malformed("nested too deep")
        if tree is None or isinstance(tree, (bool, int, float, str)):
            return tree
        if isinstance(tree, list):
            return [self.value(part, depth - 1) for part in tree]
        if not isinstance(tree, dict) or len(tree) != 1:
            raise Malformed("an unknown form")
        [(kind, held)] = tree.items()
        if kind == "d" and isinstance(held, dict):
            return {key: self.value(part, depth - 1) for key, part in held.items()}
        if kind == "t" and isinstance(held, list):
            return tuple(self.value(part, depth - 1) for part in held)
        if kind == "b" and type(held) is int:
            return self.take(held)
        if kind == "f" and type(held) is int and self.call_back:
            return self.call_back(held)
        if kind in ("T", "N") and isinstance(held, list):
            return self.numbers(kind, *held)
        raise Malformed("an unknown kind")

    def numbers(self, kind: str, name: Any, shape: Any) -> Any:
        if name not in (_TORCH if kind == "T" else _NUMPY):
            raise Malformed("an unknown dtype")
        if (
            not isinstance(shape, list)
            or len(shape) > 16
            or not all(type(n) is int and n >= 0 for n in shape)
        ):
            raise Malformed("a shape that is none")
        # A shape such as (2 ** 40, 0) needs no bytes, yet tolist() of it fills the memory.
        if math.prod(max(n, 1) for n in shape) > max(LARGEST, len(self.left)):
            raise Malformed("a shape that is too large")
        if kind == "N":
            dtype = np.dtype(name)
            data = np.frombuffer(self.take(math.prod(shape) * dtype.itemsize), np.uint8).copy()
            return ((data != 0) if name == "bool" else data.view(dtype)).reshape(shape)
        kind_of: torch.dtype = getattr(torch, name)
        raw = self.take(math.prod(shape) * kind_of.itemsize)
        bits = (
            torch.frombuffer(bytearray(raw), dtype=torch.uint8) if raw else torch.empty(0, dtype=torch.uint8)
        )
        return ((bits != 0) if name == "bool" else bits.view(kind_of)).reshape(shape)


def copied(value: Any) -> Any:
    """The value as it arrives on the other side. Raises :class:`Unsendable`."""
    call_backs: list[Callable[..., Any]] = []
    return loads(dumps(value, call_backs), call_backs.__getitem__)


def receive(channel: socket.socket) -> bytearray:
    """The next message, waited for; for the side that need not fear what comes. Raises EOFError."""
    message = bytearray()
    for size in _steps(message):
        while len(message) < size:
            part = os.read(channel.fileno(), min(size - len(message), 2**20))
            if not part:
                raise EOFError
            message += part
    return message


def _steps(message: bytearray) -> Iterator[int]:
    yield PREFIX
    yield PREFIX + lengths(bytes(message), 2**40)
