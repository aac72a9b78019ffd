"""Tell a table with a line for each thing, which has to be turned, from a table with a line for each fact.

Post: 8802

Both are rows of three to five cells; read as facts, the former gives `Deer thermos → $32 → pink`. How many predicates
or subjects differ says nothing: in a shuffled table of facts two in a thousand may share either. What a cell looks like
does.

| sign     | a line for each thing                                             | a line for each fact                 |
|----------|-------------------------------------------------------------------|--------------------------------------|
| values   | $32, 1.5 kg, 2019-03-01 and 男 stand in the second column         | words stand there                    |
| names    | the first line's words name columns: name, price, colour          | its subject and object are things    |
| heading  | below a first cell that is no value, a whole column of values     | objects are of all kinds             |
| money    | prices stand in the fourth or fifth column                        | sources and senses stand there       |
| distinct | of a thousand lines hardly two agree in the first or second cell  | some predicates come back by then    |

Every sign is a guess: it is worth a note, never a refusal.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

Row = Sequence[str]
"""A line's cells: subject, predicate, object and two more, "" where it has none."""

COLUMN, COLUMN_WITH_NAME = 8, 3
"""Lines below the first from which a column of values says something about the first line; fewer do where its subject
or a later cell is a known name."""
MANY = 1_000
"""Lines from which distinct cells say something."""
NAME_LENGTH, NAME_LENGTH_ZH = 24, 8  # characters: longer is no name of a column

_NUMBER = r"\d[\d,.]*"
_CURRENCY = r"(?:(?:US|HK|NT|AU|CA)?[$€£¥￥₹]|(?:USD|EUR|GBP|CNY|RMB|HKD|JPY) )"
_CURRENCY_AFTER = r"(?:[$€£¥￥₹]|USD|EUR|GBP|CNY|RMB|HKD|JPY|dollars?|euros?|[百千万亿]*(?:[美日港欧]?元|块|人民币))"
_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_PRICE = (
    rf"{_CURRENCY} ?{_NUMBER} ?[kKmMbB万亿]?(?:n|illion)?|{_NUMBER} ?[百千万亿]*{_CURRENCY_AFTER}(?:/\w{{1,8}})?|"
    rf"{_NUMBER} ?[%％‰]"
)
_UNIT = r"(?:[°º]?[a-zµ²³]{1,10}(?:/[a-z]{1,8}[²³]?)?|[℃°]|[百千万亿]*(?:平方|立方)?[\u4e00-\u9fff]{0,2}(?:/\w{1,3})?)"
_DATE = (
    r"\d{4}年(?:\d{1,2}月)?(?:\d{1,2}日)?|\d{1,2}月\d{1,2}日|"
    rf"(?:\d{{1,2}} )?{_MONTH},?(?: \d{{1,2}},?)? \d{{4}}|\d{{4}}[-/.]\d{{1,2}}[-/.]\d{{1,2}}.{{0,12}}"
)
_RANGE = rf"{_NUMBER}(?: ?[-–—~～:：/x×至] ?{_NUMBER})*"
_CHOICE = r"yes|no|true|false|male|female|[ymfn]|是|否|有|无|男|女|[√✓✔×✗]"
PRICE = re.compile(rf"[~≈约<>≤≥+−±-]? ?(?:{_PRICE})", re.IGNORECASE)
VALUE = re.compile(rf"[~≈约<>≤≥+−±-]? ?(?:{_PRICE}|{_DATE}|{_RANGE} ?{_UNIT}?)|{_CHOICE}", re.IGNORECASE)

# Words that name columns. A longer name may end with one of _ENDS (unit price, 产品名称) or be the beginning of one
# (date of birth): cities and companies end with the others.
_WORDS = """
address age amount area artist author birthday book born brand capital category city class code color colour company
cost country currency customer date day department description director email employee film gender genre grade height
hometown id index item job kind language length location made made_in maker manufacturer material model movie name
nationality number occupation office order origin person phone place planet population position price product publisher
qty quantity rating region release_date released river school sex size sku song speed status stock student supplier
symbol team tel temperature title total type unit url value weight width year
编号 序号 代码 型号 规格 名称 名字 姓名 品名 书名 片名 商品 产品 物品 货物 货品 品牌 厂家 厂商 生产商 单价 价格 售价
价钱 金额 数量 库存 单位 颜色 尺寸 尺码 大小 重量 长度 宽度 高度 材质 材料 产地 地址 地点 地区 城市 国家 省份 籍贯
国籍 民族 性别 年龄 生日 出生日期 出生地 身高 体重 学历 学校 专业 班级 年级 学号 工号 职业 职务 职位 部门 公司 电话
手机 邮箱 日期 时间 年份 作者 导演 主演 出版社 歌手 演员 书籍 电影 歌曲 客户 顾客 订单 员工 学生 老师 类型 类别 种类
分类 状态 备注 说明 描述 面积 人口 首都 语言 货币 评分 成绩 分数 科目
"""
_NAMES = frozenset(_WORDS.split())
_ENDINGS = """
amount code date id name no number price quantity size time type weight
名称 名字 姓名 编号 代码 型号 价格 单价 售价 金额 数量 颜色 尺寸 重量 材质 产地 地址 日期 时间 类型 类别 面积
"""
_ENDS = tuple(_ENDINGS.split())
_BRACKET = re.compile(r"\s*[(（\[【].*?[)）\]】]\s*$")


