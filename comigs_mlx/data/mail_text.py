"""What somebody wrote in a mail: without quotes, forwards and signatures.

There is no standard for any of them, only habits of mail programs, each in the language
of its user. The ones here are those of Apple Mail, Gmail, Outlook and Thunderbird in
English, German, French, Italian, Spanish, Portuguese and Dutch.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from comigs_mlx.data.pieces import Cut

ANYTHING = r"\b[^\n]{0,160}(?:\n[^\n]{1,160}){0,2}?\b"
COLON = r"[ \u00a0\u202f]?:"
WROTE = re.compile(
    rf"^[ \t]*(?:On{ANYTHING}wrote{COLON}"
    rf"|(?:Am|On){ANYTHING}schrieb\b[^\n]{{0,120}}:"
    rf"|Le{ANYTHING}a (?:é|e)crit{COLON}"
    rf"|Il{ANYTHING}ha scritto{COLON}"
    rf"|El{ANYTHING}escribi(?:ó|o){COLON}"
    rf"|Em{ANYTHING}escreveu{COLON}"
    rf"|Op{ANYTHING}schreef\b[^\n]{{0,120}}:)[ \t]*$",
    re.MULTILINE,
)
"""The line, or lines, before a quote, such as "On 3 May, Ann wrote:"."""

FORWARD_WORDS = (
    r"forwarded message|weitergeleitete nachricht|message transféré|message réexpédié"
    r"|messaggio inoltrato|mensaje reenviado|mensagem encaminhada|doorgestuurd bericht"
)
FORWARD = re.compile(
    rf"^[ \t]*(?:-{{2,40}}[^\n]{{0,20}}(?:{FORWARD_WORDS})[^\n]{{0,20}}"
    r"|(?:begin forwarded message|anfang der weitergeleiteten nachricht"
    r"|début du message (?:réexpédié|transféré)|inizio (?:del )?messaggio inoltrato"
    r"|inicio del mensaje reenviado|início da mensagem encaminhada"
    r"|begin doorgestuurd bericht)[ \t]*:)[ \t]*$",
    re.MULTILINE | re.IGNORECASE,
)
"""The line before somebody else's mail that was sent on."""

ORIGINAL = re.compile(
    r"^[ \t]*-{2,40}[ \t]*(?:original message|original appointment"
    r"|urspr(?:ü|ue)ngliche (?:nachricht|mail)|message d['’]origine|message original"
    r"|messaggio originale|mensaje original|mensagem original"
    r"|oorspronkelijk bericht)[ \t]*-{2,}[ \t]*$",
    re.MULTILINE | re.IGNORECASE,
)
"""Outlook's line before the mail that is answered."""

LABELS = (
    "from sent date to cc subject|von gesendet datum an cc betreff"
    "|de envoyé date à cc objet|da inviato data a cc oggetto"
    "|de enviado fecha para cc asunto|de enviada data para cc assunto"
    "|van verzonden datum aan cc onderwerp"
)
"""The labels of Outlook's header block, by language."""

LABEL = re.compile(r"^[ \t>]*\*?([^\W\d_]{1,10})(?: el| em)? ?:\*?(?:[ \t]|$)")
LABELS_TOGETHER = 3
"""The fewest lines with labels of one language, the first being From, in a block."""

SIGNATURE = re.compile(r"^--[ \u00a0]?$", re.MULTILINE)
LONGEST_SIGNATURE = 15
"""The most lines of a signature whose delimiter lacks the space of the standard."""

FOOTER = re.compile(
    r"(?:Sent (?:from|with|using|via) (?:my |Yahoo|Outlook|Mail|Proton|Samsung|the )"
    r"|Get Outlook for |Von meinem .{2,40} gesendet|Gesendet (?:von|mit) "
    r"|Diese Nachricht wurde von meinem .{2,60} gesendet|Holen Sie sich Outlook"
    r"|Outlook für (?:iOS|Android) beziehen"
    r"|Envoyé (?:de|depuis|à partir de) |Télécharger Outlook|Obtenez Outlook"
    r"|Inviato da(?:l| ) ?|Scarica Outlook|Ottieni Outlook"
    r"|Enviado (?:desde|do|a partir do) |Obtener Outlook|Obter o Outlook"
    r"|Verzonden vanaf |Outlook voor )[^\n]{0,80}"
)
"""What phones and web mail put under a mail, where it is the last line."""

