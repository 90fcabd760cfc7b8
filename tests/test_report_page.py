"""The page as a reader meets it: opened in headless Chromium, clicked, typed at, printed, looked at."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import Browser, Page, expect, sync_playwright
from typer.testing import CliRunner

from adasap.cli import app
from adasap.report.figures_run import averaged
from adasap.report.page import MAX_BYTES, TEMPLATE
from adasap.report.pictures import image_source

Tree = dict[str, Any]
SHOTS = Path(__file__).parents[1] / "tests-output"
HOSTILE = "<img src=x onerror=alert(1)>"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update"]

browser_test = pytest.mark.browser


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def folder(tiny_recipe: Callable[..., Tree], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small runs, one with a hostile name, and the page that compares them."""
    out = tmp_path_factory.mktemp("page")
    suites = {
        "corrupted": {"kind": "corrupted", "corruptions": ["contrast", "gaussian_noise"], "severities": [1, 3, 5]},
        "later": {"kind": "clean", "data": {"kind": "digits", "first": 200, "count": 50}},
    }
    for name, kept in (("tiny", 0.5), (HOSTILE, 0.3)):
        tree = tiny_recipe(name=name, data={"suites": suites}, pruning={"budget": {"macs": kept}})
        recipe = out / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(tree))
        assert "report.html" in call("compress", str(recipe), "--out", str(out))
    call("compare", str(out / "tiny"), str(out / HOSTILE), "--baseline", "tiny", "--out", str(out / "both"))
    return out


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield opened
        opened.close()


Open = Callable[..., Page]


@pytest.fixture
def opened(browser: Browser, folder: Path) -> Iterator[Open]:
    """Opens the comparison; after the test there must have been no message, no error and no request."""
    troubles: list[str] = []
    contexts = []

    def start(place: str = "both", width: int = 1280, **options: Any) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(180_000)  # a loaded machine takes its time
        page.on("console", lambda message: troubles.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: troubles.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: troubles.append(request.url) if request.url.startswith("http") else None)
        page.goto((folder / place / "report.html").as_uri())
        page.wait_for_selector("html[data-drawn]", state="attached")
        return page

    yield start
    for context in contexts:
        context.close()
    assert troubles == []


