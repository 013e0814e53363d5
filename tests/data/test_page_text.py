"""Text out of pieces of web pages."""

from __future__ import annotations

import html
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p5jax.data.readers.page_text import is_code, plain


@pytest.mark.parametrize(
    ("piece", "text"),
    [
        ("Strings <12 gauge and >9 gauge", "Strings <12 gauge and >9 gauge"),
        ("Guitar &amp; Bass &lt;Live&gt; 1", "Guitar & Bass <Live> 1"),
        ("Guitar <Live> <b>Set</b>", "Guitar <Live> Set"),
        ("x<y and z>w", "x<y and z>w"),
        ("I <3 it &amp; <i>you</i>", "I <3 it & you"),
        ("a <b and no end", "a <b and no end"),
        ("5</6 and > 3", "5</6 and > 3"),
        ("Does<br />its<br>job", "Does its job"),
        ("<script>var x = '<b>';</script>Drum<style>.a{}</style> 4", "Drum 4"),
        ("<a href='x>y' title=\"<3\">Drum</a>", "Drum"),
        ("Drum<!-- <b>hidden</b> --> 4", "Drum 4"),
        ("x <!-- unclosed <b>text</b> more", "x <!-- unclosed text more"),
        ("<!--> Drum -->a<!-- b -- c --->d", "a d"),
        ("<![CDATA[hello]]> world", "hello world"),
        ("<![CDATA[<b>R&amp;B</b>]]> <![CDATA[ and on", "R&B <![CDATA[ and on"),
        ("<script>//<![CDATA[\nvar x = 1;\n//]]></script>Drum", "Drum"),
        ("Cable <A to B> 3m", "Cable <A to B> 3m"),
        ("<i>Red</i> <b x=1 and no end", "Red <b x=1 and no end"),
        ("Size <S/M> or <b>L</b>", "Size <S/M> or L"),
        ("<a\nhref='x'>Drum</a > <hr/><img src=x />4<br >5", "Drum 4 5"),
        ("<script async src='x'>var a;</script><option selected>Red", "Red"),
        ("<td nowrap align = left>Drum</td><p style='a<b'>kit", "Drum kit"),
        ("<!DOCTYPE html><?xml version='1.0'?>Drum", "Drum"),
        ("&amp;lt;b&amp;gt;", "&lt;b&gt;"),
        ("<p>caf&eacute; &#9835;</p>", "café ♫"),
        ("</span></span></span>", None),
        (" &nbsp;\n", None),
        ("odd \ud83d <b>end</b>", "odd ? end"),
        (f"&#{'9' * 5000};", f"&#{'9' * 5000};"),
    ],
)
def test_what_a_reader_of_the_page_sees(piece, text):
    found = plain(piece)
    assert (found and " ".join(found.split())) == text


def test_line_ends_stay():
    assert plain("Stays in tune.\nFor <b>days</b>.") == "Stays in tune.\nFor  days ."


HOSTILE = (
    *(
        "<",
        "<a",
        "<a ",
        "<a>",
        "<b><i>",
        "<!",
        "<!--",
        "-->",
        "&",
        "&a",
        "&#9",
        "</",
        "</a ",
        "x<b",
    ),
    *(
        "<a a=",
        "<a a='",
        "<?",
        "<![CDATA[",
        "<![CDATA[]]>",
        "<!-- -->",
        "<a async",
        "<a async " * 9,
        "<script>",
        "<script></",
        "<table>",
        "{:",
        "{a:;",
        "{ ",
        ".a",
        ";function(",
        ";$(",
        "}{",
        ";if (",
    ),
)


@pytest.mark.parametrize("unit", HOSTILE)
def test_text_of_any_kind_takes_linear_time(unit):
    run = unit * (100_000 // len(unit))
    for piece in (run, f"{run}>", f"<b>{run}"):
        start = time.process_time()
        is_code(plain(piece) or "")
        assert time.process_time() - start < 0.2  # a megabyte takes less than a second


@given(st.text())
def test_escaped_text_comes_back_whole(text):
    text = " ".join(text.replace("\0", "").split())
    assert (plain(html.escape(text)) or "") == text
    assert " ".join((plain(f"<p>{html.escape(text)}</p>") or "").split()) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("var begin = (new Date()).getTime();\nvar t0 = window.t0 || +new Date();", True),
        (".a-box-inner{background-color:#fff}#alohaBuyBoxWidget .selected{color:#fffbf3}", True),
        ("if (typeof uet == 'function') { uet('af'); }", True),
        ("P.when('A').execute(function(A) { A.on(); });", True),
        ("Effective C++; 3rd edition", False),
        ("Strings {set of 6}", False),
        ("Stained glass window. Doors; frames", False),
        ("Function Junction; let it be", False),
        ("T-shirt {size: M} blue", False),
        ("T-shirt {size: M; colour: red} blue", False),
        ("Set of 2; function tested", False),
        ("Set of 2; function (tested)", False),
        ("3 pack; $.99 each", False),
        ("ACME; $(co)", False),
        ("Frame; if (needed) with glass", False),
        ("Frame; window.Large", False),
        ("body { margin: 0; color: #fff; } Drum", True),
        ("x(); function uet(a, b) { return a; }", True),
        ("$(document).ready(start);", True),
        ("$.ajax({url: 'a'});", True),
        ("window.ue = window.ue || {};", True),
    ],
)
def test_code_without_its_tag_is_told_from_titles(text, expected):
    assert is_code(text) == expected