FORWARD_SUBJECT = re.compile(r"\s*(?:fwd?|wg|tr|i|rv|enc|doorst)\s*:", re.IGNORECASE)
"""The beginning of a forwarded mail's subject, in the languages above."""


def own_words(text: str, subject: str, place: str) -> tuple[str, list[Cut]]:
    """Return what the sender wrote, and what was cut off.

    Args:
        text: The whole text of a mail.
        subject: The subject, which tells forwards from answers.
        place: The place of the mail.
    """
    lines = (line.rstrip(" \t") if line != "-- " else line for line in text.split("\n"))
    text = "\n".join(lines)
    cuts: list[Cut] = []

    def keep(what: str, kept: str) -> None:
        nonlocal text
        if (removed := len(text.rstrip()) - len(kept.rstrip())) > 0:
            cuts.append(Cut(what, removed, place))
        text = kept

    forwarded = FORWARD_SUBJECT.match(subject) is not None
    keep("forwards", _before(text, FORWARD))
    keep("forwards" if forwarded else "quotes", _before_original(text))
    keep("quotes", _unquoted(text))
    keep("signatures", _unsigned(text))
    return text.strip("\n"), cuts


def _before(text: str, mark: re.Pattern[str]) -> str:
    match = mark.search(text)
    return text[: match.start()] if match else text


def _before_original(text: str) -> str:
    """Cut from Outlook's line or header block on; all below it is older mail."""
    text = _before(text, ORIGINAL)
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if LABEL.match(line) and _is_header_block(lines[number : number + 8]):
            above = "\n".join(lines[:number]).rstrip().split("\n")
            is_rule = above[-1].strip("_ ") == ""  # Outlook's line of underscores
            return "\n".join(above[:-1] if is_rule else above)
    return text


def _is_header_block(lines: list[str]) -> bool:
    """Tell whether lines begin with From, and go on with other labels of a language."""
    labels = []
    for line in lines:
        if match := LABEL.match(line):
            labels.append(match[1].lower())
        elif line.strip():
            break
    if len(labels) < LABELS_TOGETHER:
        return False
    languages = [language.split() for language in LABELS.split("|")]
    return any(
        labels[0] == known[0] and len(set(known) & set(labels)) >= LABELS_TOGETHER
        for known in languages
    )


def _unquoted(text: str) -> str:
    """Take off quoted lines, and all below a "wrote:" without such lines.

    Answers between quoted lines stay. Where the quote has lost its marks, as in what
    was made of HTML, nothing tells where it ends.
    """
    kept, at = [], 0
    for match in WROTE.finditer(text):
        below = match.end()
        while text.startswith("\n", below):
            below += 1
        marked = text.startswith(">", below)
        if not (marked or re.search(r"\d", match[0])):
            continue  # those of mail programs have a date
        kept += [text[at : match.start()].rstrip(), "\n\n"]
        at = below if marked else len(text)
        if at == len(text):
            break
    lines = "".join([*kept, text[at:]]).split("\n")
    own = "\n".join(line for line in lines if not line.startswith(">"))
    return re.sub(r"\n{3,}", "\n\n", own)


def _unsigned(text: str) -> str:
    """Take off the signature, and the footers of phones at the end."""
    ends = text.rstrip().rsplit("\n", LONGEST_SIGNATURE + 1)
    last = len(ends[0]) if len(ends) > LONGEST_SIGNATURE + 1 else 0
    for match in SIGNATURE.finditer(text):
        if len(match[0]) == 3 or match.start() >= last:
            text = text[: match.start()]
            break
    lines = text.rstrip().split("\n")
    while lines and (not lines[-1].strip() or FOOTER.fullmatch(lines[-1].strip())):
        lines.pop()
    return "\n".join(lines)


