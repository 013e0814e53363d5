"""Text out of pieces of web pages: no tags, scripts or styles, and all that a reader would see."""

from __future__ import annotations

import html
import re

from lxml import etree

# What a "<" must be followed by to open a tag; any other is a sign of the text.
_HTML = (
    "a abbr acronym address applet area article aside audio b base basefont bdi bdo big blockquote "
    "body br button canvas caption center cite code col colgroup data datalist dd del details dfn "
    "dialog dir div dl dt em embed fieldset figcaption figure font footer form frame frameset h1 "
    "h2 h3 h4 h5 h6 head header hgroup hr html i iframe img input ins kbd label legend li link "
    "main map mark menu meta meter nav noframes noscript object ol optgroup option output p param "
    "picture pre progress q rp rt ruby s samp script search section select slot small source span "
    "strike strong style sub summary sup svg table tbody td template textarea tfoot th thead time "
    "title tr track tt u ul var video wbr"
)
_NAMES = frozenset(_HTML.split())
# "<A to B>" is none: a name stands alone, or before attributes with "=" or without a value.
_TAG = re.compile(
    r"/?([a-z][a-z0-9]{0,11})(?:\s+(?:async|checked|controls|defer|disabled|nowrap|selected))*+"
    r"(?:\s*/?>|\s+[^\s=<>\"'/]{1,99}\s*=)",
    re.IGNORECASE,
)
_COMMENT, _LITERAL = (
    re.compile(form, re.DOTALL) for form in (r"<!--.*?-->", r"<!\[CDATA\[(.*?)\]\]>")
)
_UNSEEN = frozenset(("script", "style", "template", "noscript"))
# What only a page's own code has. A title may have braces, colons and semicolons too.
_RULE = re.compile(  # of a stylesheet: .name{property: or {property: value;}
    r"[.#][a-z][\w-]{0,99}\{\s*+[a-z-]{1,40}\s?:|\{\s*+[a-z-]{1,40}\s?:[^{}]*;\s*\}",
    re.IGNORECASE,
)
_STATEMENT = re.compile(  # how one of a script begins
    r"(?:^|[;{\n])[ \t]{0,99}(?:(?:var|let|const) [\w$]{1,99} ?="
    r"|\(?function\s{0,9}[\w$]{0,99}\([^(){}]{0,99}\)\s{0,9}\{"
    r"|(?:window|document)\.[\w.$]{1,99} ?[=(]|P\.when\("
    r"|\$\.[a-z]\w{0,99}\(|\$\([^()\n]{1,99}\)\.[a-z]|if ?\([^{;\n]{0,99}\) ?\{)"
)


def plain(value: str) -> str | None:
    """Return the text of a piece of a page, line ends kept; None where there is none.

    Each tag and comment becomes a space. A "<" that opens no tag of HTML stays, so "<12 gauge and
    >9 gauge" is whole. Linear in the length of the text.
    """
    # a lone surrogate (from a JSON \\\\ud83d escape) cannot be stored as UTF-8
    value = value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
    if "<" in value:
        value = value.replace("<br />", " ")  # by far the most frequent tag
    if "<" in value:
        value = _parsed(value)
    elif "&" in value:
        value = _unescaped(value)
    return value.strip() or None


def is_code(text: str) -> bool:
    """Whether a text is a page's script or style without its tag, which no title is."""
    if "{" in text and _RULE.search(text):
        return True
    return ";" in text and _STATEMENT.search(text) is not None


def _unescaped(value: str) -> str:
    try:
        return html.unescape(value)
    except ValueError:  # a number of thousands of digits
        return value


def _parsed(value: str) -> str:
    value = _replaced(_COMMENT, "-->", " ", value)
    value = _replaced(_LITERAL, "]]>", r"\1", value)
    head, close, tail = value.rpartition(">")  # behind which no tag can end
    first, *rest = (head + close).split("<")
    opened = "".join(("<" if _opens_tag(piece) else "&lt;") + piece for piece in rest)
    parser = etree.HTMLParser(target=_Text(), huge_tree=True)
    parser.feed(f"{first}{opened}{tail.replace('<', '&lt;')}")
    text: str = parser.close()
    return text


def _replaced(form: re.Pattern[str], end: str, by: str, value: str) -> str:
    """Replace what has the form; only before the last `end`, so that no search is in vain."""
    before, found, after = value.rpartition(end)
    return form.sub(by, before + found) + after


def _opens_tag(piece: str) -> bool:
    if piece.startswith(("!doctype", "!DOCTYPE", "?xml")):
        return True
    match = _TAG.match(piece)
    return match is not None and match[1].lower() in _NAMES


class _Text:
    """Takes a parser's events and keeps the text."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.unseen = 0

    def start(self, tag: str, attributes: object) -> None:
        self.unseen += tag in _UNSEEN
        self.parts.append(" ")

    def end(self, tag: str) -> None:
        self.unseen -= tag in _UNSEEN
        self.parts.append(" ")

    def data(self, text: str) -> None:
        if not self.unseen:
            self.parts.append(text)

    def close(self) -> str:
        return "".join(self.parts)
