"""The compiled operators: optional, so that a machine without a compiler installs all the rest.

One wheel serves every Python from 3.10 on (Py_LIMITED_API).
"""

import os
import sysconfig

from setuptools import Extension, setup

# Python's build without the global lock has no stable interface to compile against.
STABLE = not sysconfig.get_config_var("Py_GIL_DISABLED")
MSVC = os.name == "nt"

setup(
    ext_modules=[
        Extension(
            "topk_lib.ops._native",
            sources=["topk_lib/ops/cpp/module.cpp", "topk_lib/ops/cpp/hard.cpp"],
            depends=["topk_lib/ops/cpp/keys.h", "topk_lib/ops/cpp/hard.h"],
            define_macros=[("Py_LIMITED_API", "0x030A0000")],
            extra_compile_args=["/O2", "/std:c++17"] if MSVC else ["-O3", "-g0", "-std=c++17", "-fvisibility=hidden"],
            py_limited_api=True,
            optional=True,
        )
    ]
    if STABLE
    else [],
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if STABLE else {},
)
