"""A page of news goes in, a question about it is answered, and the answer names the sentence that says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tianwen as tw
from tianwen.extract.extractor import BUNDLED
from tianwen.extract.writing import to_json

PAGE = Path(__file__).parents[2] / "examples" / "0229_ares.txt"
STATED = {
    ("战神I-X", "发射地点", "肯尼迪航天中心"),
    ("战神I-X", "发射时间", "2009年10月28日"),
    ("战神I-X", "发射台", "39B发射台"),
    ("战神I-X", "研制机构", "NASA"),
    ("战神I-X", "高度", "约100米"),
    ("战神I-X", "质量", "约816吨"),
    ("战神I-X", "传感器数量", "700多个"),
    ("战神I-X", "最大速度", "4.76马赫"),
    ("战神I-X", "费用", "4.45亿美元"),
}


@pytest.mark.skipif(not (BUNDLED / "model.safetensors").exists(), reason="no bundled extractor")
def test_a_page_of_news_answers_a_question_with_its_sentence(tmp_path):
    text = PAGE.read_text(encoding="utf-8")
    (found,) = tw.Extractor.load().stream([text], sources=["page.txt"])
    stated = set(found.triples())
    assert ("战神I-X", "发射地点", "肯尼迪航天中心") in stated
    assert len(stated & STATED) >= 7  # rounding differs from machine to machine
    assert len(stated & STATED) / len(stated) >= 0.6

    lines = tmp_path / "page.jsonl"
    lines.write_text(json.dumps(to_json(found), ensure_ascii=False) + "\n", encoding="utf-8")
    asker = tw.Asker.load()
    with tw.KnowledgeBase.build(lines, tmp_path / "page.kb", tokenizer=asker.tokenizer) as kb:
        (answer,) = asker.ask("战神I-X在哪里发射？", kb)
    assert (answer.objects, answer.known) == (["肯尼迪航天中心"], True)
    start = text.index("2009年10月28日")
    sentence = text[start : text.index("。", start) + 1]
    assert f"page.txt:{start}-{start + len(sentence)}: {sentence}" in answer.sources[0]
