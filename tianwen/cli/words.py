"""The command that makes a word table: train words.

Post: 8802 (the matcher), 8888 (the extractor's input)
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tianwen.cli.commands import Json, say, train


@train.command("words")
def train_words(
    vectors: Annotated[
        list[Path],
        typer.Option(
            "--vectors",
            metavar="FILE",
            help="Word vectors, as word2vec, fastText or GloVe write them; also .gz, .xz. May be given several times.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The table, a .safetensors file.")],
    most: Annotated[
        list[int] | None,
        typer.Option(
            "--most",
            metavar="N",
            min=1,
            help="Words to keep, the frequent first (60,000); once, or once for each file.",
        ),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option("--width", metavar="N", min=1, help="Keep N numbers of each vector, for a smaller file."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Make a table of words and their vectors, for train matcher --words and train extract --words.

    A table for Chinese and English comes with Tianwen; this is for other languages and fields. A word that several
    files hold has the vector of the first.
    """
    if out.exists() and not force:
        raise typer.BadParameter(f"{str(out)!r} is there already. Another name, or --force to write over it.")
    from tianwen.words.table import table_from_vectors
    from tianwen.words.vectors import MOST

    table = table_from_vectors(vectors, most or [MOST], width=width)
    out.parent.mkdir(parents=True, exist_ok=True)
    table.save(out)
    numbers = {"words": len(table.words), "width": table.width, "fingerprint": table.fingerprint, "file": str(out)}
    say(
        f"{len(table.words):,} words of {table.width} numbers are in {out}. Use them: --words {out}",
        numbers,
        as_json=as_json,
    )
