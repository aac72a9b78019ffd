"""The bundled extractor: small, whole, and it reads the page of the example, which it was not trained on."""

from pathlib import Path

import pytest

from tianwen.errors import ModelError
from tianwen.extract.extractor import BUNDLED, NAMED, Extractor

PAGE = Path(__file__).parents[2] / "examples" / "0229_ares.txt"


@pytest.fixture(scope="module")
def bundled() -> Extractor:
    return Extractor.load()


@pytest.mark.parametrize("folder", [*NAMED.values(), *(BUNDLED.parent / name for name in ("words", "encoder"))])
def test_it_is_small_and_has_a_card(folder: Path) -> None:
    assert sum(file.stat().st_size for file in folder.iterdir()) < 13_000_000
    card = (folder / "README.md").read_text(encoding="utf-8")
    for part in ("## Data and terms", "## Recipe", *(("## Numbers", "## Limits") if folder.name != "words" else ())):
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


def test_names_of_ten_kinds_are_found_by_the_other_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "昨天，阿里巴巴的王小燕和浙江大学的教授谈起英雄联盟。"
    names = Extractor.load("entities")
    found = names.extract(text)
    spans = {(found.words(entity), entity.label) for entity in found.entities}
    assert {("阿里巴巴", "company"), ("王小燕", "name"), ("英雄联盟", "game"), ("教授", "position")} <= spans
    assert not found.relations
    fast = Extractor.load("entities", int8=True).extract(text)
    assert {(fast.words(entity), entity.label) for entity in fast.entities} >= {("阿里巴巴", "company")}
    monkeypatch.chdir(tmp_path)
    Extractor.load().save("entities")  # a folder of that name is meant first
    assert Extractor.load("entities").schema.relations


def test_a_model_without_its_words_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Extractor.load("entities").save(tmp_path / "mine")
    assert Extractor.load(tmp_path / "mine").extract("王小燕来了。").entities
    (tmp_path / "mine" / "words.safetensors").unlink()
    assert Extractor.load(tmp_path / "mine").extract("王小燕来了。").entities, "the bundled table is the same"
    monkeypatch.setattr("tianwen.words.table.BUNDLED", tmp_path / "none")
    with pytest.raises(ModelError, match="trained with a word table"):
        Extractor.load(tmp_path / "mine")
