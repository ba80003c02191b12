"""The Chinese catalogues: complete, with the sources' placeholders, the glossary's words and Chinese punctuation.

That they are those of the sources is `.ci/translations`' to check, which needs gettext's programs.
"""

import ast
import gettext
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import django
import pytest
from django.apps import apps
from django.conf import settings

PANEL, WORDING = (Path(path) / "zh_Hans" / "LC_MESSAGES" / "django.po" for path in settings.LOCALE_PATHS)
CATALOGS = [pytest.param(PANEL, id="panel"), pytest.param(WORDING, id="wording")]
HAN = "\u4e00-\u9fff"
# Placeholders in which Django puts a model's name.
MODEL_NAMES = re.compile(
    r"%\((?:model|name|verbose_name|verbose_name_plural|object_name|objects_name|module_name|items)\)s|(?<=添加|修改)%s"
)

# Where the left is said in English, the Chinese text has one of the words on the right (docs/glossary.md).
GLOSSARY = {
    r"serial numbers?": "序列号",
    r"redeem(ed|ing|s)?": "激活",
    r"rentals?": "租赁",
    r"relays?": "中继",
    r"servers?": "服务器|Web 服务|SSH 服务",
    r"regions?": "区域",
    r"map versions?": "配置版本",
    r"derpmap": "derpMap",
    r"policy file": "ACL 策略文件",
    r"containers?": "容器",
    r"host key": "主机密钥",
    r"fingerprints?": "指纹",
    r"security group": "安全组",
    r"throw-away": "临时",
    r"super admins?": "超级管理员",
    r"admins?": "管理员|管理控制台|管理后台|Admin",
    r"activity log": "操作日志",
    r"two-factor": "两步验证",
    r"second factors?": "第二重验证",
    r"passkeys?": "通行密钥",
    r"sign up": "注册",
    r"sign out": "退出",
    r"sign in": "登录",
    r"batch(es)?": "批次",
    r"unpaid": "未付款",
    r"recalled": "作废",
}


@dataclass
class Entry:
    """One text of a catalogue: its context if it has one, its one or two source forms and its Chinese one."""

    context: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    chinese: list[str] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)


def read(catalog: Path) -> list[Entry]:
    """The entries of a .po file, the header left out."""
    entries, entry = [], Entry()
    texts: list[str] = []
    for line in [*catalog.read_text(encoding="utf-8").splitlines(), ""]:
        if line.startswith("#,"):
            entry.flags |= {flag.strip() for flag in line[2:].split(",")}
        elif match := re.match(r'(msgctxt|msgid|msgstr)\S* (".*")$', line):
            texts = {"msgctxt": entry.context, "msgid": entry.sources, "msgstr": entry.chinese}[match[1]]
            texts.append(ast.literal_eval(match[2]))
        elif line.startswith('"'):
            texts[-1] += ast.literal_eval(line)
        elif not line and entry.sources:
            entries.append(entry)
            entry = Entry()
    return [entry for entry in entries if entry.sources != [""]]


def every(catalog: Path) -> Iterator[tuple[str, str]]:
    """Each English text (the plural where there is one) with its Chinese one."""
    for entry in read(catalog):
        yield entry.sources[-1], entry.chinese[0]


def own_words() -> set[tuple[str, ...]]:
    """Context, if any, and text of everything that Django and the installed apps of others have translated themselves."""
    folders = [Path(django.__file__).parent / "conf", *(Path(app.path) for app in apps.get_app_configs())]
    catalogs = [folder / "locale" / "en" / "LC_MESSAGES" / "django.po" for folder in folders]
    return {
        (*entry.context, entry.sources[0])
        for catalog in catalogs
        if catalog.exists()
        for entry in read(catalog)
    }


def placeholders(text: str) -> Counter[str]:
    """What is filled in: %(name)s, %s and {name}, with the conversion but without widths."""
    text = text.replace("%%", "")
    return Counter(re.findall(r"%\(\w+\)[a-z]|%[sdrf]|\{\w+(?::\w+)?\}", text))


