"""Documents made by hand: the least that a PDF, a Word file and a book can be."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence

CONTAINER = (
    '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="OPS/book.opf"/></rootfiles></container>'
)
TYPES = "http://schemas.openxmlformats.org/package/2006/content-types"
RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def pdf(pages: Sequence[Sequence[str]]) -> bytes:
    """One line of text below the other on each page."""
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Count {len(pages)}/Kids[{kids}]>>",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    for number, lines in enumerate(pages):
        shown = " ".join(f"({line}) Tj T*" for line in lines)
        stream = f"BT /F1 12 Tf 14 TL 50 700 Td {shown} ET"
        objects += [
            "<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Resources<</Font<</F1 3 0 "
            f"R>>>>/Contents {5 + 2 * number} 0 R>>",
            f"<</Length {len(stream)}>>stream\n{stream}\nendstream",
        ]
    parts, places, at = ["%PDF-1.4\n"], [], 9
    for number, content in enumerate(objects, 1):
        places.append(at)
        parts.append(f"{number} 0 obj{content}endobj\n")
        at += len(parts[-1])
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    head = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    root = f"trailer<</Size {len(objects) + 1}/Root 1 0 R>>\nstartxref\n{at}\n"
    return "".join([*parts, head, root, "%%EOF"]).encode()


def archive(members: Mapping[str, str | bytes]) -> bytes:
    """A zip; `mimetype` is stored, as in a book, and all else is packed."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            how = zipfile.ZIP_STORED if name == "mimetype" else zipfile.ZIP_DEFLATED
            info = zipfile.ZipInfo(name)
            file.writestr(info, content, how)
    return raw.getvalue()


def docx_members(body: str) -> dict[str, str | bytes]:
    return {
        "[Content_Types].xml": f'<Types xmlns="{TYPES}"><Override PartName="/word/'
        'document.xml" ContentType="application/vnd.openxmlformats-officedocument.'
        'wordprocessingml.document.main+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{RELATIONS}"><Relationship Id="a" Type="'
        f'{OFFICE}/officeDocument" Target="word/document.xml"/></Relationships>',
        "word/document.xml": f'<w:document xmlns:w="{WORD}"><w:body>{body}</w:body>'
        "</w:document>",
    }


def paragraph(text: str) -> str:
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def docx(paragraphs: Sequence[str]) -> bytes:
    return archive(docx_members("".join(map(paragraph, paragraphs))))


def epub_members(chapters: Sequence[str]) -> dict[str, str | bytes]:
    """Chapter 0 is the last file by name, so that only the spine gives the order."""
    count = len(chapters)
    names = [f"c{count - number} x.xhtml" for number in range(count)]
    items = "".join(
        f'<item id="{n}" href="{name.replace(" ", "%20")}" '
        'media-type="application/xhtml+xml"/>'
        for n, name in enumerate(names)
    )
    spine = "".join(f'<itemref idref="{n}"/>' for n in range(count))
    opf = f"<package><manifest>{items}</manifest><spine>{spine}</spine></package>"
    pages = {
        f"OPS/{name}": '<!DOCTYPE html PUBLIC "x" "http://a/b.dtd"><html><head><title>T'
        f"</title></head><body>{text}</body></html>"
        for name, text in sorted(zip(names, chapters, strict=True))
    }
    return {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": CONTAINER,
        "OPS/book.opf": opf,
        **pages,
    }


def epub(chapters: Sequence[str]) -> bytes:
    return archive(epub_members(chapters))