def drawn_marks(page: Page) -> dict[str, int]:
    """Figure -> number of points, lines, bars and heat map cells it shows, for the figures that are shown."""
    return page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll(".plot")].filter((plot) => plot.offsetParent)
        .map((plot) => [plot.dataset.figure,
             plot.querySelectorAll(".points path, .js-line, .heatmaplayer image, .heatmap-label").length]))"""
    )


@browser_test
def test_every_figure_of_every_run_is_drawn_in_every_view(opened: Open) -> None:
    page = opened()
    for place in range(2):
        page.locator("[data-pick]").nth(place).click()
        marks = drawn_marks(page)
        assert set(marks) == {"trade-off", *(f"{name}-{place}" for name in ("gains", "heat", "curves", "widths"))}
        assert min(marks.values()) >= 2, marks
        for button in page.locator("[data-view]:visible").all():
            button.click()
            assert button.get_attribute("aria-pressed") == "true"
            assert min(drawn_marks(page).values()) >= 2
    page.locator("[data-view]").nth(2).click()
    title = page.locator("[data-figure='trade-off'] .xtitle").text_content()
    assert title == "multiply-accumulates of one image"


@browser_test
def test_tables_sort_by_click_and_by_keyboard(opened: Open) -> None:
    page = opened()
    table = page.locator("#part-all table")
    head = table.locator("th").nth(2)  # MACs: the second run keeps fewer

    def names() -> list[str | None]:
        return [row.text_content() for row in table.locator("tbody th").all()]

    assert names() == ["tiny", HOSTILE]
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert names() == [HOSTILE, "tiny"]
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert names() == ["tiny", HOSTILE]
    first = table.locator("th").first
    first.locator("button").focus()
    page.keyboard.press("Space")
    assert (first.get_attribute("aria-sort"), head.get_attribute("aria-sort")) == ("ascending", "none")
    assert names() == [HOSTILE, "tiny"]  # "<" before "t"


@browser_test
def test_hover_shows_the_recipe(opened: Open) -> None:
    page = opened()
    page.locator("#trade-off").scroll_into_view_if_needed()
    box = page.locator("[data-figure='trade-off'] .scatterlayer .points path").nth(1).bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2 - 30, box["y"])
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=4)
    page.wait_for_selector("[data-figure='trade-off'] .hovertext")
    text = page.locator("[data-figure='trade-off'] .hovertext").first.text_content() or ""
    assert "criterion" in text
    assert "seed 0" in text


@browser_test
def test_the_theme_follows_the_system_and_the_button(opened: Open) -> None:
    page = opened(color_scheme="dark")
    look = """() => [getComputedStyle(document.body).backgroundColor,
        getComputedStyle(document.querySelector("[data-figure='widths-0'] .points path:last-child")).fill,
        getComputedStyle(document.querySelector("[data-figure='widths-0'] .xtick text")).fill]"""
    dark = page.evaluate(look)
    assert page.locator("#theme").text_content() == "Light theme"
    page.locator("#theme").click()
    light = page.evaluate(look)
    assert dark[0] == "rgb(19, 20, 25)"
    assert light[0] == "rgb(247, 246, 242)"
    assert light[2] != dark[2]
    assert page.locator("#theme").text_content() == "Dark theme"
    assert opened(color_scheme="light").evaluate(look) == light


@browser_test
def test_the_copy_button_copies(opened: Open, folder: Path) -> None:
    page = opened("tiny", permissions=["clipboard-read", "clipboard-write"])
    page.locator("[data-copy='recipe-0']").click()
    expect(page.locator("#status")).to_have_text("copied the recipe of tiny")
    assert page.evaluate("navigator.clipboard.readText()") == (folder / "tiny" / "recipe.yaml").read_text()
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('refused')); }")
    page.locator("[data-copy='command-0']").click()
    expect(page.locator("#status")).to_have_text("copied the command of tiny")
    assert str(page.evaluate("navigator.clipboard.readText()")).startswith("adasap compress ")


@browser_test
@pytest.mark.parametrize(("look", "width"), [("light", 1280), ("dark", 1280), ("phone", 390), ("print", 690)])
def test_nothing_is_cut_off(opened: Open, look: str, width: int) -> None:
    page = opened(width=width, color_scheme="dark" if look == "dark" else "light")
    if look == "print":
        page.emulate_media(media="print")
        page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        assert page.locator("#theme").is_hidden()
        assert page.locator(".plot svg.main-svg").first.bounding_box()["width"] <= width  # type: ignore[index]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    SHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SHOTS / f"page-{look}.png", full_page=True)
    print(f"screenshot: {SHOTS / f'page-{look}.png'}")
    assert min(drawn_marks(page).values()) >= 2


@browser_test
def test_the_page_can_be_read_by_keyboard_and_screen_reader(opened: Open) -> None:
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("document.activeElement.getBoundingClientRect().top") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    faults = page.evaluate(
        """() => {
        const all = (selector) => [...document.querySelectorAll(selector)];
        const faults = [];
        const check = (selector, good) =>
          all(selector).filter((e) => !good(e)).forEach((e) => faults.push(e.outerHTML));
        check("img", (e) => e.alt);
        check("button, summary, a", (e) => e.textContent.trim());
        check("table", (e) => e.caption && e.caption.textContent);
        check("thead th", (e) => e.scope === "col");
        check("tbody th", (e) => e.scope === "row");
        check("figure", (e) => e.querySelector("figcaption") && e.querySelector("details table"));
        check(".plot", (e) => e.getAttribute("role") === "img" && e.getAttribute("aria-label"));
        check("a[href^='#']", (e) => document.querySelector(e.getAttribute("href")));
        check("[id]", (e) => all(`[id="${CSS.escape(e.id)}"]`).length === 1);
        const levels = all("h1, h2, h3, h4").map((e) => Number(e.tagName[1]));
        if (levels.filter((level) => level === 1).length !== 1) faults.push("one h1");
        levels.forEach((level, i) => { if (i && level > levels[i - 1] + 1) faults.push(`heading ${i}`); });
        for (const landmark of ["header", "nav[aria-label]", "main", "footer", "html[lang]"])
          if (all(landmark).length !== 1) faults.push(landmark);
        return faults; }"""
    )
    assert faults == []


@browser_test
def test_names_are_shown_and_not_run(opened: Open) -> None:
    page = opened()
    assert page.locator("img[src='x']").count() == 0
    page.locator("[data-pick]").nth(1).click()
    assert page.locator(".run-name:visible").first.text_content() == HOSTILE
    assert HOSTILE in (page.locator("[data-figure='trade-off'] .legend").text_content() or "")


@pytest.mark.slow
def test_the_files_lie_beside_the_page_and_inside_it(folder: Path) -> None:
    both = folder / "both"
    html = (both / "report.html").read_text()
    assert len(html.encode()) < MAX_BYTES
    assert {path.name for path in both.iterdir()} == {"report.html", "report.json", "report.csv", "summary.md"}
    assert set(json.loads((both / "report.json").read_text())["runs"]) == {"tiny", HOSTILE}
    assert html.count('<a download="report.') == 2
    assert "gaussian noise, severity 3" in html
    metric = {"key": "accuracy", "label": "accuracy", "unit": "%", "higher_is_better": True}
    kept = json.loads((folder / "tiny" / "result.json").read_text())["task"]
    assert "highest score" in kept["metric"].pop("meaning")
    assert kept == {"name": "classification", "metric": metric}
    own = (folder / "tiny" / "report.html").read_text()
    for part in ("output of the model", "Masked = cut", "adasap compress ", "data:image/png;base64,", "torch 2"):
        assert part in own


def _luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _contrast(one: str, other: str) -> float:
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("theme", [":root {", ':root[data-theme="dark"] {'])
def test_colours_can_be_told_from_what_is_behind_them(theme: str) -> None:
    css = (TEMPLATE / "page.css").read_text()
    palette = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", css.split(theme)[1].split("}")[0]))
    text = [("ink", back) for back in ("page", "surface", "phase0", "phase1", "phase2", "heat0")]
    text += [(name, back) for name in ("muted", "accent") for back in ("page", "surface")] + [("on-accent", "accent")]
    assert {pair: c for pair in text if (c := _contrast(*(palette[name] for name in pair))) < 4.5} == {}
    marks = ["good", "bad", "dense", *(f"c{index}" for index in range(7))]
    assert {name: c for name in marks if (c := _contrast(palette[name], palette["surface"])) < 3.0} == {}


def test_long_runs_are_averaged_over_stretches() -> None:
    steps, values = averaged([(step, float(step)) for step in range(1, 1001)])
    assert len(steps) <= 400
    assert sum(values) / len(values) == pytest.approx(500.5, abs=1.5)


def test_large_pictures_are_shown_small(tmp_path: Path) -> None:
    import torch
    from PIL import Image

    noise = torch.randint(256, (224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    Image.fromarray(noise.numpy()).save(tmp_path / "noise.png")
    assert len((tmp_path / "noise.png").read_bytes()) > 150_000
    source = image_source((tmp_path / "noise.png").read_bytes())
    assert source.startswith("data:image/jpeg")
    assert len(source) < 25_000
