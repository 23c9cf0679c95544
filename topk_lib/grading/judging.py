"""What hidden checks are written with, and how one is judged."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from topk_lib.grading.perform import Counts

__all__ = [
    "Answer",
    "Check",
    "Draw",
    "Known",
    "Private",
    "Refused",
    "Session",
    "Verdict",
    "Wrong",
    "bounded",
    "expect",
    "hidden",
    "judge",
    "load_private",
    "right",
    "wrong",
]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Wrong(Exception):
    """An answer that is not right; the message is the sentence a student reads."""


class Refused(Exception):
    """No answer came. ``kind`` is one of missing, raised, too slow, too much memory, ended itself,
    wrong type, not allowed; the message is the sentence a student reads."""

    def __init__(self, kind: str, sentence: str) -> None:
        super().__init__(sentence)
        self.kind = kind
        self.function = ""


def expect(condition: object, sentence: str) -> None:
    """Raise :class:`Wrong` with the sentence unless the condition holds."""
    if not condition:
        raise Wrong(sentence)


class Draw:
    """Inputs that depend on the student's seed, the question and the check, and on nothing else.

    ``rng`` is a NumPy generator, ``torch`` a PyTorch one on the CPU.
    """

    def __init__(self, seed: int | str, question: str, check: str) -> None:
        digest = hashlib.sha256(f"{seed}/{question}/{check}".encode()).digest()
        self.rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        self.torch = torch.Generator().manual_seed(int.from_bytes(digest[8:15], "big"))

    def tensor(self, *shape: int, low: int = 0, high: int = 10) -> Tensor:
        """Whole numbers in [low, high) as float32: few, so that ties are common."""
        return torch.randint(low, high, shape, generator=self.torch).float()

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, float32."""
        return torch.randn(*shape, generator=self.torch)

    def integer(self, low: int, high: int) -> int:
        """A whole number in [low, high)."""
        return int(self.rng.integers(low, high))

    def choice(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.integer(0, len(options))]


