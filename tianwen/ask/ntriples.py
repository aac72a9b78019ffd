"""Facts from N-Triples (and N-Quads): identifiers become readable names.

Post: 8802

A name is the identifier's `rdfs:label` where the file has one (Chinese before English before any other), else the last
part of the identifier: `<http://example.org/resource/Ares_I-X>` -> `Ares I-X`, and for predicates `birthPlace` ->
`birth place`. A literal is its text; its language tag or type is dropped. The graph of a quad is the fact's source.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from urllib.parse import unquote

import polars as pl

from tianwen.ask.fact_lines import FactStream, line_blocks
from tianwen.ask.fact_report import Report

LABEL = "<http://www.w3.org/2000/01/rdf-schema#label>"
_NODE = r'<[^<>"\s]*>|_:[^\s<>"]+'
_LITERAL = r'"(?:[^"\\]|\\.)*"(?:\^\^<[^<>"\s]*>|@[A-Za-z0-9-]+)?'
_TRIPLE = rf"^\s*(?P<s>{_NODE})\s*(?P<p><[^<>\x22\s]*>)\s*(?P<o>{_NODE}|{_LITERAL})\s*(?P<g>{_NODE})?\s*\.\s*(?:#.*)?$"
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.)|$)", re.DOTALL)
_ONE = {"t": "\t", "b": "\b", "n": "\n", "r": "\r", "f": "\f", '"': '"', "'": "'", "\\": "\\"}


def read_ntriples(stream: FactStream, report: Report) -> Iterator[pl.DataFrame]:
    """Facts of an N-Triples file in frames of `facts.FIELDS`; lines that are no triples are reported.

    The file is read twice, first for its labels; a pipe or a compressed file is kept in a temporary file meanwhile.
    Label triples themselves are names, not facts.
    """
    with tempfile.NamedTemporaryFile(suffix=".nt") as copy:
        path = stream.name
        if stream.is_stdin or stream.compressed:
            shutil.copyfileobj(stream, copy)  # pyright: ignore[reportArgumentType]
            copy.flush()
            path = copy.name
        with FactStream(path) as first:
            labels = _labels(first)
        with FactStream(path) as second:
            second.name = stream.name
            for number, lines in line_blocks(second, report):
                raw = _raw(_triples(lines, number, stream.name, report), labels)
                for (line,) in raw.filter(pl.col("object").is_null()).select("line").iter_rows():
                    report.skip(stream.name, line, "the literal holds an escape that is not allowed")
                yield report.keep(raw.filter(pl.col("object").is_not_null()), stream.name)


def unescape(text: str) -> str | None:
    r"""Resolve `\n`, `\"`, `\u6708`, `\U0001F680` ...; None when one is not allowed, half a surrogate pair too."""
    try:
        plain = _ESCAPE.sub(_character, text)
        plain.encode("utf-8")
    except (KeyError, ValueError, OverflowError):
        return None
    return plain


def local_name(identifier: str) -> str:
    """`http://example.org/resource/Ares_I-X` -> `Ares I-X`; an identifier without a last part stays whole."""
    name = re.split(r"[/#]", identifier.rstrip("/#"))[-1]
    return unquote(name, errors="replace").replace("_", " ").strip() or identifier


def _character(match: re.Match[str]) -> str:
    short, long, one = match.groups()
    return chr(int(short or long, 16)) if short or long else _ONE[one]


def _triples(lines: pl.Series, number: int, name: str, report: Report | None) -> pl.DataFrame:
    """Lines -> [line, s, p, o, g] as written; without a report only well-formed lines count."""
    frame = lines.to_frame().with_columns((pl.int_range(pl.len(), dtype=pl.Int64) + number).alias("line"))
    text = pl.col("text").str.strip_chars_start()
    frame = frame.filter(pl.col("text").is_not_null() & (text != "") & ~text.str.starts_with("#"))
    frame = frame.with_columns(pl.col("text").str.extract_groups(_TRIPLE).alias("parts"))
    frame = frame.select("line", "parts").unnest("parts")
    if report is not None:
        for (line,) in frame.filter(pl.col("s").is_null()).select("line").iter_rows():
            report.skip(name, line, "not a triple `<subject> <predicate> object .`")
    return frame.filter(pl.col("s").is_not_null())


def _labels(stream: FactStream) -> pl.DataFrame:
    """One best label for each identifier: columns node, label."""
    found: list[pl.DataFrame] = []
    for number, lines in line_blocks(stream, Report()):
        candidates = lines.filter(lines.str.contains(LABEL, literal=True).fill_null(False))
        triples = _triples(candidates, number, stream.name, None).filter(
            (pl.col("p") == LABEL) & pl.col("o").str.starts_with('"')
        )
        if triples.height:
            found.append(triples.select(pl.col("s").alias("node"), pl.col("o")))
    if not found:
        return pl.DataFrame(schema={"node": pl.String, "label": pl.String})
    table = pl.concat(found)
    language = pl.col("o").str.extract(r'"@([A-Za-z0-9-]+)$').str.to_lowercase().fill_null("")
    rank = pl.when(language.str.starts_with("zh")).then(0).when(language.str.starts_with("en")).then(1).otherwise(2)
    best = table.with_columns(rank.alias("rank")).sort("rank", maintain_order=True)
    best = best.unique("node", keep="first", maintain_order=True)
    texts = [_literal(text) for text in best["o"]]
    labels = pl.DataFrame({"node": best["node"], "label": pl.Series(texts, dtype=pl.String)})
    return labels.filter(pl.col("label").str.strip_chars() != "")


def _raw(triples: pl.DataFrame, labels: pl.DataFrame) -> pl.DataFrame:
    facts = triples.filter((pl.col("p") != LABEL) | ~pl.col("o").str.starts_with('"'))
    return facts.select(
        "line",
        _named(facts["s"], labels).alias("subject"),
        _named(facts["p"], labels, predicate=True).alias("predicate"),
        _objects(facts["o"], labels).alias("object"),
        pl.lit(None, pl.String).alias("sense"),
        facts["g"].str.strip_chars("<>").alias("source"),
    )


def _named(nodes: pl.Series, labels: pl.DataFrame, *, predicate: bool = False) -> pl.Series:
    """Identifiers as written -> names; each different one is worked out once."""
    table = nodes.drop_nulls().unique().to_frame("node").join(labels, on="node", how="left")
    names = [label or _readable(node, predicate) for node, label in table.iter_rows()]
    table = table.with_columns(pl.Series("name", names, dtype=pl.String))
    return nodes.to_frame("node").join(table, on="node", how="left", maintain_order="left")["name"]


def _readable(node: str, predicate: bool) -> str:
    if node.startswith("_:"):
        return node
    name = local_name(unescape(node[1:-1]) or node[1:-1])
    if predicate and re.search(r"[a-z][A-Z]", name):
        name = re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower()
    return name


def _objects(objects: pl.Series, labels: pl.DataFrame) -> pl.Series:
    literal = objects.str.starts_with('"')
    plain = literal & ~objects.str.contains("\\", literal=True)
    texts = objects.str.extract(r'^"((?:[^"\\]|\\.)*)"')
    names = _named(pl.select(pl.when(literal).then(None).otherwise(objects))[:, 0], labels)
    frame = pl.DataFrame({"object": objects, "text": texts, "name": names, "literal": literal, "plain": plain})
    escaped = frame.filter(pl.col("literal") & ~pl.col("plain"))["object"].unique()
    resolved = pl.DataFrame(
        {"object": escaped, "resolved": pl.Series([_literal(text) for text in escaped], dtype=pl.String)},
        schema={"object": pl.String, "resolved": pl.String},
    )
    frame = frame.join(resolved, on="object", how="left", maintain_order="left")
    chosen = pl.when("plain").then("text").when("literal").then("resolved").otherwise("name")
    return frame.select(chosen.alias("object"))["object"]


def _literal(written: str) -> str | None:
    return unescape(written[1 : written.rindex('"')])
