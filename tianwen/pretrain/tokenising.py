"""Making a corpus: passages to token ids and the beginnings of words, in several processes, in the order of the files.

Post: 8998.
"""

from __future__ import annotations

import json
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tianwen.counting import count
from tianwen.errors import InputError
from tianwen.pretrain.corpus import (
    FORMAT,
    Corpus,
    Source,
    is_made_from,
    open_corpus,
    remove_corpus,
    remove_leavings,
    request_for,
)
from tianwen.pretrain.encoding import Block, Encode, begin_worker, encode_in_worker
from tianwen.pretrain.lines import Counts, read_lines
from tianwen.pretrain.words import Words
from tianwen.text import Tokenizer
from tianwen.training.atomic import new_folder

LINES_AT_ONCE = 512
Report = Callable[..., None]
"""report(done, total, what): bytes of the files read so far."""


def corpus_of(
    files: Sequence[str | Path],
    folder: Path,
    *,
    vocabulary: str | Tokenizer = "12000",
    words: Words = "jieba",
    workers: int = 1,
    report: Report | None = None,
) -> Corpus:
    """The corpus of these files in `folder`, made if it is not there.

    vocabulary: the most pieces of a new one, counted out of the files; or the path of a `tokenizer.json`; or that.
    Raises InputError for files that cannot be read or hold no text, MissingExtra for words="jieba" without it.
    """
    request = request_for(files, vocabulary=_named(vocabulary), words=words)
    if not is_made_from(folder, request):
        remove_corpus(folder)
        remove_leavings(folder)
        tokenizer = _tokenizer(files, vocabulary, report)
        with new_folder(folder) as part:
            _write(part, files, request, tokenizer=tokenizer, workers=workers, report=report)
    return open_corpus(folder)


def _named(vocabulary: str | Tokenizer) -> str:
    """What tells one vocabulary from another."""
    if isinstance(vocabulary, str):
        return vocabulary if vocabulary.isdigit() else Tokenizer.load(vocabulary).fingerprint
    return vocabulary.fingerprint


def _tokenizer(files: Sequence[str | Path], vocabulary: str | Tokenizer, report: Report | None) -> Tokenizer:
    if not isinstance(vocabulary, str):
        return vocabulary
    if not vocabulary.isdigit():
        return Tokenizer.load(vocabulary)
    return Tokenizer.train(_passages(files, report, "Counting pieces"), size=int(vocabulary))


def _passages(files: Sequence[str | Path], report: Report | None, what: str) -> Iterator[str]:
    total, before = sum(Path(file).stat().st_size for file in files), 0
    for file in files:
        counts = Counts()
        for number, text in enumerate(read_lines(file, counts)):
            yield text
            if report and number % LINES_AT_ONCE == 0:
                report(before + counts.read, total, what)
        before += Path(file).stat().st_size


def _write(
    part: Path,
    files: Sequence[str | Path],
    request: dict[str, Any],
    *,
    tokenizer: Tokenizer,
    workers: int,
    report: Report | None,
) -> None:
    """Fill the folder of a corpus."""
    sources: list[Source] = []
    digest = blake2b(tokenizer.fingerprint.encode(), digest_size=16)
    total, before, passages, tokens = sum(Path(file).stat().st_size for file in files), 0, 0, 0
    with ExitStack() as stack:
        ids, starts, ends = (
            stack.enter_context((part / name).open("wb")) for name in ("ids.bin", "starts.bin", "ends.bin")
        )
        blocks = stack.enter_context(_Blocks(tokenizer, request["words"], workers))
        for (name, *_), file in zip(request["files"], files, strict=True):
            counts, first, behind = Counts(), passages, tokens
            for some_ids, some_starts, lengths in blocks.of(read_lines(file, counts)):
                ids.write(some_ids.tobytes())
                starts.write(some_starts.tobytes())
                ends.write((tokens + np.cumsum(lengths)).tobytes())
                digest.update(some_ids.tobytes() + some_starts.tobytes() + lengths.tobytes())
                passages, tokens = passages + len(lengths), tokens + len(some_ids)
                if report:
                    report(before + counts.read, total, "Tokenising")
            sources.append(Source(name, first, passages, tokens - behind, counts.broken))
            before += Path(file).stat().st_size
    if not tokens:
        broken = sum(source.broken for source in sources)
        raise InputError(
            f"There is no text in {', '.join(map(str, files))}: {count(broken, 'line is', 'lines are')} not UTF-8 "
            "(or not JSON with a text), the others empty. Write the files anew as UTF-8."
        )
    tokenizer.save(part / "tokenizer.json")
    manifest = {
        "format": FORMAT,
        "request": request,
        "tokenizer": tokenizer.fingerprint,
        "ids": np.dtype(np.uint16 if tokenizer.size <= 1 << 16 else np.uint32).name,
        "passages": passages,
        "tokens": tokens,
        "sources": [asdict(source) for source in sources],
        "checksum": digest.hexdigest(),
    }
    (part / "manifest.json").write_text(json.dumps(manifest, ensure_ascii=False, indent=1), encoding="utf-8")


class _Blocks:
    """Blocks of passages in their order, by this process or by several others."""

    def __init__(self, tokenizer: Tokenizer, words: Words, workers: int) -> None:
        self.encode = Encode(tokenizer, words)  # here too: what is missing should be said at once
        self.workers = workers
        self.pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> _Blocks:
        if self.workers > 1:
            # Not by fork: threads of PyTorch may hold locks that a copy of the process would wait for.
            context = multiprocessing.get_context("spawn")
            begin = partial(begin_worker, self.encode.tokenizer, self.encode.words)
            self.pool = ProcessPoolExecutor(self.workers, context, initializer=begin)
        return self

    def __exit__(self, *error: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def of(self, texts: Iterable[str]) -> Iterator[Block]:
        """The blocks of a stream of passages."""
        rest = iter(texts)
        batches = iter(lambda: list(islice(rest, LINES_AT_ONCE)), [])
        if self.pool is None:
            yield from map(self.encode, batches)
            return
        waiting: deque[Future[Block]] = deque()
        for batch in batches:
            waiting.append(self.pool.submit(encode_in_worker, batch))
            if len(waiting) > 4 * self.workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
