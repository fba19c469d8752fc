"""Is the interpreter that runs this one Clonal can be built for? Prints a sortable line, or the reason
with exit status 3. Must parse on any Python 3, so that an old one can be told why it is refused.
"""

import os
import sys
import sysconfig


def refusal():
    if sys.implementation.name != "cpython":
        return "is not CPython"
    if sys.version_info < (3, 11):  # noqa: UP036  (an older one runs this too)
        return "is older than 3.11"
    if sys.version_info.releaselevel not in ("final", "candidate"):
        return "is a pre-release"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "is a free-threaded build"
    if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
        return "has no headers"
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        return "has no venv"
    return None


def everyone_can_run(path):
    """Every folder above may be entered by others, so a process without our rights can run it."""
    path = os.path.realpath(path)
    while path != "/":
        if not os.stat(path).st_mode & 0o001:
            return False
        path = os.path.dirname(path)
    return True


def main():
    reason = refusal()
    if reason:
        print(reason)
        sys.exit(3)
    executable = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    major, minor, micro = sys.version_info[:3]
    print(major, minor, micro, int(everyone_can_run(executable)), executable)


main()
