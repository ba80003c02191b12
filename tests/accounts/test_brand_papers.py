"""Terms and privacy policy: shown as they were typed, as text and nothing else, and told of where people sign up."""

import pytest
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st

from accounts.brand.models import BrandPicture
from accounts.brand.papers import Block, read_paper
from accounts.services import change_brand


def test_headings_lists_and_paragraphs_are_told_apart() -> None:
    text = "Before.\r\nSecond line.\r\n\r\n# First\r\nText.\n- one\n- two\nAfter.\n \n## Small\n\n#nothing\n-nothing"
    assert read_paper(text) == [
        Block("text", ("Before.", "Second line.")),
        Block("heading", ("First",)),
        Block("text", ("Text.",)),
        Block("list", ("one", "two")),
        Block("text", ("After.",)),
        Block("subheading", ("Small",)),
        Block("text", ("#nothing", "-nothing")),
    ]


@given(st.text(alphabet="a#- \n\r\t", max_size=60))
def test_no_letter_is_lost_whatever_is_typed(text: str) -> None:
    blocks = read_paper(text)
    assert sum(line.count("a") for block in blocks for line in block.lines) == text.count("a")
    assert all(block.lines for block in blocks)


@pytest.mark.django_db
def test_a_paper_is_a_page_of_text_which_nothing_in_it_can_leave(client: Client) -> None:
    assert client.get("/terms/").status_code == client.get("/privacy/").status_code == 404
    change_brand(
        by=None,
        terms_text="# <b>One</b>\n\n<script>alert(1)</script>\n\n- {{ brand.name }}",
        privacy_text="Ours.",
    )
    page = client.get("/terms/").content.decode()
    assert "&lt;b&gt;One&lt;/b&gt;</h2>" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<li>{{ brand.name }}</li>" in page
    assert "<p>Ours.</p>" in client.get("/privacy/").content.decode()
    assert client.post("/terms/").status_code == 405


@pytest.mark.django_db
def test_english_pages_have_the_english_texts_and_the_chinese_ones_where_there_are_none() -> None:
    chinese, english = Client(), Client()
    english.cookies["django_language"] = "en"
    change_brand(by=None, name="云桥", slogan="直连不绕路", terms_text="# 条款", privacy_text="隐私")
    for client in (chinese, english):
        assert "直连不绕路" in client.get("/").content.decode()
        page = client.get("/terms/").content.decode()
        assert "条款</h2>" in page
        assert '<article class="panel-narrow ms-0" lang="zh-Hans">' in page
    change_brand(by=None, slogan_en="The short way", terms_text_en="# Our terms")
    texts = {"/": ("直连不绕路", "The short way"), "/terms/": ("条款</h2>", "Our terms</h2>")}
    for path, (in_chinese, in_english) in texts.items():
        for client, shown, hidden in ((chinese, in_chinese, in_english), (english, in_english, in_chinese)):
            page = client.get(path).content.decode()
            assert shown in page, path
            assert hidden not in page, path
    assert 'lang="en">' in english.get("/terms/").content.decode().partition("<article")[2]
    assert "隐私" in english.get("/privacy/").content.decode()
    # Where there is only an English one, that is better than none.
    change_brand(by=None, terms_text="")
    assert "Our terms" in chinese.get("/terms/").content.decode()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("terms", "privacy", "words"),
    [
        ("", "", ""),
        ("https://example.com/t", "", "《服务条款》"),
        ("", "https://example.com/p", "《隐私政策》"),
        ("https://example.com/t", "https://example.com/p", "注册即表示您同意"),
    ],
)
def test_who_signs_up_is_told_what_they_accept(client: Client, terms: str, privacy: str, words: str) -> None:
    change_brand(by=None, terms_url=terms, privacy_url=privacy)
    page = client.get("/accounts/signup/").content.decode()
    form = page[page.index('action="/accounts/signup/"') :]
    form = form[: form.index("</form>")]
    assert ("注册即表示您同意" in form) is bool(words)
    assert words in form
    for address in (terms, privacy):
        assert f'href="{address}"' in form or not address


@pytest.mark.django_db
@pytest.mark.parametrize(("width", "is_named"), [(48, True), (96, True), (97, False)])
def test_a_wide_logo_stands_in_place_of_the_name(client: Client, width: int, is_named: bool) -> None:
    logo = BrandPicture.objects.create(
        digest="a" * 32, content_type="image/png", width=width, height=48, data=b"x"
    )
    change_brand(by=None, name="云桥加速", logo=logo)
    page = client.get("/").content.decode()
    header = page[page.index("<header") : page.index("</header>")]
    assert ("<span>云桥加速</span>" in header) is is_named
    # Read aloud it is either way.
    assert header.count("云桥加速") == 1
