"""Threads that block every signal they can, as those of allocators do, are stopped for a freeze too."""

from __future__ import annotations

from tests.integration.guard_fixtures import run_guarded

COUNTER = """
    import clonal, signal, threading

    class Counter(threading.Thread):
        def __init__(self, block):
            super().__init__(daemon=True)
            self.block, self.running, self.enough, self.count = block, threading.Event(), False, 0
        def run(self):
            self.block()
            self.running.set()
            while not self.enough:
                self.count += 1
        def finish(self):
            self.enough = True
            self.join()
            return self.count

    def start(block):
        counter = Counter(block)
        counter.start()
        counter.running.wait()
        return counter

    def block_all():
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
"""


def test_a_thread_that_blocks_all_signals_libc_lets_it_block_is_stopped_and_goes_on(user: str | None) -> None:
    run_guarded(
        f"""{COUNTER}
    counter = start(block_all)
    for _ in range(5):
        report = clonal.freeze(immortal=False)
        assert report.bytes_imaged and len(report.threads_stopped) == 1
    before = counter.count
    while counter.count < before + 1000:
        pass
    assert counter.finish() > before
    """,
        user=user,
    )


def test_a_thread_that_blocks_even_what_libc_keeps_for_itself_is_named_and_the_freeze_refused() -> None:
    run_guarded(f"""{COUNTER}
    import platform
    number = {{"x86_64": 14, "aarch64": 135}}[platform.machine()]  # rt_sigprocmask
    every = ctypes.c_uint64(2**64 - 1)
    counter = start(lambda: syscall(number, 0, ctypes.addressof(every), 0, 8))
    try:
        clonal.freeze(immortal=False)
    except clonal.FreezeRefused as error:
        assert str(counter.native_id) in str(error) and "blocks all signals" in str(error)
    else:
        raise AssertionError("frozen under a running thread")
    counter.finish()
    """)


def test_libcs_own_use_of_its_signal_works_before_and_after() -> None:
    run_guarded(f"""{COUNTER}
    def set_group():  # in all threads, by a signal
        os.setegid(os.getegid())
    counter = start(block_all)
    clonal.freeze(immortal=False)
    set_group()
    clonal.freeze(immortal=False)
    set_group()
    counter.finish()
    """)
