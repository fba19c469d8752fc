"""Files that a verb writes at its end: looked at before the work, written after it."""

from __future__ import annotations

import os
from pathlib import Path

from clonal.cli.main import UserMistake


def check_file(path: Path, ending: str) -> None:
    """Refuses before the work what could not be written after it. (os.path says no where pathlib raises: in a
    folder that may not be searched.)"""
    folder, there = path.absolute().parent, os.path.exists(path)
    if path.suffix != ending:
        raise UserMistake(f"{path}: give a file whose name ends in {ending}")
    if not os.path.isdir(folder):
        raise UserMistake(f"{path}: there is no folder {folder} to write to")
    if os.path.isdir(path):
        raise UserMistake(f"{path}: is a folder; give a file")
    if not os.access(path if there else folder, os.W_OK):
        raise UserMistake(f"{path}: this user may not write {'it' if there else f'to {folder}'}")


def write(path: Path, text: str) -> None:
    """Writes it, or says in one line why not."""
    try:
        path.write_text(text, "utf-8", errors="backslashreplace")  # names of files need be no text
    except OSError as error:
        raise UserMistake(f"{path}: {error.strerror}") from None
