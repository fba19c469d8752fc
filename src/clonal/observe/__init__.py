"""Seeing the sharing: who shares which pages now, and recordings of copy-on-write faults."""
