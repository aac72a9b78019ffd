"""Tables with a line for each thing are told from tables with a line for each fact, small ones and large ones."""

from __future__ import annotations

import random

import pytest

from tianwen.ask.fact_files import Report, read_facts
from tianwen.ask.wide_tables import is_name, is_value


def doubt(folder, text: str, name: str = "t.csv", report: Report | None = None) -> str:
    report = report or Report()
    (folder / name).write_text(text, encoding="utf-8")
    for _ in read_facts(folder / name, report=report):
        pass
    return report.doubt()


PRICES = "values stand where predicates should"
NAMES = "the first line looks like names of columns"

THINGS = {
    "quickstart": (
        "name,price,colour,made in\nCloud T-shirt,$19,white,Ningbo\nDeer thermos,$32,pink,Dongguan\n",
        PRICES,
    ),
    "quickstart-zh": ("名称,价格,颜色,产地\n云柔纯棉T恤,79元,白色,宁波\n小鹿保温杯,129元,粉色,东莞\n", PRICES),
    "no-header": ("云柔纯棉T恤,79元,白色,宁波\n小鹿保温杯,129元,粉色,东莞\n", PRICES),
    "one-line": ("Deer thermos,$32,pink\n", PRICES),
    "five": ("product,price,place,colour,weight\nThermos,$32,Wuhan,pink,0.4 kg\nShirt,$19,Ningbo,red,0.2 kg\n", PRICES),
    "quoted": ('product,price,colour\nTV,"$1,299",black\nPhone,"$899",white\n', PRICES),
    "unknown-names": ("货,多少,哪里\n杯,3元,东\n锅,9元,西\n", PRICES),
    "units": ("world,across,companions\nMars,3390 km,2\nVenus,6052 km,0\n", PRICES),
    "choices": ("姓名,性别,籍贯\n张三,男,北京\n李四,女,上海\n", PRICES),
    "dates": ("order,when,who\n17,3 May 2024,Ann\n18,4 May 2024,Bob\n", PRICES),
    "same-subject": ("customer,date,item\nAnn,2020-01-03,tea\nAnn,2020-02-01,cup\nBob,2020-01-03,tea\n", PRICES),
    "words": ("title,director,country\nAlien,Scott,UK\nSolaris,Tarkovsky,USSR\n", NAMES),
    "words-zh": ("书名,作者,出版社\n活着,余华,作家出版社\n围城,钱锺书,人民文学出版社\n", NAMES),
    "words-4": ("姓名,职业,籍贯,年龄\n张三,教师,北京,35\n李四,教师,上海,41\n", NAMES),
    "long-names": ("Product Name,maker,Unit Price (USD)\nCup,Smith,3\nPot,Jones,9\n", NAMES),
    "heading": ("saga,villain,seen\n" + "".join(f"Saga {i},Villain {i},{1970 + i}\n" for i in range(8)), "below seen"),
    "heading-named": ("saga,villain,year\nAlien,Ash,1979\nJaws,Shark,1975\nHeat,Neil,1995\n", "below year"),
    "price-as-source": ("Cup,red,Ningbo,$3\nPot,blue,Wuhan,$9\n", "prices or shares stand where sources should"),
    "fifty": ("商品,价格,库存\n" + "".join(f"货{i},{i}.5元,{100 - i}\n" for i in range(50)), PRICES),
    "thousands": ("".join(f"work {i},maker {i},place {i % 7}\n" for i in range(3000)), "hardly two of the first 2,000"),
}


@pytest.mark.parametrize("name", THINGS)
def test_a_table_of_things_is_told(tmp_path, name):
    text, sign = THINGS[name]
    said = doubt(tmp_path, text)
    assert "t.csv was read as facts (" in said
    assert sign in said
    assert "docs/quickstart.md" in said