def sign_of_things(rows: Sequence[Row]) -> str:
    """What in the first rows of a table without known names of columns speaks for a line for each thing; "" if nothing.

    The sign is a clause for people. `rows` begins with the table's first line.
    """
    if not rows:
        return ""
    named = _may_name_columns(rows)
    body = rows[1:] if named else rows
    return (
        _values_as_predicates(body, named=named)
        or (_names_of_columns(rows[0]) if named else "")
        or (_headed_values(rows) if named else "")
        or _prices_as_sources(body)
        or _all_distinct(rows)
    )


def is_value(cell: str) -> bool:
    """Whether a cell is a number with or without a unit, a price, a share, a date or one of two choices."""
    return VALUE.fullmatch(cell) is not None


def is_name(cell: str) -> bool:
    """Whether a cell is a word that commonly names a column: `unit price (USD)`, `产品名称`."""
    cell = _BRACKET.sub("", cell).lower()
    if not cell.isascii():
        return cell in _NAMES or (len(cell) <= 6 and cell.endswith(_ENDS))
    words = cell.partition(" of ")[0].replace("_", " ").split()
    return "_".join(words) in _NAMES or (len(words) in (2, 3) and words[-1] in _ENDS)


def _may_name_columns(rows: Sequence[Row]) -> bool:
    """Whether the first row could: short cells, all different, none a value, and none comes back in its column."""
    cells = [cell for cell in rows[0] if cell]
    if len(rows) < 2 or len(set(cells)) < len(cells) or any(is_value(cell) or _is_long(cell) for cell in cells):
        return False
    return all(rows[0][at] != row[at] for row in rows[1:] for at in range(len(row)) if rows[0][at])


def _is_long(cell: str) -> bool:
    cell = _BRACKET.sub("", cell)
    return len(cell) > (NAME_LENGTH if cell.isascii() else NAME_LENGTH_ZH)


def _values_as_predicates(body: Sequence[Row], *, named: bool) -> str:
    values = [row[1] for row in body if is_value(row[1])]
    if len(values) < 0.5 * len(body) or (len(body) > 1 and len(set(values)) < 2):
        return ""
    if len(body) == 1 and not named and not PRICE.fullmatch(values[0]):
        return ""
    if not named and _coming_back(body, 0) >= 0.5:  # a runner's 100米 and 200米, a country's 2019 and 2020
        return ""
    return f"values stand where predicates should ({_some(values)})"


def _names_of_columns(first: Row) -> str:
    if _known_names(first) < 2:
        return ""
    return f"the first line looks like names of columns ({', '.join(filter(None, first))})"


def _known_names(first: Row) -> int:
    """How many cells of the first line name columns; the second does not count, for predicates have the same names."""
    return sum(is_name(first[at]) for at in (0, *range(2, len(first))))


def _headed_values(rows: Sequence[Row]) -> str:
    body = rows[1:]
    least = COLUMN_WITH_NAME if _known_names(rows[0]) else COLUMN
    if len(body) < least or len({row[0] for row in body}) < len(body):
        return ""
    for at in range(2, len(rows[0])):
        if rows[0][at] and sum(is_value(row[at]) for row in body) >= 0.9 * len(body):
            return f"below {rows[0][at]} in the first line there are only values ({body[0][at]}, {body[1][at]})"
    return ""


def _prices_as_sources(body: Sequence[Row]) -> str:
    for at in range(3, len(body[0])):
        prices = [row[at] for row in body if PRICE.fullmatch(row[at])]
        if len(prices) >= max(1, 0.5 * len(body)):
            return f"prices or shares stand where sources should ({_some(prices)})"
    return ""


def _all_distinct(rows: Sequence[Row]) -> str:
    if len(rows) < MANY or any(len({row[at] for row in rows}) < 0.97 * len(rows) for at in (0, 1)):
        return ""
    return f"hardly two of the first {len(rows):,} lines have the same predicate"


def _coming_back(rows: Sequence[Row], at: int) -> float:
    """The share of rows whose cell stands in the same column of another row."""
    times = Counter(row[at] for row in rows)
    return sum(times[row[at]] > 1 for row in rows) / len(rows)


def _some(values: Sequence[str]) -> str:
    return ", ".join(list(dict.fromkeys(values))[:3])
