"""Found first on PYTHONPATH by the processes that `clonal record` starts: loads the hook, then the
sitecustomize that there would have been."""

import importlib.machinery
import importlib.util
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def load_hook() -> None:
    try:
        from clonal.observe.record import hook

        hook.install()
    except Exception as error:
        print(f"clonal record: {sys.executable} is not recorded: {error}", file=sys.stderr)


def load_the_other() -> None:
    """The next sitecustomize on the path, if there is one."""
    others = [path for path in sys.path if os.path.abspath(path or ".") != HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


load_hook()
load_the_other()