FACTS = {
    "known-names": "subject,predicate,object\nCup,$3,red\nPot,$9,blue\n",
    "one": "火星,半径,3390 km\n",
    "one-event": "刘翔,110米栏,12秒88\n",
    "all-differ": "Mars,moons,Phobos\nVenus,radius,6052 km\nEarth,mass,5.97e24 kg\nPluto,found,1930\n",
    "events": "博尔特,国籍,牙买加\n博尔特,100米,9秒58\n博尔特,200米,19秒19\n刘翔,110米栏,12秒88\n",
    "one-event-of-all": "博尔特,国籍,牙买加\n刘翔,110米栏,12秒88\n罗伯斯,110米栏,12秒87\n",
    "years": "中国,2019,14.1亿\n中国,2020,14.1亿\n印度,2019,13.8亿\n印度,2020,14.0亿\n",
    "glossary": "".join(f"词{i},释义,说明{i}\n" for i in range(9)),
    "prices": "".join(f"货{i},价格,{i}元\n" for i in range(30)),
    "sources": "Mars,radius,3390 km,IAU\nVenus,radius,6052 km,IAU\nMercury,symbol,Hg,IUPAC\n",
    "pages": "Mars,radius,3390 km,12\nVenus,moons,0,14\nEarth,mass,1,16\n",
    "senses": "Mercury,radius,2440 km,planet,IAU\nMercury,symbol,Hg,element,IUPAC\n",
    "names-as-subjects": "颜色,定义,光的性质\n价格,定义,商品的货币表现\n姓名,定义,人的称呼\n",
    "names-as-both": "颜色,英文名,colour\n价格,英文名,price\n姓名,英文名,name\n",
    "cities": "Panama City,located in,Lake City\nParis,river,Seine\n",
    "name-and-predicate": "planet,name,Mars\nriver,length,a way\n",
    "only-numbers": "".join(f"thing {i},{'abcdefghi'[i]}-weight,{i} kg\n" for i in range(9)),
    "companies": "甲公司,母公司,乙公司\n白蛇,导演,黄家康\n",
    "values-below": "Mars,moon,Phobos\nVenus,radius,6052 km\nEarth,mass,1\nPluto,found,1930\nCeres,width,939 km\n",
}


@pytest.mark.parametrize("name", FACTS)
def test_a_table_of_facts_is_not_accused(tmp_path, name):
    assert doubt(tmp_path, FACTS[name]) == ""


def test_facts_in_any_order_with_many_predicates_are_not_accused(tmp_path):
    """All subjects differ, and two of three facts among 60 have a predicate of their own, as in an encyclopedia."""
    words = [f"{first}{second}" for first in "原首主所总副正本外内" for second in "产要属部名号地人义称"]
    objects = ["12", "北京", "1998年", "白色", "约3万人", "黄家康", "IAU", "是", "一种鱼", "5.5 kg"]
    draw = random.Random(0)
    for size in (2, 5, 10, 60, 1200):
        lines = [f"物{i}\t{draw.choice(words)}\t{draw.choice(objects)}" for i in range(size)]
        assert doubt(tmp_path, "\n".join(lines), "t.tsv") == ""


def test_each_table_is_judged_alone_and_the_first_is_named(tmp_path):
    report = Report()
    assert doubt(tmp_path, FACTS["sources"], "facts.csv", report) == ""
    assert "things.csv was read as" in doubt(tmp_path, THINGS["words"][0], "things.csv", report)
    said = doubt(tmp_path, THINGS["units"][0], "more.csv", report)
    assert "things.csv was read as" in said
    assert "The same goes for 1 more table." in said
    assert doubt(tmp_path, FACTS["one"], "last.csv", report) == said


def test_values():
    values = """3 | -1.5 | $32 | US$1,299 | 79元 | 1.5万元 | 约300人 | ≈2 kg | 12% | 3–5 | 10:30 | 2019年3月5日 | 3月5日
        | 12元/斤 | 5 May 2019 | May 5, 2019 | 2019-03-05 10:00 | 35岁 | 120平方米 | 90 km/h | 20℃ | yes | 男 | ✓"""
    assert [cell for cell in cells(values) if not is_value(cell)] == []
    words = """radius | 价格 | 五笔86 | icd-10 | 5.25英寸仓位 | 100 m record | G20峰会 | year of birth | iso 639-3 | 元
        | May | 人口（2011年） | 3rd place winner | 释义2"""
    assert [cell for cell in ["", *cells(words)] if is_value(cell)] == []


def test_names_of_columns():
    names = "Price | unit price (USD) | date of birth | made in | 产品名称 | 价格（元） | 出生日期 | release_date"
    assert [cell for cell in cells(names) if not is_name(cell)] == []
    others = "New York City | 母公司 | Mars | King of Spain | 数据的名称和说明 | the best of all time | 英国广播公司"
    assert [cell for cell in ["", *cells(others)] if is_name(cell)] == []


def cells(text: str) -> list[str]:
    return [cell.strip() for cell in text.split("|")]
