"""Locking up a Linux process for good: what it can read, write, call and use.

Only the kernel's own means: Landlock (which files), seccomp (which system calls), resource limits. The
process cannot undo them, and they need no rights.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["apart", "lock", "unlockable"]

# Name, number on x86_64, number on aarch64. All that is not named fails with EPERM: sockets, new processes
# and threads, programs, links, changes of owners, times and modes, memory that no limit counts, and ioctl.
_ALLOWED = """
access:21:- brk:12:214 chdir:80:49 clock_getres:229:114 clock_gettime:228:113 clock_nanosleep:230:115
close:3:57 close_range:436:436 copy_file_range:326:285 dup:32:23 dup2:33:- dup3:292:24 exit:60:93
exit_group:231:94 faccessat:269:48 faccessat2:439:439 fadvise64:221:223 fchdir:81:50 fdatasync:75:83
flock:73:32 fstat:5:80 fstatfs:138:44 fsync:74:82 ftruncate:77:46 futex:202:98 getcpu:309:168
getcwd:79:17 getdents64:217:61 getegid:108:177 geteuid:107:175 getgid:104:176 getgroups:115:158
getpgrp:111:- getpid:39:172 getppid:110:173 getrandom:318:278 getresgid:120:150 getresuid:118:148
getrlimit:97:163 getrusage:98:165 gettid:186:178 gettimeofday:96:169 getuid:102:174 lseek:8:62 lstat:6:-
madvise:28:233 membarrier:324:283 mmap:9:222 mprotect:10:226 mremap:25:216 msync:26:227 munmap:11:215
nanosleep:35:101 newfstatat:262:79 open:2:- openat:257:56 poll:7:- ppoll:271:73 pread64:17:67
pselect6:270:72 pwrite64:18:68 read:0:63 readlink:89:- readlinkat:267:78 readv:19:65 rename:82:-
renameat:264:38 renameat2:316:276 restart_syscall:219:128 rseq:334:293 rt_sigaction:13:134
rt_sigprocmask:14:135 rt_sigreturn:15:139 sched_getaffinity:204:123 sched_yield:24:124 select:23:-
set_robust_list:273:99 sigaltstack:131:132 stat:4:- statfs:137:43 statx:332:291 sysinfo:99:179
times:100:153 umask:95:166 uname:63:160 unlink:87:- unlinkat:263:35 write:1:64 writev:20:66
"""
# These end the process at once: no library tries them in passing.
_DEADLY = """
add_key:248:217 bpf:321:280 chroot:161:51 finit_module:313:273 init_module:175:105
io_uring_setup:425:425 kexec_load:246:104 keyctl:250:219 kill:62:129 mount:165:40
open_by_handle_at:304:265 perf_event_open:298:241 pidfd_send_signal:424:424 pivot_root:155:41
process_vm_readv:310:270 process_vm_writev:311:271 ptrace:101:117 reboot:169:142 seccomp:317:277
setns:308:268 tkill:200:130 umount2:166:39 unshare:272:97 userfaultfd:323:282
"""
_FCNTL, _PRLIMIT, _TGKILL = (72, 25), (302, 261), (234, 131)
_FCNTL_COMMANDS = (0, 1, 2, 3, 4, 5, 6, 7, 1030)  # not F_SETOWN, which sends signals to others
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_READ = 1 << 2 | 1 << 3  # files, folders
_WRITE = 1 << 1 | 1 << 5 | 1 << 8  # write to regular files, remove and make them
_TRUNCATE = 1 << 14

_libc: Any = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def unlockable() -> str:
    """Why processes cannot be locked up here, in a sentence; "" where they can."""
    if sys.platform != "linux":
        return (
            f"grading untrusted copies needs Linux, and this is {platform.system()}: use WSL 2, Colab or a "
            "Linux VM; --trust runs them with all your rights"
        )
    if platform.machine() not in _MACHINES or struct.calcsize("P") != 8:
        return (
            f"grading untrusted copies needs x86_64 or aarch64, and this is {platform.machine()}; see --trust"
        )
    if _libc.syscall(_LANDLOCK_CREATE, None, 0, 1) < 1:
        return (
            "grading untrusted copies needs Landlock, and this Linux has none (kernels from 5.13 on have it, "
            "unless a container forbids it): use another, or --trust, which runs copies with all your rights"
        )
    return ""


def apart() -> None:
    """Move to namespaces without a network and without a view of other processes, where this is allowed.

    It is one more wall, and many systems keep it for the administrator: then OSError. Only children of this
    process are without that view.
    """
    user, group = os.getuid(), os.getgid()
    _must(
        _libc.unshare(0x10000000 | 0x40000000 | 0x08000000 | 0x20000000), "unshare"
    )  # user, network, ipc, pid
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        Path("/proc/self", name).write_text(text)


def lock(readable: Sequence[str], folder: str, megabytes: int, seconds: int) -> None:
    """Lock up this process, which must have one thread.

    It can read ``readable`` (files and folders), read and write files of 16 MB in ``folder``, use
    ``megabytes`` more memory than it has, and ``seconds`` of CPU time. Raises OSError where the kernel
    refuses a lock.
    """
    import resource  # Windows has none

    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    for which, value in (
        (resource.RLIMIT_AS, used + megabytes * 2**20),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 16 * 2**20),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(which, (value, value))
    header, none = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    _must(_libc.capset(header, none), "capset")
    _must(_libc.prctl(38, 1, 0, 0, 0), "no_new_privs")
    _must(_libc.prctl(4, 0, 0, 0, 0), "not dumpable")
    _landlock(readable, folder)
    _seccomp()


def _must(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _landlock(readable: Sequence[str], folder: str) -> None:
    abi = _libc.syscall(_LANDLOCK_CREATE, None, 0, 1)
    handled = (1 << 13) - 1
    for since, bit in ((2, 13), (3, 14), (5, 15)):
        handled |= (abi >= since) << bit
    network = 3 if abi >= 4 else 0
    scoped = 3 if abi >= 6 else 0  # signals and abstract sockets to the outside
    attributes = struct.pack("=QQQ", handled, network, scoped)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    rules = _must(_libc.syscall(_LANDLOCK_CREATE, attributes, size, 0), "landlock")
    for path in readable:
        _grant(rules, path, _READ if os.path.isdir(path) else 1 << 2)
    _grant(rules, folder, (_READ | _WRITE | _TRUNCATE) & handled)
    _grant(rules, "/dev/null", 1 << 1 | 1 << 2)
    _must(_libc.syscall(_LANDLOCK_RESTRICT, rules, 0), "landlock")
    os.close(rules)


def _grant(rules: int, path: str, access: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    _must(_libc.syscall(_LANDLOCK_ADD, rules, 1, struct.pack("=Qi", access, place), 0), f"landlock {path}")
    os.close(place)


def _seccomp() -> None:
    column, machine = _MACHINES[platform.machine()]
    fail, allow, end = 0x00050001, 0x7FFF0000, 0x80000000  # EPERM; allow; kill the process

    def step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("=HBBI", code, yes, no, value)

    load, equal, give = 0x20, 0x15, 0x06
    program = [step(load, 4), step(equal, machine, 1, 0), step(give, end), step(load, 0)]
    for table, verdict in ((_ALLOWED, allow), (_DEADLY, end)):
        for entry in table.split():
            number = entry.split(":")[1 + column]
            if number != "-":
                program += [step(equal, int(number), 0, 1), step(give, verdict)]
    for numbers, argument, values in (
        (_FCNTL, 1, _FCNTL_COMMANDS),
        (_PRLIMIT, 0, (0,)),
        (_TGKILL, 0, (os.getpid(),)),  # abort() of this process
    ):
        tests = [step(equal, value, len(values) - place, 0) for place, value in enumerate(values)]
        inner = [step(load, 16 + 8 * argument), *tests, step(give, fail), step(give, allow)]
        program += [step(equal, numbers[column], 0, len(inner)), *inner]
    program.append(step(give, fail))
    code = b"".join(program)
    held = ctypes.create_string_buffer(code, len(code))
    filter_ = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(held)))
    _must(_libc.prctl(22, 2, filter_, 0, 0), "seccomp")
