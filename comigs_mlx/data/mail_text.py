"""What somebody wrote in a mail: without quotes, forwards and signatures.

There is no standard for any of them, only habits of mail programs, each in the language
of its user. The ones here are those of Apple Mail, Gmail, Outlook and Thunderbird in
English, German, French, Italian, Spanish, Portuguese and Dutch.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser

from comigs_mlx.data.pieces import Cut

ANYTHING = r"\b[^\n]{0,160}(?:\n[^\n]{1,160}){0,2}?\b"
COLON = r"[ \u00a0\u202f]?:"
WROTE = re.compile(
    rf"^[ \t>]*(?:On{ANYTHING}wrote{COLON}"
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
    rf"^[ \t]*(?:-{{2,}}[^\n]{{0,20}}(?:{FORWARD_WORDS})[^\n]{{0,20}}"
    r"|(?:begin forwarded message|anfang der weitergeleiteten nachricht"
    r"|début du message (?:réexpédié|transféré)|inizio (?:del )?messaggio inoltrato"
    r"|inicio del mensaje reenviado|início da mensagem encaminhada"
    r"|begin doorgestuurd bericht)[ \t]*:)[ \t]*$",
    re.MULTILINE | re.IGNORECASE,
)
"""The line before somebody else's mail that was sent on."""

ORIGINAL = re.compile(
    r"^[ \t]*-{2,}[ \t]*(?:original message|original appointment"
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
    while match := _wrote(text):
        below = text[match.end() :].lstrip("\n")
        if below and not below.startswith(">"):
            text = text[: match.start()]
            break
        text = f"{text[: match.start()].rstrip()}\n\n{below}"
    kept = [line for line in text.split("\n") if not line.startswith(">")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept))


def _wrote(text: str) -> re.Match[str] | None:
    """Find the words before a quote; those of a mail program have a date."""
    dated = (m for m in WROTE.finditer(text) if re.search(r"\d", m[0]))
    return next(dated, None)


def _unsigned(text: str) -> str:
    for match in SIGNATURE.finditer(text):
        below = text[match.end() :].strip().count("\n") + 1
        if len(match[0]) == 3 or below <= LONGEST_SIGNATURE:
            text = text[: match.start()]
            break
    lines = text.rstrip().split("\n")
    while lines and (not lines[-1].strip() or FOOTER.fullmatch(lines[-1].strip())):
        lines.pop()
    return "\n".join(lines)


class _Page(HTMLParser):
    """Collects the text of a mail in HTML, and counts what it quotes."""

    BREAKS = frozenset("address article br dd div dl dt hr li pre section tr".split())
    PARAGRAPHS = frozenset("p h1 h2 h3 h4 h5 h6 ul ol table".split())
    UNSEEN = frozenset("head script style title".split())
    QUOTES = frozenset("gmail_quote gmail_extra yahoo_quoted moz-cite-prefix".split())

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.quoted = 0
        self._inside: str | None = None
        self._depth = 0
        self._is_quote = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "body":
            self._inside = None  # whatever was left open before it
        if self._inside:
            self._depth += tag == self._inside
            return
        classes = (dict(attrs).get("class") or "").split()
        self._is_quote = tag == "blockquote" or not self.QUOTES.isdisjoint(classes)
        if tag in self.UNSEEN or self._is_quote:
            self._inside, self._depth = tag, 1
        elif tag == "br":
            self.parts.append("\n")
        else:
            self._break(tag)
        if tag == "li":
            self.parts.append("- ")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._depth -= 1
            if not self._depth:
                self._inside = None
        elif not self._inside and tag != "br":
            self._break(tag)

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.parts.append(re.sub(r"\s+", " ", data))
        elif self._is_quote:
            self.quoted += len(data.strip())

    def _break(self, tag: str) -> None:
        """End the line, if it holds anything; a paragraph leaves a blank one."""
        if tag in self.PARAGRAPHS:
            self.parts.append("\v")
        elif tag in self.BREAKS:
            self.parts.append("\f")


def html_text(page: str) -> tuple[str, int]:
    """Return the text of a mail in HTML without its quotes, and their characters."""
    parser = _Page()
    parser.feed(page)
    parser.close()
    text = "".join(parser.parts).replace("\u00a0", " ")
    text = re.sub(r" *([\n\f\v]) *", r"\1", text)
    # Blocks may begin and end in one place; that is one break.
    text = re.sub(r"\n?[\f\v]+", lambda m: "\n\n" if "\v" in m[0] else "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip(), parser.quoted
