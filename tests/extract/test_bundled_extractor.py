"""The bundled extractor: small, whole, and it reads the page of the example, which it was not trained on."""

from pathlib import Path

import pytest

from tianwen.extract.extractor import BUNDLED, Extractor

PAGE = Path(__file__).parents[2] / "examples" / "0229_ares.txt"


@pytest.fixture(scope="module")
def bundled() -> Extractor:
    return Extractor.load()


def test_it_is_small_and_has_a_card() -> None:
    assert sum(file.stat().st_size for file in BUNDLED.iterdir()) < 12_000_000
    card = (BUNDLED / "README.md").read_text(encoding="utf-8")
    for part in ("## Data and terms", "## Recipe", "## Numbers", "## Limits"):
        assert part in card


def test_it_reads_the_page(bundled: Extractor) -> None:
    found = bundled.extract(PAGE.read_text(encoding="utf-8"))
    triples = set(found.triples())
    assert ("战神I-X", "发射地点", "肯尼迪航天中心") in triples
    for relation in found.relations:
        assert found.words(relation.subject)
        assert 0.35 <= relation.score <= 1


def test_it_reads_other_names_and_other_things(bundled: Extractor) -> None:
    texts = [
        "2031年5月6日，青鸟七号在海阳火箭发射场成功发射。",
        "《山花烂漫》是李四平执导的电影，由王小燕、陈大山主演。",
    ]
    launch, film = (set(found.triples()) for found in bundled.extract(texts))
    assert ("青鸟七号", "发射地点", "海阳火箭发射场") in launch
    assert ("山花烂漫", "主演", "王小燕") in film


def test_it_finds_little_where_there_is_little(bundled: Extractor) -> None:
    assert not bundled.extract("今天下午我们去公园散步，天气很好。").relations
