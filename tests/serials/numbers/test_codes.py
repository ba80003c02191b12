import pytest
from hypothesis import given
from hypothesis import strategies as st

from serials.numbers import codes

made = st.text(codes.ALPHABET, min_size=19, max_size=19).map(codes.with_check)


def test_code_is_well_typed_when_it_was_generated() -> None:
    code = codes.generate()
    assert codes.is_well_typed(code)
    assert codes.normalize(code) == code
    assert len(code) == 20  # 19 symbols of 5 bits are 95 random bits


@pytest.mark.slow
@given(made)
def test_every_error_is_found_when_one_symbol_is_wrong(code: str) -> None:
    for place, right in enumerate(code):
        for wrong in codes.ALPHABET:
            if wrong != right:
                assert not codes.is_well_typed(code[:place] + wrong + code[place + 1 :])


@given(made)
def test_every_swap_is_found_when_neighbours_differ(code: str) -> None:
    for place in range(len(code) - 1):
        left, right = code[place : place + 2]
        if left != right:
            assert not codes.is_well_typed(code[:place] + right + left + code[place + 2 :])


@given(made, st.integers(0, 19))
def test_code_is_refused_when_a_symbol_is_missing_or_doubled(code: str, place: int) -> None:
    assert not codes.is_well_typed(code[:place] + code[place + 1 :])
    assert not codes.is_well_typed(code[:place] + code[place] + code[place:])


def _full_width(char: str) -> str:
    return chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else char


ways_to_write = {"0": "0Oo", "1": "1IiLl"}


@pytest.mark.slow
@given(made, st.data())
def test_code_is_read_when_it_is_written_carelessly(code: str, data: st.DataObject) -> None:
    written = ""
    for char in code:
        char = data.draw(st.sampled_from([*ways_to_write.get(char, char), char.lower()]))
        written += data.draw(st.sampled_from([char, _full_width(char)]))
        written += data.draw(
            st.sampled_from(["", "", " ", "-", "–", "—", "－", "\u3000", "\u00a0", "_", "\u200b", "\t"])
        )
    assert codes.normalize(f"  {written}\n") == code
    assert codes.is_well_typed(written)


@given(st.text(max_size=60))
def test_text_is_judged_when_it_is_anything(text: str) -> None:
    assert codes.is_well_typed(text) in {True, False}


@pytest.mark.parametrize("text", ["", "0" * 19, "U" * 20, "序列号序列号序列号序列号序列号序列号序列"])
def test_text_is_not_well_typed_when_it_cannot_be_a_code(text: str) -> None:
    assert not codes.is_well_typed(text)


def test_codes_differ_when_many_are_made() -> None:
    assert len({codes.generate() for _ in range(2000)}) == 2000


def test_code_is_shown_in_groups_of_four() -> None:
    assert codes.group("K7QW29XM4TR8C3NVB6HJ") == "K7QW-29XM-4TR8-C3NV-B6HJ"


AROUND = [
    "激活码：{}",
    "{}。",
    "【店铺】您的序列号是 {}，请在 30 天内激活，谢谢！",
    "Hello Anna, your serial number: {} (30 days). Redeem it at https://derp.example.com/redeem/ before 2027-01-31.",
    "您好\n{}\n2026-11-30 12:00",
    "“{}”",
    "{}; {}",
]


@pytest.mark.parametrize("around", AROUND)
@given(code=made)
def test_code_is_found_when_it_stands_in_a_message(around: str, code: str) -> None:
    for written in (code, codes.group(code), codes.group(code).replace("-", " "), codes.group(code).lower()):
        text = around.replace("{}", written)
        assert codes.normalize(text) == code
        assert codes.is_well_typed(text)


@given(made, made)
def test_message_is_refused_when_it_holds_two_codes_or_a_wrong_one(code: str, other: str) -> None:
    wrong = code[:5] + ("A" if code[5] != "A" else "B") + code[6:]
    assert not codes.is_well_typed(f"激活码：{codes.group(wrong)}。")
    if code != other:
        assert not codes.is_well_typed(f"{codes.group(code)}，{codes.group(other)}")
