"""Template.here(): the fork of a running process becomes a template."""

from __future__ import annotations

import os
import signal
import threading
from typing import NoReturn

from clonal.clone import ending, server, warmup
from clonal.clone.server import Config


def become_template(control: int, board: int, config: Config) -> NoReturn:
    """In the forked child: settles, tells the parent, and serves. Never returns to the caller."""
    ending.remember_template_exit()
    ending.forget_exits()  # they are the parent's
    if threading.current_thread() is threading.main_thread():
        signal.set_wakeup_fd(-1)
    devnull = os.open(os.devnull, os.O_RDONLY)
    os.dup2(devnull, 0)
    os.close(devnull)
    config.private_fds = (control, board)
    with server._reported(control):
        ready = warmup.settle(config)
    server.serve(control, board, config, ready)
