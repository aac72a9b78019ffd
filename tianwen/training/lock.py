"""One run at a time in a folder.

The lock belongs to the open file, so the system lifts it when the process ends, however it ends: a killed run never
locks out its successor. Where there is no flock (Windows) nothing is locked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tianwen.errors import TrainingError

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None


@contextmanager
def only_run_in(folder: Path) -> Iterator[None]:
    """Hold FOLDER/lock within the block. Raises TrainingError if another process has it or nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("w")
    except OSError as error:
        raise TrainingError(f"The folder {folder} cannot be written to: {error}. Choose another folder.") from error
    with file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise TrainingError(
                    f"Another process is training in {folder}. Wait for it, stop it, or choose another folder."
                ) from error
        yield
