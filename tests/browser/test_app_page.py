"""The page itself: escaping, offline, sizes, colours, accessibility, streaming."""

import json
import shutil

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

expect.set_options(timeout=20_000)

TABS = ["Chat", "Train", "Share"]
WIDTHS = [390, 1440, 1920]
ATTACK = "<img/src=x/onerror=document.title='hacked'>"

FADED = """() => Promise.allSettled(document.getAnimations()
  .filter((one) => one.effect.getComputedTiming().iterations !== Infinity)
  .map((one) => one.finished))"""
"""Tabs and buttons fade: a script that waits until they have."""


@pytest.fixture(scope="module")
def address(serving, trained, tmp_path_factory):
    runs = tmp_path_factory.mktemp("page")
    shutil.copytree(trained(), runs / "notes")
    shutil.copytree(trained(), runs / "<img src=x onerror=alert(1)>")
    (runs / "broken").mkdir()
    (runs / "broken" / "comigs.json").write_text('{"format_version": "<b>x</b>"}')
    return serving("tests.app.parrot_page", runs, 0.002)


def say(page, text):
    page.locator("#message textarea").fill(text)
    page.locator("#message textarea").press("Enter")
    page.locator(".cm-reply:not(.cm-live)").last.wait_for()


def test_what_a_model_says_stays_text(screen, address):
    page = screen(address)
    said = f"{ATTACK} [x](javascript:document.title='hacked') ![y](http://evil.example)"
    say(page, f"{said} </script><script>document.title='hacked'</script>")
    assert ATTACK in page.locator(".cm-prose").inner_text()
    assert ATTACK in page.locator(".cm-user .cm-text").inner_text()
    assert page.locator(".cm-feed img, .cm-feed script").count() == 0
    assert page.locator('.cm-feed a[href^="javascript"]').count() == 0
    page.locator(".cm-token").first.click()
    expect(page.locator(".cm-drawer")).to_contain_text(ATTACK)
    assert page.locator(".cm-drawer img").count() == 0
    assert page.title() == "comigs_mlx"


def test_a_document_of_html_stays_text(screen, address, tmp_path):
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text(f"{ATTACK} {split}\n\nplain {split}\n")
    page = screen(address)
    page.get_by_role("tab", name="Train", exact=True).click()
    page.locator("#data-path textarea, #data-path input").first.fill(str(tmp_path))
    page.locator("#check").click()
    page.locator("#found").get_by_text("excerpts").click()
    page.get_by_role("list", name="Beginnings of some documents").wait_for()
    assert ATTACK in page.locator("#found").inner_text()
    assert page.locator("#found img").count() == 0


def test_a_broken_run_is_told(screen, address):
    page = screen(address)
    card = page.get_by_role("radio", name="broken")
    expect(card).to_contain_text("format")
    assert card.locator("b b").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_nothing_and_nothing_is_too_wide(screen, address, scheme, width):
    from axe_playwright_python.sync_playwright import Axe

    size = {"width": width, "height": 844}
    page = screen(address, color_scheme=scheme, viewport=size)
    say(page, "one **two** three `four` five")
    found = {}
    for name in TABS:
        page.get_by_role("tab", name=name, exact=True).click()
        page.evaluate(FADED)
        wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        if wide > 0:
            found[f"{name}: too wide"] = wide
        for one in Axe().run(page).response["violations"]:
            found[f"{name}: {one['id']}"] = [n["html"][:160] for n in one["nodes"]]
    assert found == {}, json.dumps(found, indent=1)


def test_the_whole_chat_can_be_used_by_keyboard(screen, address):
    page = screen(address)
    page.locator("#message textarea").focus()
    page.keyboard.type("one two three")
    page.keyboard.press("Enter")
    tokens = page.locator(".cm-reply:not(.cm-live) .cm-token")
    expect(tokens.first).to_be_visible()
    page.locator("#message textarea").focus()
    for _ in range(25):
        page.keyboard.press("Shift+Tab")
        if page.evaluate("document.activeElement.classList.contains('cm-token')"):
            break
    page.keyboard.press("End")
    expect(page.locator(".cm-token.cm-picked")).to_have_count(1)
    expect(tokens.last).to_be_focused()
    page.keyboard.press("Home")
    expect(tokens.first).to_be_focused()
    expect(page.locator(".cm-drawer")).to_contain_text("Token 1 of")
    page.keyboard.press("Escape")
    expect(page.locator(".cm-drawer")).not_to_be_visible()
    expect(tokens.first).to_be_focused()


def test_only_kept_values_are_put_back(screen, address):
    page = screen(address)
    rules = [
        {"name": "top_p", "kind": "number", "low": 0, "high": 1},
        {"name": "max_tokens", "kind": "number", "low": 16, "high": 4096},
        {"name": "system", "kind": "string"},
    ]
    put_back = page.evaluate(
        "(rules) => window.comigs.restore(rules, saved, [1, 512, ''])".replace(
            "saved", "{top_p: 0.5, max_tokens: 9}"
        ),
        rules,
    )
    assert put_back == [0.5, {"__type__": "update"}, {"__type__": "update"}]


def test_a_long_answer_streams_what_is_new_and_no_more(screen, address):
    page = screen(address)
    sent = []
    page.on("response", lambda r: sent.append(r) if "component_server" in r.url else 0)
    say(page, "first\n\n second")  # 512 tokens, half of them end a paragraph
    expect(page.locator(".cm-block")).to_have_count(257)
    answers = [r.json() for r in sent if "since" in (r.request.post_data or "")]
    turns = [turn for answer in answers for turn in answer["turns"]]
    told = [block[0] for turn in turns for block in turn.get("blocks", ())]
    assert set(told) == set(range(257))
    assert len(told) <= 257 + 3 * len(answers)  # the last ones may change
    assert len(answers) > 2  # it streams; how often depends on the machine


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=pyproject.toml",
        "/gradio_api/file=../../../../etc/passwd",
        "/gradio_api/file=http://127.0.0.1:1/",
        "/gradio_api/file=~/.ssh/id_rsa",
    ],
)
def test_no_file_can_be_read_through_the_server(screen, address, path):
    page = screen(address)
    assert page.request.get(address + path).status in (403, 404)


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}]
)
def test_foreign_pages_are_refused(screen, address, headers):
    page = screen(address)
    assert page.request.get(address, headers=headers).status == 403
