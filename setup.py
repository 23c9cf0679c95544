"""The compiled operators: optional, so that a machine without a compiler installs all the rest.

One wheel serves every Python from 3.10 on (Py_LIMITED_API).
"""

import os
import sysconfig
from glob import glob

from setuptools import Extension, setup

# Python's build without the global lock has no stable interface to compile against.
STABLE = not sysconfig.get_config_var("Py_GIL_DISABLED")
FLAGS = ["/O2", "/std:c++17"] if os.name == "nt" else ["-O3", "-g0", "-std=c++17", "-fvisibility=hidden"]

native = Extension(
    "topk_lib.ops._native",
    sources=sorted(glob("topk_lib/ops/cpp/*.cpp")),
    depends=sorted(glob("topk_lib/ops/cpp/*.h")),
    define_macros=[("Py_LIMITED_API", "0x030A0000")],
    extra_compile_args=FLAGS,
    py_limited_api=True,
    optional=True,
)
setup(
    ext_modules=[native] if STABLE else [],
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if STABLE else {},
)