class Session(ABC):
    """Where a student's functions run: a process of its own, or (for development) this one."""

    @abstractmethod
    def ask(self, function: str, operation: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The result of an operation on a function. Raises :class:`Raised` or :class:`Refused`."""

    @abstractmethod
    def files(self) -> dict[str, bytes]: ...

    @abstractmethod
    def put(self, name: str, data: bytes) -> None: ...

    @abstractmethod
    def fresh(self) -> Session: ...

    @abstractmethod
    def printed(self) -> str: ...


class Raised(Refused):
    """The function raised; ``names`` are the exception's class and those above it."""

    def __init__(self, kind: str, sentence: str, names: Sequence[str], message: str) -> None:
        super().__init__(kind, sentence)
        self.names, self.message = names, message


_KINDS = ("missing", "raised", "too much memory", "ended itself", "wrong type", "not allowed")


def unpacked(reply: Any) -> Any:
    """The result in a reply of ``perform.reply``, or the exception; it can be forged."""
    if isinstance(reply, dict) and "result" in reply:
        return reply["result"]
    if not isinstance(reply, dict) or reply.get("refused") not in _KINDS:
        raise Refused("not allowed", "sent what is not an answer on the grader's channel")
    kind, sentence = reply["refused"], plain(str(reply.get("sentence"))[:600])
    names, message = reply.get("names"), reply.get("message")
    if isinstance(names, list) and isinstance(message, str):
        raise Raised(kind, sentence, [str(name)[:100] for name in names[:20]], message[:2000])
    raise Refused(kind, sentence)


def plain(text: str) -> str:
    """On one line, without characters that a terminal or a file in UTF-8 cannot take."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


class Answer:
    """A student's function, as a hidden check reaches it.

    Arguments and results: None, bool, int, float, str, bytes, list, tuple, dict with str keys,
    tensors on the CPU, NumPy arrays; as arguments also callables. The function gets copies.
    """

    def __init__(self, session: Session, name: str) -> None:
        self._session, self.name = session, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The result. Raises :class:`Refused` where none came."""
        return self._ask("call", args, kwargs)

    def _ask(self, operation: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        try:
            return self._session.ask(self.name, operation, args, kwargs)
        except Refused as error:
            error.function = self.name
            raise

    def raises(self, error: type[Exception], *args: Any, **kwargs: Any) -> str:
        """The message of the error (or of a subclass) that the call must raise; else :class:`Wrong`."""
        try:
            got = self(*args, **kwargs)
        except Raised as raised:
            expect(
                error.__name__ in raised.names,
                f"{self.name} must raise {error.__name__} here; it {raised}",
            )
            return raised.message
        raise Wrong(f"{self.name} must raise {error.__name__} here; it returned {str(got)[:200]}")

    def vjp(
        self, args: Sequence[Any], cotangent: Any, wrt: Sequence[int] = (0,), **kwargs: Any
    ) -> tuple[Any, list[Any]]:
        """The output and the gradients of sum(output * cotangent) for the arguments at ``wrt``.

        An argument at ``wrt`` is a floating-point tensor, or a list, tuple or dict of such; its gradient
        has the same form. Where the output does not depend on it, the gradient is 0. For an output of
        several tensors the cotangent is a list with one a tensor (None for those left out).
        """
        told = self._ask("vjp", (list(args), cotangent, [int(place) for place in wrt]), kwargs)
        return told[0], list(told[1])

    def counted(self, *args: Any, **kwargs: Any) -> tuple[Any, Counts]:
        """The result, and how many PyTorch operations it took."""
        result, calls, elements, by_name = self._ask("counted", args, kwargs)
        return result, Counts(calls, elements, by_name)

    def other(self, name: str) -> Answer:
        """Another of the student's functions, in the same process."""
        return Answer(self._session, name)

    def fresh(self) -> Answer:
        """The same function in a new process and an empty folder."""
        return Answer(self._session.fresh(), self.name)

    def files(self) -> dict[str, bytes]:
        """What lies in the function's working folder: regular files, of 1 MB at most each."""
        return self._session.files()

    def printed(self) -> str:
        """The last 2,000 characters that the process printed. They may hold inputs: for after a deadline."""
        return self._session.printed()

    def put(self, name: str, data: bytes) -> None:
        """Lay a file into the working folder."""
        self._session.put(name, data)


@dataclass(frozen=True)
class Check:
    """A hidden check; ``rule`` is its docstring, told after the deadline."""

    question: str
    points: int
    about: str
    function: Callable[[Answer, Draw], None]

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def rule(self) -> str:
        return " ".join((self.function.__doc__ or "").split())


@dataclass(frozen=True)
class Known:
    """An answer known to be wrong or right: ``function`` in place of ``name``, of ``question``.

    ``source`` stands alone: the imports, constants, classes and helpers of its file, then the function.
    """

    question: str
    name: str
    why: str
    function: Callable[..., Any]
    source: str


@dataclass(frozen=True)
class Private:
    """The private overlay of an assignment."""

    hidden: list[Check] = field(default_factory=list)
    wrong: list[Known] = field(default_factory=list)
    right: list[Known] = field(default_factory=list)


_loading: list[Any] = []  # what the file being loaded has declared


def hidden(question: str, points: int, about: str) -> Callable[[F], F]:
    """Decorate a hidden check: a function of (answer, draw) that raises :class:`Wrong`, or passes."""

    def declare(function: F) -> F:
        _loading.append(Check(question, points, about, function))
        return function

    return declare


def wrong(question: str, why: str, name: str | None = None) -> Callable[[F], F]:
    """Decorate a complete wrong answer to a question (``name``: where it replaces a helper of it)."""
    return _known("wrong", question, why, name)


def right(question: str, why: str = "", name: str | None = None) -> Callable[[F], F]:
    """Decorate a right answer in another style, which must get all points."""
    return _known("right", question, why, name)


def _known(kind: str, question: str, why: str, name: str | None) -> Callable[[F], F]:
    def declare(function: F) -> F:
        _loading.append((kind, question, name or question, why, function))
        return function

    return declare


def load_private(assignment: str, root: str | os.PathLike[str] | None = None) -> Private:
    """The private overlay ``ROOT/private/ASSIGNMENT``; ROOT is by default the repository's coursework.

    Raises FileNotFoundError where it lacks hidden.py.
    """
    base = Path(root) if root is not None else Path(__file__).resolve().parents[2] / "coursework"
    folder = base / "private" / assignment
    if not (folder / "hidden.py").is_file():
        raise FileNotFoundError(
            f"{folder / 'hidden.py'} is not there: grading needs the private overlay; name its folder"
        )
    loaded = Private()
    loaded.hidden.extend(_load(folder / "hidden.py"))
    if (folder / "wrong.py").is_file():
        parts = _Parts((folder / "wrong.py").read_text())
        for kind, question, name, why, function in _load(folder / "wrong.py"):
            known = Known(question, name, why, function, parts.alone(function, name))
            (loaded.wrong if kind == "wrong" else loaded.right).append(known)
    return loaded


def _load(path: Path) -> list[Any]:
    name = f"_private_{path.parent.name}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # a path that ends in .py has one
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    _loading.clear()
    spec.loader.exec_module(module)
    return list(_loading)


class _Parts:
    """A file of known answers, taken apart."""

    def __init__(self, text: str) -> None:
        self.shared: list[str] = []
        self.answers: dict[int, ast.FunctionDef] = {}
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef) and node.decorator_list and _declares(node):
                self.answers[node.decorator_list[0].lineno] = node
            elif not (
                isinstance(node, ast.ImportFrom) and (node.module or "").startswith("topk_lib.grading")
            ):
                self.shared.append(ast.unparse(node))
        self.shared.sort(key=lambda part: not part.startswith("from __future__"))

    def alone(self, function: Callable[..., Any], name: str) -> str:
        node = self.answers[function.__code__.co_firstlineno]
        node.decorator_list = [each for each in node.decorator_list if not _is_declaration(each)]
        lines = [*self.shared, ast.unparse(node)]
        return "\n\n".join([*lines, f"{name} = {node.name}"] if node.name != name else lines) + "\n"


def _is_declaration(decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(called, ast.Name) and called.id in ("wrong", "right")


def _declares(node: ast.FunctionDef) -> bool:
    return any(_is_declaration(decorator) for decorator in node.decorator_list)


@dataclass(frozen=True)
class Verdict:
    """What a check found: all of its points, or none, the kind of fault and the sentence."""

    points: int
    kind: str
    sentence: str


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Let this process take at most 4 GB more within (on Linux): a result of a hostile shape, broadcast
    against the right one, raises then, and does not take the memory of all."""
    if sys.platform != "linux":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = taken + 4 * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit if soft < 0 else min(soft, limit), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def judge(check: Check, answer: Answer, seed: int | str) -> Verdict:
    """Run one hidden check on inputs drawn for the student. Whatever happens in it costs only its points."""
    try:
        with bounded():
            check.function(answer, Draw(seed, check.question, check.name))
    except Wrong as error:
        return Verdict(0, "wrong result", plain(str(error)[:2000]))
    except Refused as error:
        return Verdict(0, error.kind, f"{error.function or answer.name} {error}")
    except Exception as error:  # what a result of another kind does to the check
        said = plain((str(error).strip().splitlines() or ["no more is said"])[0][:200])
        return Verdict(0, "wrong type", f"the result cannot be used: {type(error).__name__}: {said}")
    return Verdict(check.points, "", "")
