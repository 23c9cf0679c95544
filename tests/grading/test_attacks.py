"""What a hostile copy may try. Each attempt fails, is told in a sentence, and the next question is marked."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from topk_lib.grading import Answer, Check, Draw, Refused, Verdict, expect, judge
from topk_lib.grading.locks import unlockable
from topk_lib.grading.sandbox import Sandbox

pytestmark = pytest.mark.skipif(bool(unlockable()), reason=unlockable())

SECRET = "the right answer is 4711"
TOP = """
import builtins, ctypes, gc, json, mmap, os, signal, socket, struct, subprocess, sys, threading, time
import numpy as np
import torch
libc = ctypes.CDLL(None, use_errno=True)
OVERLAY = {overlay!r}
def honest():
    return torch.tensor([True, False])
"""


def the_right_answer(answer: Answer, draw: Draw) -> None:
    got = answer()
    expect(torch.equal(got, torch.tensor([True, False])), f"got {got}")


CHECK = Check("attack", 4, "", the_right_answer)


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("private") / "hidden.py"
    path.write_text(SECRET)
    return path


@pytest.fixture(scope="module")
def sandbox(overlay: Path) -> Iterator[Sandbox]:
    os.environ["GRADER_SECRET"] = SECRET
    with Sandbox(hide=[overlay]) as made:
        yield made
    del os.environ["GRADER_SECRET"]


def attempt(sandbox: Sandbox, overlay: Path, body: str, **limits: Any) -> tuple[Verdict, str]:
    """The verdict on a function ``attack``, and what it printed; then an honest question gets its points."""
    lines = "".join(f"    {line}\n" for line in body.strip().split("\n"))
    source = TOP.format(overlay=str(overlay)) + f"def attack():\n{lines}"
    before = overlay.stat()
    with sandbox.question(source, **{"seconds": 2, "megabytes": 500} | limits) as answer_of:
        verdict = judge(CHECK, answer_of("attack"), 0)
        printed = answer_of("attack").printed()
        assert judge(CHECK, answer_of("honest").fresh(), 0) == Verdict(4, "", "")
    assert verdict.points == 0
    assert SECRET not in verdict.sentence + printed
    assert overlay.read_text() == SECRET
    after = overlay.stat()
    assert (after.st_mode, after.st_mtime, after.st_nlink) == (before.st_mode, before.st_mtime, 1)
    return verdict, printed


FORBIDDEN = {
    "read the overlay": "return open(OVERLAY).read()",
    "read it by its descriptor": "return os.read(os.open(OVERLAY, os.O_RDONLY), 100)",
    "read it with NumPy": "return np.fromfile(OVERLAY, np.uint8)",
    "list its folder": "return os.listdir(os.path.dirname(OVERLAY))",
    "list the folder of all copies": "return os.listdir('..')",
    "link to it": "os.symlink(OVERLAY, 'mine'); return open('mine').read()",
    "link its file": "os.link(OVERLAY, 'mine'); return open('mine').read()",
    "rename it": "os.rename(OVERLAY, 'mine'); return open('mine').read()",
    "read accounts": "return open('/etc/passwd').read()",
    "read the home": f"return os.listdir({os.path.expanduser('~')!r})",
    "read another process": "return open(f'/proc/{os.getppid()}/environ', 'rb').read()",
    "read the grader's memory": "return open('/proc/1/mem', 'rb').read(9)",
    "list processes": "return os.listdir('/proc')",
    "read its own maps": "return open('/proc/self/maps').read()",
    "overwrite it": "open(OVERLAY, 'w').write('4711')",
    "cut it": "os.truncate(OVERLAY, 0)",
    "delete it": "os.unlink(OVERLAY)",
    "change its mode": "os.chmod(OVERLAY, 0o777)",
    "change its owner": "os.chown(OVERLAY, 1, 1)",
    "change its time": "os.utime(OVERLAY, (1, 1))",
    "mark it": "os.setxattr(OVERLAY, 'user.x', b'1')",
    "write above": "open('../marks.csv', 'w').write('100')",
    "write into /tmp": "open('/tmp/marks-of-an-attack.csv', 'w').write('100')",
    "write into shared memory": "open('/dev/shm/x', 'w').write('100')",
    "change topk_lib": "import topk_lib; open(topk_lib.__file__, 'a').write('# changed')",
    "change Python": "open(os.__file__, 'a').write('# changed')",
    "memory without a file": "return os.memfd_create('x')",
    "open a socket": "socket.socket().connect(('127.0.0.1', 80))",
    "ask the network": "import urllib.request as u; u.urlopen('http://127.0.0.1/').read()",
    "a pair of sockets": "return socket.socketpair()",
    "fork": "return os.fork()",
    "fork bomb": "while True:\n    os.fork()",
    "start a program": "return subprocess.run(['/bin/true'], check=True).returncode",
    "a shell": "return os.posix_spawn('/bin/sh', ['sh'], {})",
    "become a program": "os.execv('/bin/true', ['true'])",
    "threads without end": "while True:\n    threading.Thread(target=time.sleep, args=(99,)).start()",
    "kill the parent": "os.kill(os.getppid(), 9)",
    "kill everything": "os.kill(-1, 9)",
    "kill the process group of 1": "os.killpg(1, 9)",
    "signal a thread": "libc.syscall(200 if os.uname().machine == 'x86_64' else 130, 1, 9)",
    "trace the parent": "libc.ptrace(16, os.getppid(), 0, 0)",
    "read the parent's memory": "libc.process_vm_readv(os.getppid(), None, 0, None, 0, 0)",
    "a namespace of its own": "libc.unshare(0x10000000)",
    "mount": "libc.mount(b'x', b'/', b'tmpfs', 0, None)",
    "lower its priority": "os.nice(-5)",
    "another root": "os.chroot('/')",
    "many files": "for n in range(2000):\n    open(str(n), 'w').close()\nreturn 1",
    "fill the disk": "for n in range(9):\n    open(str(n), 'wb').write(bytes(15 << 20))\nreturn 1",
}  # fmt: skip


@pytest.mark.parametrize("body", FORBIDDEN.values(), ids=FORBIDDEN)
def test_what_is_forbidden_is_refused(sandbox: Sandbox, overlay: Path, body: str) -> None:
    verdict, _ = attempt(sandbox, overlay, body)
    assert verdict.kind == "not allowed", verdict
    assert verdict.sentence.startswith(("attack tried what is not allowed: ", "attack wrote more than"))
    assert not Path("/tmp/marks-of-an-attack.csv").exists()


QUIET = {
    "open": "return libc.open(OVERLAY.encode(), 0)",
    "socket": "return libc.socket(2, 1, 0)",
    "fork": "return libc.fork()",
    "execve": "return libc.execv(b'/bin/true', None)",
    "seccomp off": "return libc.prctl(22, 0, 0, 0, 0)",
    "new privileges": "return libc.prctl(38, 0, 0, 0, 0)",
    "dumpable": "return libc.prctl(4, 1, 0, 0, 0)",
    "landlock": "return libc.syscall(444, None, 0, 1)",
    "signals by fcntl": "return libc.fcntl(3, 8, os.getppid())",
    "limits of the parent": "return libc.prlimit(os.getppid(), 7, None, None)",
    "shared memory": "return libc.shmget(0, 1 << 30, 0o1600)",
    "io_uring_enter": "return libc.syscall(426, 0, 0, 0, 0, None, 0)",
    "a terminal": "return libc.ioctl(0, 0x5412, b'x')",
    "clone3": "return libc.syscall(435, None, 0)",
    "rights": "return libc.setuid(0)",
}


@pytest.mark.parametrize("body", QUIET.values(), ids=QUIET)
def test_system_calls_without_python_are_refused_too(sandbox: Sandbox, overlay: Path, body: str) -> None:
    call = body.removeprefix("return ")
    body = f"print('gave', {call}, 'errno', ctypes.get_errno())\nreturn torch.tensor([False])"
    verdict, printed = attempt(sandbox, overlay, body)
    assert verdict.kind == "wrong result"
    assert printed.split() in [["gave", "-1", "errno", "1"], ["gave", "-1", "errno", "13"]]


@pytest.mark.parametrize(
    "body",
    [
        "import resource as r\nr.setrlimit(r.RLIMIT_AS, (r.RLIM_INFINITY, r.RLIM_INFINITY))",
        "import resource as r\nr.setrlimit(r.RLIMIT_FSIZE, (1 << 40, 1 << 40))",
        "import hidden",
        "sys.path.insert(0, os.path.dirname(OVERLAY)); import hidden",
        "import importlib.util as u; s = u.spec_from_file_location('h', OVERLAY); s.loader.get_data(OVERLAY)",
        "os.mkdir('x')",
        "open('x', 'wb').write(bytes(17 << 20))",
        "return torch.load(OVERLAY)",
        "kept = [open('x', 'wb') for _ in range(99)]",
    ],
)
def test_what_raises_is_told(sandbox: Sandbox, overlay: Path, body: str) -> None:
    verdict, _ = attempt(sandbox, overlay, body)
    assert verdict.kind in ("raised", "not allowed")
    assert "(line " in verdict.sentence


def test_nothing_of_the_grader_is_in_the_process(sandbox: Sandbox, overlay: Path) -> None:
    kept = SECRET.split()[-1]  # in this process's memory and environment
    _, printed = attempt(
        sandbox,
        overlay,
        f"""
        wanted = {kept[:2]!r} + {kept[2:]!r}
        found = [o for o in gc.get_objects() if type(o).__name__ in ("Check", "Private", "Draw", "Sandbox")]
        frame, frames = sys._getframe(), []
        while frame:
            frames.append(os.path.basename(frame.f_code.co_filename))
            frame = frame.f_back
        texts = [t for o in gc.get_objects() if isinstance(o, dict) for t in list(o.values())]
        texts = [t for t in texts if isinstance(t, str) and wanted in t and t is not wanted]
        print(len(found), len(texts), sorted(set(frames)), sorted(os.environ), sys.argv[1], os.listdir("."))
        """.replace("\n        ", "\n"),
    )
    environment = ["CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "HOME", "LC_ALL", "MKL_NUM_THREADS"]
    assert printed.startswith(f"0 0 ['<answer>', 'perform.py', 'worker.py'] {environment}"[:-1])
    assert "SECRET" not in printed
    assert printed.endswith("fork []")


PATCHES = {
    "the checker": "import topk_lib.grading.judging as j\nj.expect = j.judge = j.Wrong = lambda *a: None",
    "torch": "torch.equal = torch.allclose = lambda *a, **k: True",
    "builtins": "builtins.isinstance = lambda *a: True\nbuiltins.AssertionError = ValueError",
    "the tensor": "torch.Tensor.__eq__ = torch.Tensor.equal = lambda *a: True",
    "the wire": "import topk_lib.grading.wire as w\nw.dumps = lambda *a: b'full marks'",
    "the worker": "w = sys.modules['__main__']\nw.reply = lambda *a: {'points': 100}",
    "its judge": "sys.modules['topk_lib.grading.judging'] = None",
    "exceptions": "sys.excepthook = sys.unraisablehook = lambda *a: os._exit(0)",
}


@pytest.mark.parametrize("body", PATCHES.values(), ids=PATCHES)
def test_patching_gains_nothing(sandbox: Sandbox, overlay: Path, body: str) -> None:
    verdict, _ = attempt(sandbox, overlay, body + "\nreturn torch.tensor([False, False])")
    assert verdict.kind in ("wrong result", "not allowed", "ended itself", "too slow")
    assert torch.equal(torch.ones(1), torch.zeros(1)) is False


@pytest.mark.parametrize(
    "body",
    [
        "sys.exit(0)", "os._exit(0)", "os.abort()", "ctypes.string_at(0)", "raise SystemExit(100)",
        "sys.setrecursionlimit(10**9)\nf = lambda: f()\nf()", "os.close(3)", "os.closerange(0, 99)",
        "signal.raise_signal(9)", "signal.raise_signal(19)",
    ],
)  # fmt: skip
def test_leaving_early_is_told(sandbox: Sandbox, overlay: Path, body: str) -> None:
    verdict, _ = attempt(sandbox, overlay, body)
    assert verdict.kind in ("ended itself", "too slow", "too much memory"), verdict


FORGED = {
    "marks on every descriptor": """