TAG = re.compile(
    r"""<(/?)([a-zA-Z][a-zA-Z0-9:-]*)((?:[^<>"']|"[^"<]*"|'[^'<]*')*)>""", re.DOTALL
)
CLASS = re.compile(
    r"""\bclass\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s>]+))""", re.IGNORECASE
)
RAW_END = re.compile(r"</(?:script|style)\b", re.IGNORECASE)

BREAKS = frozenset("address article dd div dl dt hr li pre section tr".split())
PARAGRAPHS = frozenset("p h1 h2 h3 h4 h5 h6 ul ol table".split())
UNSEEN = frozenset("head script style title".split())
QUOTES = frozenset("gmail_quote gmail_extra yahoo_quoted moz-cite-prefix".split())


def _markup(page: str) -> Iterator[tuple[str, str, str]]:
    """Yield each tag as its slash, if any, name and attributes, and text as the third.

    Python's own parser takes a time that grows with the square of a hostile page. Here
    no character is looked at more than a few times.
    """
    at = 0
    while (begin := page.find("<", at)) >= 0:
        yield "", "", page[at:begin]
        is_comment = page.startswith("<!--", begin)
        if match := TAG.match(page, begin):
            at, name = match.end(), match[2].lower()
            yield match[1], name, match[3]
            if name in ("script", "style") and not match[1]:
                end = RAW_END.search(page, at)
                at = end.start() if end else len(page)
        elif is_comment or page[begin + 1 : begin + 2] in ("!", "?"):
            close = "-->" if is_comment else ">"
            end_at = page.find(close, begin)
            at = end_at + len(close) if end_at >= 0 else len(page)
        else:
            yield "", "", "<"
            at = begin + 1
    yield "", "", page[at:]


class _Page:
    """Collects the text of a mail in HTML, and counts what it quotes."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.quoted = 0
        self._inside = ""
        self._depth = 0
        self._is_quote = False

    def start(self, tag: str, attributes: str) -> None:
        if tag == "body":
            self._inside = ""  # whatever was left open before it
        if self._inside:
            self._depth += tag == self._inside
            return
        match = CLASS.search(attributes)
        classes = "".join(match[n] or "" for n in (1, 2, 3)).split() if match else []
        self._is_quote = tag == "blockquote" or not QUOTES.isdisjoint(classes)
        if tag in UNSEEN or self._is_quote:
            self._inside, self._depth = tag, 1
        else:
            self._break(tag)
            self.parts += {"li": ["- "], "br": ["\n"]}.get(tag, [])

    def end(self, tag: str) -> None:
        if tag == self._inside:
            self._depth -= 1
            if not self._depth:
                self._inside = ""
        elif not self._inside:
            self._break(tag)

    def data(self, text: str) -> None:
        if not self._inside:
            self.parts.append(re.sub(r"\s+", " ", html.unescape(text)))
        elif self._is_quote:
            self.quoted += len(html.unescape(text).strip())

    def _break(self, tag: str) -> None:
        """End the line, if it holds anything; a paragraph leaves a blank one."""
        if tag in PARAGRAPHS:
            self.parts.append("\v")
        elif tag in BREAKS:
            self.parts.append("\f")


def html_text(page: str) -> tuple[str, int]:
    """Return the text of a mail in HTML without its quotes, and their characters."""
    collected = _Page()
    for slash, tag, content in _markup(page):
        if not tag:
            collected.data(content)
        elif slash:
            collected.end(tag)
        else:
            collected.start(tag, content)
    text = "".join(collected.parts).replace("\u00a0", " ")
    text = re.sub(r" ?([\n\f\v]) ?", r"\1", re.sub(r" {2,}", " ", text))
    # Blocks may begin and end in one place; that is one break.
    text = re.sub(r"\n?[\f\v]+", lambda m: "\n\n" if "\v" in m[0] else "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip(), collected.quoted
