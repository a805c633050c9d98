"""The benchmark's report.html: complete in itself, the figures of results.json, safe from names, usable in a browser."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import open_page, sample_image
from PIL import Image

from dataset.benchmark_set import open_test_set
from dataset.image_writer import write_png
from dataset.images import read_rgb
from evaluation.evaluate import evaluate
from evaluation.html_report import AMPLIFY, COLORS, TEMPLATE, Report, encode_png, error_map
from evaluation.page import HEAD
from evaluation.report import write_results
from inference.upscaler import BicubicUpscaler

NASTY = "<img src=x onerror=alert(1)>"
IMAGES = {"a10": "astronaut.png", "a9": "chelsea.png", NASTY: "coffee.png", "z &amp;": "rocket.jpg"}
ABOUT = {
    "model": "</script><script>alert(2)</script>",
    "checkpoint": 'runs/</script>"&<b>.pth',
    "test_set": "Set<i>",
    "scale": 2,
    "self_ensemble": False,
    "checkpoint_sha256": None,
}
FIGURES = ["bicubic_psnr", "bicubic_ssim", "psnr", "ssim", "gain", "psnr_rgb", "seconds"]


def make_run(folder, **options):
    """A report on four images, one of which "the network" restores perfectly; returns the run's folder."""
    (folder / "Set<i>").mkdir()
    for name, original in IMAGES.items():
        write_png(folder / "Set<i>" / f"{name}.png", sample_image(original, 96, 128))
    test_set = open_test_set(folder / "Set<i>", 2)
    bicubic, perfect = BicubicUpscaler(2), test_set.pairs[-1].read()

    def upscale(lr):
        return perfect[0] if np.array_equal(lr, perfect[1]) else bicubic(lr) // 3 * 3

    def add(pair, hr, lr, sr):
        pngs = {kind: encode_png(Image.fromarray(image)) for kind, image in (("sr", sr), ("hr", hr))}
        write_png(run / "SR" / pair.sr_name, sr)
        write_png(run / "HR" / f"{pair.hr_path.stem}.png", hr)
        report.add(pair, hr, lr, sr, pngs)

    run = folder / "run"
    run.mkdir()
    with Report(run, 2, **options) as report:
        result = evaluate(upscale, test_set, add)
        expected = evaluate(bicubic, test_set)
        write_results(run / "results.json", ABOUT, result, expected)
        report.write(ABOUT, test_set, result)
    assert [row.scores for row in report.baseline().rows] == [row.scores for row in expected.rows]
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def html(run):
    return (run / "report.html").read_text(encoding="utf-8")


