"""Every error that Tianwen raises on purpose, as one tree.

    TianwenError                      catch this to catch them all
    ├── InputError                    a question, a fact, a file or an option that cannot be used (also a ValueError)
    ├── KnowledgeBaseError
    │   ├── KnowledgeBaseNotFound     no knowledge base at that path
    │   ├── KnowledgeBaseDamaged      truncated, flipped or missing bytes; never answered from
    │   ├── KnowledgeBaseLocked       another process is writing
    │   └── WrongTokenizer            built with another vocabulary than the model's
    ├── ModelError                    a checkpoint that is missing, damaged or of another architecture
    ├── TrainingError                 training cannot go on (not-a-number loss, changed settings at resume)
    └── MissingExtra                  an optional dependency is not installed

A message says what was given, what is allowed and what to do next.
"""

from __future__ import annotations


class TianwenError(Exception):
    """Root of the tree; the command line prints its message and exits with 1."""


class InputError(TianwenError, ValueError):
    """The caller's data or options cannot be used."""


class KnowledgeBaseError(TianwenError):
    """A knowledge base cannot be read or written."""


class KnowledgeBaseNotFound(KnowledgeBaseError):
    """There is no knowledge base at the path given."""


class KnowledgeBaseDamaged(KnowledgeBaseError):
    """A file of the knowledge base does not match its recorded size or checksum."""


class KnowledgeBaseLocked(KnowledgeBaseError):
    """Another process holds the write lock."""


class WrongTokenizer(KnowledgeBaseError):
    """The knowledge base was built with another vocabulary than the model's."""


class ModelError(TianwenError):
    """A model's files are missing, damaged or of another architecture."""


class TrainingError(TianwenError):
    """Training cannot continue."""


class MissingExtra(TianwenError):
    """An optional dependency is needed; the message names the extra to install."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"This needs the package {package!r}, which is not installed. "
            f"Install it with: pip install 'tianwen[{extra}]'"
        )
