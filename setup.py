"""Builds the one C extension; everything else is in pyproject.toml."""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

SOURCES = sorted(str(path) for path in Path("src/clonal/_native").glob("*.c"))

# The switch of an image runs while the memory under libc is being replaced: it may call nothing,
# so the compiler must not add calls of its own (stack protector, loops turned into memcpy).
CFLAGS = [
    "-std=gnu11",
    "-O2",
    "-fvisibility=hidden",
    "-fno-strict-aliasing",
    "-fno-stack-protector",
    "-fno-tree-loop-distribute-patterns",
    "-Wall",
    "-Wextra",
    "-Wno-missing-field-initializers",
    "-Wno-cast-function-type",
]
if os.environ.get("CLONAL_WERROR"):
    CFLAGS.append("-Werror")
LDFLAGS = [
    "-Wl,-z,now",  # no lazy binding: a first call would write to the GOT
    "-Wl,-e,clonal_waiter_entry",  # executed as a program it is the waiter of waiter.c
]
if sanitize := os.environ.get("CLONAL_SANITIZE"):
    CFLAGS += [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", "-g"]
    LDFLAGS += [f"-fsanitize={sanitize}"]

native = Extension(
    "clonal._native",
    sources=SOURCES,
    depends=[str(path) for path in Path("src/clonal/_native").glob("*.h")],
    extra_compile_args=CFLAGS,
    extra_link_args=LDFLAGS,
)

setup(ext_modules=[native] if sys.platform == "linux" else [])