mark = json.dumps({"score": 100, "points": 4}).encode() * 10
for number in range(64):
    try:
        os.write(number, mark)
    except OSError:
        pass
return torch.tensor([False])""",
    "a message that is none": """
from topk_lib.grading.wire import dumps
os.write(3, dumps({"points": 4, "passed": True}))""",
    "two answers": """
from topk_lib.grading.wire import dumps
os.write(3, dumps({"result": 1}) + dumps({"result": 2}))
time.sleep(1)""",
    "10 GB, it says": "os.write(3, struct.pack('<QQ', 2, 10 << 30)); time.sleep(9)",
    "a shape without end": """
header = b'{"d": {"result": {"T": ["float32", [1099511627776, 0]]}}}'
os.write(3, struct.pack('<QQ', len(header), 0) + header); time.sleep(9)""",
    "a call of nothing": """
from topk_lib.grading.wire import dumps
os.write(3, dumps({"call": 10**9, "args": (), "kwargs": {}}))""",
    "pickle": "import pickle; os.write(3, pickle.dumps(honest()) * 9)",
}


@pytest.mark.parametrize("body", FORGED.values(), ids=FORGED)
def test_forged_answers_gain_nothing(sandbox: Sandbox, overlay: Path, body: str) -> None:
    verdict, _ = attempt(sandbox, overlay, body)
    assert verdict.kind in ("not allowed", "wrong type"), verdict
    assert "channel" in verdict.sentence or "cannot be used" in verdict.sentence


def test_an_answer_ahead_of_the_question_ends_the_process(sandbox: Sandbox, overlay: Path) -> None:
    source = TOP.format(overlay=str(overlay)) + "def f():\n" + (
        "    from topk_lib.grading.wire import dumps\n    os.write(3, dumps({'result': 1}) * 2)\n"
    )  # fmt: skip
    with sandbox.question(source, seconds=2, megabytes=500) as answer_of:
        assert answer_of("f")() == 1
        with pytest.raises(Refused, match="spoke without being asked"):
            answer_of("honest")()
        assert judge(CHECK, answer_of("honest"), 0).points == 4


ENDLESS = {
    "a loop": "while True:\n    pass",
    "a nap": "time.sleep(99)",
    "a loop that catches": "while True:\n    try:\n        1 / 0\n    except BaseException:\n        pass",
    "a loop in C": "[(0).bit_length() for _ in iter(int, 1)]",
    "printing": "while True:\n    print('x' * 999)",
    "half an answer": "os.write(3, bytes(9))\nwhile True:\n    pass",
    "asleep without signals": "signal.pthread_sigmask(0, range(1, 65))\ntime.sleep(99)",
}


@pytest.mark.parametrize("body", ENDLESS.values(), ids=ENDLESS)
def test_what_does_not_end_is_ended(sandbox: Sandbox, overlay: Path, body: str) -> None:
    verdict, printed = attempt(sandbox, overlay, body, seconds=0.3)
    assert verdict.kind == "too slow", verdict
    assert "0.3 seconds" in verdict.sentence or "2.3 seconds" in verdict.sentence
    assert len(printed) <= 2000


HUNGRY = {
    "a tensor": "return torch.zeros(10**11)",
    "bytes": "return bytearray(10**12)",
    "a list": "return [0] * 10**10",
    "an array": "return np.ones(10**11)",
    "a map": "return mmap.mmap(-1, 1 << 33)",
    "by and by": "x = []\nwhile True:\n    x.append(bytearray(1 << 24))",
}


@pytest.mark.parametrize("body", HUNGRY.values(), ids=HUNGRY)
def test_memory_is_limited(sandbox: Sandbox, overlay: Path, body: str) -> None:
    verdict, _ = attempt(sandbox, overlay, body)
    assert verdict.kind in ("too much memory", "raised"), verdict
    assert verdict.sentence in (
        "attack needed more than 500 MB of memory",
        f"attack raised OSError: [Errno 12] Cannot allocate memory (line 2 of attack: {body})",
    )


RESULTS = {
    "a pickle payload": "class P:\n    def __reduce__(self): return os.system, ('true',)\nreturn P()",
    "nested without end": "x = []\nfor _ in range(10**5):\n    x = [x]\nreturn x",
    "itself": "x = []\nx.append(x)\nreturn x",
    "a function": "return honest",
    "a generator": "return (n for n in range(3))",
    "too large": "return torch.zeros(2**24)",
    "too many": "return [1.5] * 2 * 10**6",
    "a dict of numbers": "return {1: 2}",
    "None": "return None",
}


@pytest.mark.parametrize("body", RESULTS.values(), ids=RESULTS)
def test_results_of_other_kinds_are_told(sandbox: Sandbox, overlay: Path, body: str) -> None:
    verdict, _ = attempt(sandbox, overlay, body)
    assert verdict.kind == "wrong type"
    assert "returned" in verdict.sentence or "cannot be used" in verdict.sentence


EQUAL = """
class Equal({base}):
    __eq__ = __ne__ = __bool__ = lambda *a: True
    __hash__ = None
    def all(self): return True
    @classmethod
    def __torch_function__(cls, *a, **k): return True
