"""Template.here(): a fork of the calling process; and clones of clones."""

from __future__ import annotations

import os

from tests.support import run_script

ENV = {"PYTHONPATH": os.getcwd()}


def test_the_template_is_this_process_as_it_was() -> None:
    run_script(
        """
        import clonal

        table = {}

        def read():
            return table

        if __name__ == "__main__":
            table["before"] = 1
            with clonal.Template.here() as template:
                table["after"] = 2
                assert template.clone(read).result() == {"before": 1}
                assert template.report.bytes_imaged > 0
                assert table == {"before": 1, "after": 2}
        """
    )


def test_threads_that_the_fork_drops_are_named() -> None:
    run_script(
        """
        import threading, warnings
        import clonal

        def count():
            return threading.active_count()

        if __name__ == "__main__":
            stop = threading.Event()
            thread = threading.Thread(target=stop.wait, name="pump")
            thread.start()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                template = clonal.Template.here()
            with template:
                assert template.dropped_threads == ["pump"], template.dropped_threads
                assert any("pump" in str(w.message) and w.filename == __file__ for w in caught), caught
                assert template.clone(count).result() == 1
            stop.set()
            thread.join()
        """
    )


def test_it_can_be_made_from_a_thread_and_within_an_event_loop() -> None:
    run_script(
        """
        import asyncio, threading
        import clonal

        async def inner():
            return 7

        def run_a_loop():
            return asyncio.run(inner())

        async def main():
            with clonal.Template.here() as template:
                return await template.clone(run_a_loop)

        if __name__ == "__main__":
            assert asyncio.run(main()) == 7
            seen = []
            thread = threading.Thread(target=lambda: seen.append(asyncio.run(main())))
            thread.start()
            thread.join()
            assert seen == [7]
        """
    )


def test_a_prompt_shares_unchanged_functions_and_sends_new_ones() -> None:
    """`sys.ps1` is what tells a prompt; the table is too large to send for every clone."""
    run_script(
        """
        import sys
        sys.ps1 = ">>> "
        import clonal

        table = list(range(1000))

        class Kept:
            pass

        def length():
            return len(table), isinstance(kept, Kept)

        kept = Kept()
        template = clonal.Template.here()
        table.append(1)
        assert template.clone(length).result() == (1000, True)

        def length():
            return "new", len(table)

        assert template.clone(length).result() == ("new", 1001)
        assert type(template.clone(Kept).result()) is Kept
        template.close()
        """
    )


def test_exit_functions_of_the_caller_run_in_the_caller_alone() -> None:
    result = run_script(
        """
        import atexit, os, tempfile
        import clonal

        folder = tempfile.TemporaryDirectory()

        def exists():
            return os.path.isdir(folder.name)

        if __name__ == "__main__":
            atexit.register(lambda: print("goodbye"))
            with clonal.Template.here() as template:
                assert template.clone(exists).result()
            assert exists()
        """
    )
    assert result.stdout == "goodbye\n"


def test_buffered_output_of_the_caller_is_written_once() -> None:
    result = run_script(
        """
        import clonal

        def nothing():
            pass

        if __name__ == "__main__":
            print("once", end="")
            with clonal.Template.here() as template:
                template.clone(nothing).wait()
        """
    )
    assert result.stdout == "once"


def test_a_clone_can_be_a_template_of_further_clones() -> None:
    run_script(
        """
        import os
        import clonal

        depth = 0

        def descend(levels):
            global depth
            depth += 1
            if levels == 0:
                return [os.getpid()], depth
            with clonal.Template.here() as template:
                pids, deepest = template.clone(descend, levels - 1).result()
            return [os.getpid(), *pids], deepest

        if __name__ == "__main__":
            with clonal.Template() as template:
                pids, deepest = template.clone(descend, 3).result()
            assert deepest == 4 and len(set(pids)) == 4, (pids, deepest)
        """
    )


def test_a_clone_can_start_a_template_of_its_own() -> None:
    run_script(
        """
        import clonal
        from tests import clone_work as work

        def nest():
            with clonal.Template(setup=work.warm) as template:
                return template.clone(work.read_state).result()

        if __name__ == "__main__":
            with clonal.Template() as template:
                assert template.clone(nest).result() == ["warm"]
        """,
        env=ENV,
    )


def test_the_death_of_a_clone_ends_the_clones_made_from_it() -> None:
    run_script(
        """
        import os, signal
        import clonal
        from tests import clone_work as work

        def nest(path):
            with clonal.Template.here() as template, template.clone(work.wait_for_ever) as inner:
                with open(path, "w") as fifo:
                    fifo.write(f"{template.pid} {inner.pid}")
                signal.pause()

        if __name__ == "__main__":
            os.mkfifo("pids")
            with clonal.Template() as template, template.clone(nest, os.path.abspath("pids")) as clone:
                with open("pids") as fifo:
                    pidfds = [os.pidfd_open(int(pid)) for pid in fifo.read().split()]
                clone.kill()
                for pidfd in pidfds:
                    assert work.ends(pidfd)
        """,
        env=ENV,
    )
