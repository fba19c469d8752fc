"""Recordings of copy-on-write faults: who copied which page, and why."""