def embedded_images(html: str) -> dict[str, np.ndarray]:
    """The embedded images by id, as RGB."""
    found = re.findall(r'<script type="text/plain" id="([^"]+)">data:image/png;base64,([^<]+)</script>', html)
    return {name: np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")) for name, data in found}


def figures_of(html: str, part: str) -> list[list[float]]:
    rows = re.search(f"<{part}>(.*?)</{part}>", html, re.DOTALL)[1].split("</tr>")[:-1]
    return [[float(value) for value in re.findall(r'data-value="([^"]+)"', row)] for row in rows]


def test_the_file_needs_nothing_else(html):
    assert "://" not in html and "@import" not in html and "url(" not in html
    assert set(re.findall(r'\b(?:src|href|srcset|action|data)\s*=\s*"([^"]*)"', html)) == {"data:,"}
    assert "default-src 'none'" in html


def test_names_are_text_and_nothing_more(html):
    class Reader(HTMLParser):
        tags, texts = [], []

        def handle_starttag(self, tag, attrs):
            self.tags.append((tag, dict(attrs)))

        def handle_data(self, data):
            self.texts.append(data)

    reader = Reader()
    reader.feed(html)
    page = re.sub(r"<script>.*?</script>", "", TEMPLATE.read_text(encoding="utf-8"), flags=re.DOTALL)
    page += HEAD.read_text(encoding="utf-8")
    assert {tag for tag, _ in reader.tags} <= {*re.findall(r"<(\w+)", page), "script", "td", "dt", "dd"}
    scripts = [attrs for tag, attrs in reader.tags if tag == "script"]
    assert len(scripts) == 4 * 4 + 1 and [attrs for attrs in scripts if attrs.get("type") != "text/plain"] == [{}]
    assert not any(name.startswith("on") for _, attrs in reader.tags for name in attrs)
    for text in (NASTY, "z &amp;", ABOUT["model"], ABOUT["checkpoint"], 'Set<i> x2, script>"&<b>'):
        assert text in reader.texts, text


def test_the_figures_are_those_of_results_json(run, html):
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    ours, base = ([*part["images"], part["mean"]] for part in (results, results["bicubic"]))
    shown = [*figures_of(html, "tbody"), *figures_of(html, "tfoot")]
    assert len(shown) == 5
    for row, sr, bicubic in zip(shown, ours, base, strict=True):
        for figures in (sr, bicubic):  # JSON has no infinity
            figures.update({key: float("inf") for key, value in figures.items() if value is None})
        expected = {**sr, "bicubic_psnr": bicubic["psnr"], "bicubic_ssim": bicubic["ssim"]}
        expected["gain"] = sr["psnr"] - bicubic["psnr"]
        assert row == [expected[name] for name in FIGURES]
    assert "&infin;" in html


def test_the_images_are_lossless(run, html):
    embedded = embedded_images(html)
    assert len(embedded) == 16
    hr, sr = read_rgb(run / "HR" / f"{NASTY}.png"), read_rgb(run / "SR" / f"{NASTY}.png")
    lr = open_test_set(run.parent / "Set<i>", 2).pairs[0].read()[1]
    expected = {"hr": hr, "sr": sr, "bicubic": BicubicUpscaler(2)(lr)}
    for kind, original in expected.items():
        assert np.array_equal(embedded[f"image-0-{kind}"], original), kind
    assert np.array_equal(embedded["image-0-error"], np.asarray(error_map(sr, hr).convert("RGB")))


def test_the_error_map_tells_how_far_y_is_off():
    hr = np.full((4, 4, 3), 100, np.uint8)
    sr = hr.copy()
    sr[0, 0], sr[0, 1], sr[0, 2] = 107, 93, 255  # Y is off by 6, 6 and 133 levels
    seen = np.asarray(Image.open(io.BytesIO(encode_png(error_map(sr, hr)))).convert("RGB"))
    assert np.array_equal(seen[0], COLORS[[6 * AMPLIFY, 6 * AMPLIFY, 255, 0]])


def test_images_beyond_the_limit_are_left_out_and_the_page_says_so(tmp_path, run):
    pieces = re.findall(
        r'<script type="text/plain" id="image-[01].*?</script>\n', (run / "report.html").read_text(encoding="utf-8")
    )
    limit = sum(map(len, pieces))
    html = (make_run(tmp_path, limit=limit) / "report.html").read_text(encoding="utf-8")
    kept = {name.split("-")[1] for name in embedded_images(html)}
    assert kept == {"0", "1"} and len(embedded_images(html)) == 8
    assert re.findall(r'data-index="(\d)"[^>]* data-left-out>', html) == ["2", "3"]
    assert "2 of the images are not embedded" in html
    assert (
        figures_of(html, "tbody")[2][:6]
        == figures_of((run / "report.html").read_text(encoding="utf-8"), "tbody")[2][:6]
    )


# ---- in the browser


class Page:
    """The report in the browser, with the few looks and moves that the tests share."""

    def __init__(self, browser, file, width=1000, height=900, mobile=False):
        self.browser = browser
        open_page(browser, file, width, height, mobile)
        self.wait("document.querySelectorAll('.layer img').length === 2")

    def js(self, expression: str):
        return self.browser.execute_script(f"return {expression}")

    def wait(self, expression: str):
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(self.browser, 20, 0.05).until(lambda _: self.js(expression), expression)

    def find(self, selector: str):
        return self.browser.find_element("css selector", selector)

    def press(self, *keys: str):
        """Keys to whatever has the focus."""
        self.browser.switch_to.active_element.send_keys(*keys)

    def drag(self, selector: str, x: int, y: int = 0):
        from selenium.webdriver import ActionChains

        ActionChains(self.browser, 0).click_and_hold(self.find(selector)).move_by_offset(x, y).release().perform()

    def names(self) -> list[str]:
        return self.js("[...document.querySelectorAll('tbody th')].map(th => th.textContent)")

    def view(self) -> dict:
        """x, y and zoom of both images, which must agree, and the line's distance from the stage's left edge."""
        transforms = self.js("[...document.querySelectorAll('.layer img')].map(img => getComputedStyle(img).transform)")
        assert len(transforms) == 2 and transforms[0] == transforms[1]
        z, _, _, _, x, y = map(float, re.findall(r"-?[\d.]+", transforms[0]))
        line = self.js("parseFloat(document.querySelector('.stage').style.getPropertyValue('--line'))")
        return {"x": x, "y": y, "z": z, "line": line}

    def shown(self) -> list[str]:
        """Which embedded image stands left and which right, by id."""
        return self.js(
            """['left', 'right'].map(side => [...document.querySelectorAll('script[id]')].find(
            script => script.textContent === document.querySelector('.layer.' + side + ' img').src).id)"""
        )

    def touch(self, *steps: list[tuple[float, float]]):
        """Fingers put down at the first step's points, moved through the others, and lifted."""
        for number, step in enumerate([*steps, []]):
            kind = "touchStart" if number == 0 else "touchMove" if step else "touchEnd"
            points = [{"x": x, "y": y, "id": finger} for finger, (x, y) in enumerate(step)]
            self.browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


@pytest.fixture
def page(chromium, run):
    """The freshly loaded report; afterwards the console must be empty."""
    chromium.get_log("browser")
    yield Page(chromium, run / "report.html")
    assert chromium.get_log("browser") == []


def test_it_loads_from_disk_without_a_word_on_the_console(page):
    assert page.browser.title == 'Set<i> x2, script>"&<b>'
    assert page.names() == [NASTY, "a10", "a9", "z &amp;"]
    resources = page.js("performance.getEntriesByType('resource').map(entry => entry.name.slice(0, 5))")
    assert set(resources) <= {"data:"}
    assert page.shown() == ["image-0-bicubic", "image-0-sr"]
    assert page.js("[...document.querySelectorAll('img')].map(img => img.naturalWidth)") == [128, 128]
    assert page.find(".name").text == f"{NASTY} 1 of 4"


def test_columns_sort_by_mouse_and_keyboard(page, html):
    psnr = dict(zip(page.names(), (row[2] for row in figures_of(html, "tbody")), strict=True))
    page.find("button[aria-label=PSNR]").click()
    assert page.names() == sorted(psnr, key=psnr.get, reverse=True) and page.names()[0] == "z &amp;"  # infinite
    assert page.js("document.querySelector('button[aria-label=PSNR]').closest('th').ariaSort") == "descending"
    page.press("\ue007")  # Enter
    assert page.names() == sorted(psnr, key=psnr.get)
    assert page.js("[...document.querySelectorAll('[aria-sort=ascending]')].map(th => th.textContent)") == ["PSNR"]
    page.find("button[aria-label=image]").click()
    assert page.names() == [NASTY, "a9", "a10", "z &amp;"]  # 9 before 10
    assert page.find("tfoot th").text == "mean"


def test_the_line_slides_by_mouse_and_arrow_keys(page):
    start = page.view()["line"]
    page.drag(".line", -40)
    assert page.view()["line"] == pytest.approx(start - 40, abs=1)
    before = page.view()["line"]
    page.press("\ue014", "\ue014")  # right arrow
    width = 128 * page.view()["z"]
    assert page.view()["line"] - before == pytest.approx(0.04 * width, abs=1)
    page.press("\ue010")  # End: all of the left image
    assert page.find(".line").get_attribute("aria-valuenow") == "100"
    clip = page.js("getComputedStyle(document.querySelector('.layer.right')).clipPath")
    assert float(re.findall(r"([\d.]+)px", clip)[-1]) == page.view()["line"]


def test_both_images_zoom_in_step(page):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    fitted = page.view()
    page.find(".line").send_keys("+")
    assert page.view()["z"] == 8 and page.find("#zoom").text == "800 %"  # a power of two
    assert page.js("getComputedStyle(document.querySelector('.layer img')).imageRendering") == "pixelated"
    page.press("-")
    page.find("#in").click()
    assert page.view()["z"] == 8
    page.find("#fit").click()
    assert page.view() == fitted
    page.find("#one").click()
    assert page.view()["z"] == 1
    page.press("0")
    stage = page.find(".stage")
    at = page.js("document.querySelector('.stage').clientWidth") / 2 + 50
    ActionChains(page.browser, 0).scroll_from_origin(ScrollOrigin.from_element(stage, 50, 0), 0, -300).perform()
    page.wait("parseFloat(document.querySelector('.stage').style.getPropertyValue('--z')) > 6")
    zoomed = page.view()
    assert (at - zoomed["x"]) / zoomed["z"] == pytest.approx((at - fitted["x"]) / fitted["z"], abs=0.3)


def test_a_drag_moves_the_enlarged_image_as_far_as_its_edge(page):
    for _ in range(3):
        page.find("#in").click()
    before = page.view()
    page.drag(".layer.left .tag", 30, 20)  # clicks fall through the tag to the image
    after = page.view()
    assert (after["x"] - before["x"], after["y"] - before["y"], after["line"]) == (30, 20, before["line"])
    page.find(".line").send_keys("\ue008\ue012")  # Shift + left arrow
    assert page.view()["x"] == after["x"] + 60
    for _ in range(8):
        page.drag(".layer.left .tag", 800, 0)
    assert page.view()["x"] == 0


def test_left_and_right_are_chosen_among_four(page):
    page.find("[data-side=left] [data-kind=hr]").click()
    page.find("[data-side=right] [data-kind=error]").click()
    page.wait("document.querySelector('.layer.right img').alt === 'Error of SR'")
    assert page.shown() == ["image-0-hr", "image-0-error"]
    pressed = page.js("[...document.querySelectorAll('[aria-pressed=true]')].map(button => button.dataset.kind)")
    assert pressed == ["hr", "error"] and page.find(".legend").is_displayed()


def test_images_are_walked_in_the_tables_order(page):
    page.find("button[aria-label=image]").click()
    assert not page.find("#previous").is_enabled()
    page.find("#next").click()
    page.wait("document.querySelectorAll('.layer img').length === 2")
    assert page.find(".name").text == "a9 2 of 4" and page.shown() == ["image-2-bicubic", "image-2-sr"]
    page.press("n", "n")
    assert page.find(".name").text == "z &amp; 4 of 4" and not page.find("#next").is_enabled()
    assert "∞" in page.find(".scores").text
    page.find("tbody tr:nth-child(3) button").send_keys("\ue007")
    page.wait("document.querySelectorAll('.layer img').length === 2")
    assert page.find(".name").text == "a10 3 of 4"
    assert page.js("document.activeElement === document.querySelector('.line')")
    assert page.js("document.querySelectorAll('img').length") == 2


def test_it_fits_a_phone_and_understands_fingers(page, run):
    phone = Page(page.browser, run / "report.html", 390, 844, mobile=True)
    assert phone.js("document.documentElement.scrollWidth") == 390
    phone.js("document.querySelector('#viewer').scrollIntoView()")
    box, before = phone.js("document.querySelector('.stage').getBoundingClientRect()"), phone.view()
    y, line, middle = box["y"] + box["height"] / 2, box["x"] + before["line"], box["x"] + box["width"] / 2
    phone.touch([(line, y)], [(line + 20, y)], [(line + 60, y)])
    assert phone.view()["line"] == pytest.approx(before["line"] + 60, abs=2) and phone.view()["z"] == before["z"]
    phone.touch(*([(middle - apart, y), (middle + apart, y)] for apart in (40, 60, 80)))
    assert phone.view()["z"] == pytest.approx(2 * before["z"], rel=0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_follows_the_systems_light_or_dark(page, scheme):
    feature = {"name": "prefers-color-scheme", "value": scheme}
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    paper, ink = (
        sum(map(int, re.findall(r"\d+", page.js(f"getComputedStyle(document.body).{what}"))[:3]))
        for what in ("backgroundColor", "color")
    )
    assert (paper > 600 and ink < 200) if scheme == "light" else (paper < 200 and ink > 600)


def test_a_row_whose_images_are_not_embedded_shows_its_figures(chromium, run, tmp_path):
    copy = tmp_path / "report.html"
    html = (run / "report.html").read_text(encoding="utf-8")
    copy.write_text(re.sub(r'(data-index="1"[^>]*)>', r"\1 data-left-out>", html), encoding="utf-8")
    page = Page(chromium, copy)
    page.find("#next").click()
    assert page.find(".missing").is_displayed() and not page.find(".stage").is_displayed()
    assert "RGB PSNR" in page.find(".scores").text
    page.find("#previous").click()
    page.wait("document.querySelectorAll('.layer img').length === 2")
    assert page.find(".stage").is_displayed() and not page.find(".missing").is_displayed()
    assert chromium.get_log("browser") == []
