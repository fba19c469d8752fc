"""Freeze a process into a copy-on-write image, immortalise its heap, audit its hazards."""
