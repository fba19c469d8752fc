"""Cloning strategies timed side by side."""
