"""One script, run as `__main__` by each strategy of starting a Python process, and timed."""
