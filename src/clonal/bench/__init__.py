"""Cloning strategies timed side by side on this machine.

A *subject* is a fresh process with one heap and one strategy (`subject.py`); the driver asks all
subjects in turn, round by round, so that noise of the machine falls on all alike. Parent and child
note their times on one shared page (`clock.py`). Read `strategies.py` for what is compared,
`results.py` for what comes out, `run.py` for how a run goes.

This file imports nothing, so that a subject holds only what its strategy needs.
"""
