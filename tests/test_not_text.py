"""What is no text is refused with a sentence that says what it is; odd bytes in a text are not."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile

import pytest
from typer.testing import CliRunner

from tianwen import cli
from tianwen.errors import InputError
from tianwen.not_text import HEAD, refuse_what_is_no_text

CHINESE = "战神I-X从肯尼迪航天中心升空。\n" * 3
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x10\0\0\0\x10\x08\x02\0\0\0"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (PNG, "a.txt is a PNG picture; what is read is text in UTF-8.$"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "JPEG"),
        (b"%PDF-1.7\n", "a PDF; .*pdftotext"),
        (gzip.compress(b"text", mtime=0), "compressed by gzip; .*unpack it first"),
        (lzma.compress(b"text"), "compressed by xz"),
        (bz2.compress(b"text"), "compressed by bzip2"),
        (b"SQLite format 3\0", "SQLite database; .*CSV"),
        (CHINESE.encode("utf-16"), "in UTF-16, .* iconv -f utf-16 -t utf-8 a.txt > text.txt"),
        ("Mars has two moons.".encode("utf-16-le"), "iconv -f utf-16le "),
        ("Mars has two moons.".encode("utf-16-be"), "iconv -f utf-16be "),
        (CHINESE.encode("gb18030"), "in GB18030, .* iconv -f gb18030 -t utf-8 a.txt > text.txt"),
        (("a" + CHINESE * 3000).encode("gb18030"), "in GB18030"),  # longer than what is looked at: cut in a character
        (bytes(range(1, 256)), r"of its first "),
    ],
)
def test_what_is_no_text_is_named(content, said):
    with pytest.raises(InputError, match=said):
        refuse_what_is_no_text(content, "a.txt")


def test_an_office_file_is_told_from_an_archive(tmp_path):
    for inside, said in (("xl/workbook.xml", "Excel workbook.*CSV"), ("word/document.xml", "Word"), ("a.txt", "zip")):
        with zipfile.ZipFile(tmp_path / "file", "w") as file:
            file.writestr("[Content_Types].xml", "<x/>")
            file.writestr(inside, "<x/>")
        with pytest.raises(InputError, match=said):
            refuse_what_is_no_text((tmp_path / "file").read_bytes(), "a.txt")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        CHINESE.encode(),
        "\ufeffx".encode(),
        "Zürich, Besançon, Đà Nẵng: drei Städte.".encode("latin-1", "replace"),
        b"Mars \xff?\n",
        b"a page\x0cbreak and \x1b[1mcolours\x1b[0m\n",
        "星".encode()[:2],  # has only begun to arrive
        ("a" + "星" * HEAD).encode(),  # what is looked at ends inside a character
        b"PK is a name, BZh another, GIF a third.",
    ],
)
def test_texts_are_not_refused(content):
    refuse_what_is_no_text(content, "a.txt")


@pytest.mark.parametrize("words", ["eval ask --kb my.kb --questions", "extract", "extract --lines"])
def test_commands_refuse_what_is_no_text(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_bytes(PNG)
    result = CliRunner().invoke(cli.app, [*words.split(), "a.txt"])
    assert result.exit_code == 1
    assert result.stderr.startswith("tianwen: a.txt is a PNG picture")
    assert not result.stdout
