"""Builds the C extensions; everything else is in pyproject.toml."""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

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

# The eBPF program and its loader: only where clang and libbpf are there, and the kernel has the tracepoints.
BPF = Path("src/clonal/_bpf")
BPF_OBJECT = Path("build") / "copies.bpf.o"
BPF_CFLAGS = [
    "-target",
    "bpf",
    "-O2",
    "-g",
    "-D__TARGET_ARCH_x86",
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",
]
LOADER_CFLAGS = [
    "-std=gnu11",
    "-O2",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-missing-field-initializers",
]
if os.environ.get("CLONAL_WERROR"):
    BPF_CFLAGS.append("-Werror")
    LOADER_CFLAGS.append("-Werror")


def has_libbpf() -> bool:
    """Whether its headers can be included."""
    if platform.machine() != "x86_64" or not shutil.which("clang"):
        return False
    program = b"#include <bpf/libbpf.h>\n"
    command = [*os.environ.get("CC", "cc").split(), "-E", "-x", "c", "-"]
    try:
        return subprocess.run(command, input=program, capture_output=True).returncode == 0
    except OSError:
        return False


class Build(build_ext):
    """Compiles the eBPF program before the loader that holds it. Neither need succeed."""

    def build_extension(self, extension: Extension) -> None:
        if extension is loader:
            BPF_OBJECT.parent.mkdir(exist_ok=True)
            include = f"-I/usr/include/{sysconfig.get_config_var('MULTIARCH') or 'x86_64-linux-gnu'}"
            source = str(BPF / "copies.bpf.c")
            self.spawn(["clang", *BPF_CFLAGS, include, "-c", source, "-o", str(BPF_OBJECT)])
        super().build_extension(extension)


loader = Extension(
    "clonal._bpf",
    sources=[str(BPF / "loader.c")],
    depends=sorted(str(path) for path in BPF.glob("*") if path.name != "loader.c"),
    define_macros=[("CLONAL_BPF_OBJECT", f'"{BPF_OBJECT.resolve()}"')],
    libraries=["bpf"],
    extra_compile_args=LOADER_CFLAGS,
    optional=not os.environ.get("CLONAL_WERROR"),
)
extensions = [native, loader] if has_libbpf() else [native]
setup(ext_modules=extensions if sys.platform == "linux" else [], cmdclass={"build_ext": Build})