return {make}
"""


@pytest.mark.parametrize(
    ("base", "make"),
    [("float", "Equal(2)"), ("str", "Equal('x')"), ("dict", "Equal(a=1)"), ("list", "Equal([1])"),
     ("torch.Tensor", "torch.Tensor._make_subclass(Equal, torch.zeros(2))")],
)  # fmt: skip
def test_a_result_that_equals_everything_arrives_plain(
    sandbox: Sandbox, overlay: Path, base: str, make: str
) -> None:
    verdict, _ = attempt(sandbox, overlay, EQUAL.format(base=base, make=make))
    assert verdict.kind in ("wrong result", "wrong type")


def test_a_result_of_a_hostile_shape_does_not_take_the_graders_memory(
    sandbox: Sandbox, overlay: Path
) -> None:
    def broadcasts(answer: Answer, draw: Draw) -> None:
        expect((answer() - torch.zeros(2000)).abs().max() == 0, "differs")

    source = TOP.format(overlay=str(overlay)) + "def f():\n    return torch.zeros(2**20, 1)\n"
    with sandbox.question(source) as answer_of:
        verdict = judge(Check("q", 4, "", broadcasts), answer_of("f"), 0)
    assert (verdict.points, verdict.kind) == (0, "wrong type")
    assert "memory" in verdict.sentence


def test_code_at_the_top_of_the_file_is_locked_up_as_well(
    sandbox: Sandbox, overlay: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = f"STOLEN = open({str(overlay)!r}).read()\ndef f():\n    return STOLEN\n"
    with (
        sandbox.question(source) as answer_of,
        pytest.raises(Refused, match="PermissionError"),
    ):
        answer_of("f")()
    monkeypatch.setattr("topk_lib.grading.sandbox._LOADING", 0)
    with sandbox.question("while True:\n    pass\n", seconds=0.5) as answer_of:
        for _ in range(2):
            with pytest.raises(Refused, match=r"could not be loaded: the file took more than 0\.5 seconds"):
                answer_of("f")()


def test_the_sandbox_outlives_the_death_of_what_makes_its_processes(sandbox: Sandbox, overlay: Path) -> None:
    assert sandbox._zygote is not None
    sandbox._zygote.kill()
    sandbox._zygote.wait()
    attempt(sandbox, overlay, "return 1")