@pytest.mark.parametrize("catalog", CATALOGS)
def test_catalogue_is_complete_when_read(catalog: Path) -> None:
    entries = read(catalog)
    assert len(entries) > 100
    bad = [entry.sources[0] for entry in entries if "fuzzy" in entry.flags or len(entry.chinese) != 1]
    bad += [entry.sources[0] for entry in entries if not all(text.strip() for text in entry.chinese)]
    assert bad == []


def test_wording_is_of_what_django_and_the_installed_apps_say() -> None:
    words = own_words()
    assert len(words) > 800
    assert [entry for entry in read(WORDING) if (*entry.context, entry.sources[0]) not in words] == []


@pytest.mark.parametrize("catalog", CATALOGS)
def test_placeholders_and_tags_stay_when_translated(catalog: Path) -> None:
    def shape(text: str) -> tuple[Counter[str], list[str]]:
        return placeholders(text), sorted(re.findall(r"<[a-z/][^>]*>", text))

    bad = {english: chinese for english, chinese in every(catalog) if shape(english) != shape(chinese)}
    assert bad == {}


@pytest.mark.parametrize("catalog", CATALOGS)
def test_label_stays_a_label_when_translated(catalog: Path) -> None:
    """What has no full stop in English, and is short, has none in Chinese."""
    bad = {
        english: chinese
        for english, chinese in every(catalog)
        if english[-1].isalnum() and english.count(" ") < 4 and chinese[-1] in "。：，"
    }
    assert bad == {}


@pytest.mark.parametrize("catalog", CATALOGS)
def test_punctuation_is_full_width_when_beside_chinese(catalog: Path) -> None:
    mistakes = re.compile(
        rf"[{HAN}][,;!?]|[,;!?][{HAN}]|[{HAN}][.:](?![\w/])|[{HAN}]\(|\)[{HAN}]"  # half-width beside Chinese
        r"|[，。：；？！（）“”、] (?!·)| [，。：；？！）、]|  "  # spaces where the mark is wide itself
        r"|[\uff10-\uff19\uff21-\uff3a\uff41-\uff5a]"  # full-width digits and letters
    )
    bad = {english: chinese for english, chinese in every(catalog) if mistakes.search(chinese)}
    assert bad == {}


@pytest.mark.parametrize("catalog", CATALOGS)
def test_a_space_stands_between_when_chinese_meets_latin(catalog: Path) -> None:
    glued = re.compile(rf"[{HAN}](?:[A-Za-z0-9]|%\(\w+\)[sd])|(?:[A-Za-z0-9]|%\(\w+\)[sd])[{HAN}]")
    bad = {}
    for english, chinese in every(catalog):
        # Tags, and the two placeholders of allauth that are tags, belong to the word inside.
        text = re.sub(r"</?\w+[^>]*>|%\((?:end_)?link\)s", "", chinese)
        # Django puts a model's name there, which is Chinese itself.
        if glued.search(MODEL_NAMES.sub("", text)):
            bad[english] = chinese
    assert bad == {}


def test_glossary_word_is_used_when_the_source_names_the_thing() -> None:
    bad = []
    for english, chinese in every(PANEL):
        plain = re.sub(r"<[^>]*>|“[^”]*”|manage\.py \w+|--[\w-]+|%\(\w+\)s|derp: ", " ", english)
        for word, wanted in GLOSSARY.items():
            if re.search(rf"(?<![\w./-]){word}(?![\w./-])", plain, re.IGNORECASE) and not re.search(
                wanted, chinese, re.IGNORECASE
            ):
                bad.append((word, english, chinese))
    assert bad == []


def test_reader_is_spoken_to_politely_when_addressed() -> None:
    bad = [chinese for catalog in (PANEL, WORDING) for _english, chinese in every(catalog) if "你" in chinese]
    assert bad == []


@pytest.mark.parametrize("catalog", CATALOGS)
def test_compiled_catalogue_is_current_when_compared_with_its_source(catalog: Path) -> None:
    with catalog.with_suffix(".mo").open("rb") as file:
        compiled = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
    expected = {}
    for entry in read(catalog):
        key = "\x04".join([*entry.context, entry.sources[0]])
        expected[(key, 0) if len(entry.sources) > 1 else key] = entry.chinese[0]
    compiled.pop("", None)
    assert compiled == expected
