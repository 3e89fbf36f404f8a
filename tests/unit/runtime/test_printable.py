"""Text of other programs controls no terminal, reverses no text and hides no character."""

import json
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.printable import printable, printable_html, printable_line

HARMFUL = {
    "CSI": "\x1b[31mred",
    "OSC 52": "\x1b]52;c;aGk=\x07",
    "C1 CSI": "\x9b31m",
    "DEL": "a\x7fb",
    "carriage return": "safe\rfake",
    "bidi override": "abc\u202edef",
    "bidi isolate": "\u2066a\u2069",
    "Arabic letter mark": "a\u061cb",
    "zero width": "a\u200bb\u200cc\u200dd\u2060e\ufefff",
    "soft hyphen": "a\u00adb",
    "tag letters": "a\U000e0041b",
    "variation selector": "a\ufe0fb",
    "Hangul filler": "a\u3164b",
    "line separator": "a\u2028b\u2029c",
    "lone surrogate": "a\ud800b",
    "private use": "a\ue000b",
}


@pytest.mark.parametrize("text", HARMFUL.values(), ids=HARMFUL)
def test_harmful_characters_are_shown_as_escapes(text: str) -> None:
    shown = printable(text)
    assert "\\u" in shown
    assert shown.isprintable()
    assert shown.encode()


def test_every_character_of_unicode_that_is_a_control_or_a_format_is_escaped() -> None:
    controls = [
        chr(code)
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    ]
    assert [one for one in controls if one not in "\n\t" and one in printable(one)] == []


@pytest.mark.parametrize("text", ["MacBook von Jürg", "東京-12", "Mac Ελλάδα", "a\nb\tc", ""])
def test_names_and_layout_stay(text: str) -> None:
    assert printable(text) == text


@given(st.text())
def test_json_stays_the_same_json(text: str) -> None:
    assert json.loads(printable(json.dumps(text, ensure_ascii=False))) == text


def test_line_has_no_second_line() -> None:
    assert printable_line("erases MAC-1\nallowed: yes") == "erases MAC-1\\nallowed: yes"


def test_html_is_escaped_too() -> None:
    assert printable_html("<b>\u202e'\"") == "&lt;b&gt;\\u202e&#x27;&quot;"
