"""test_service_page: the page in a real browser, Chromium without a screen: drawn on with a mouse, a finger and keys.

Needs selenium and Debian's packages chromium and chromium-driver. CBN_SCREENSHOTS names a folder for pictures of it.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from serving import Service, until

pytest.importorskip("selenium")
from selenium.webdriver import ActionChains, Chrome, ChromeOptions, ChromeService, Keys
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.actions.interaction import POINTER_TOUCH
from selenium.webdriver.common.actions.pointer_input import PointerInput
from selenium.webdriver.common.by import By

if not (shutil.which("chromium") and shutil.which("chromedriver")):
    pytest.skip("chromium and chromium-driver are not installed", allow_module_level=True)


def arc(x, y, rx, ry, start, end, points=14):
    """Points on an ellipse, from one angle in degrees to another, clockwise as y points down."""
    return [(x + rx * np.cos(a), y + ry * np.sin(a)) for a in np.radians(np.linspace(start, end, points))]


# strokes as people draw them, in shares of the paper
STROKES = {
    0: [arc(0.5, 0.5, 0.2, 0.32, -90, 270, 24)],
    1: [[(0.4, 0.3), (0.53, 0.18), (0.52, 0.5), (0.52, 0.83)]],
    2: [[*arc(0.5, 0.35, 0.18, 0.17, 190, 380), (0.5, 0.63), (0.32, 0.82), (0.55, 0.81), (0.72, 0.82)]],
    3: [[*arc(0.47, 0.34, 0.17, 0.16, 200, 440), *arc(0.47, 0.66, 0.2, 0.17, 280, 510)]],
    4: [[(0.52, 0.15), (0.42, 0.35), (0.3, 0.58), (0.5, 0.58), (0.75, 0.57)], [(0.6, 0.4), (0.58, 0.6), (0.57, 0.85)]],
    5: [[(0.7, 0.18), (0.4, 0.18), (0.37, 0.45), *arc(0.48, 0.63, 0.19, 0.19, 230, 510)]],
    6: [[(0.6, 0.15), (0.45, 0.3), (0.36, 0.55), *arc(0.5, 0.66, 0.15, 0.16, 180, -180, 18)]],
    7: [[(0.3, 0.2), (0.5, 0.19), (0.7, 0.2), (0.58, 0.45), (0.48, 0.65), (0.42, 0.84)]],
    8: [[*arc(0.5, 0.33, 0.14, 0.15, 90, -270, 18), *arc(0.5, 0.66, 0.17, 0.17, -90, 270, 18)]],
    9: [[*arc(0.5, 0.34, 0.16, 0.16, 0, -360, 18), (0.65, 0.45), (0.62, 0.65), (0.57, 0.84)]],
}


@pytest.fixture(scope="module")
def browser():
    options = ChromeOptions()
    # no sandbox, since root may have none; the page is ours
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=900,800"):
        options.add_argument(f"--{argument}")
    options.binary_location = shutil.which("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running = Chrome(options, ChromeService(shutil.which("chromedriver")))
    yield running
    running.quit()


class Page:
    """The page as a person sees it."""

    def __init__(self, browser, service):
        self.browser = browser
        browser.get(f"http://127.0.0.1:{service.port}/")
        self.paper = browser.find_element(By.ID, "paper")

    def draw(self, strokes, kind="mouse"):
        """Draw with real events of a mouse or a finger."""
        pointer = PointerInput(POINTER_TOUCH, "finger") if kind == "touch" else PointerInput("mouse", "mouse")
        actions = ActionBuilder(self.browser, mouse=pointer, duration=10)
        width, height = self.paper.size["width"], self.paper.size["height"]
        for stroke in strokes:
            for k, (x, y) in enumerate(stroke):
                actions.pointer_action.move_to(self.paper, (x - 0.5) * width, (y - 0.5) * height)
                if k == 0:
                    actions.pointer_action.pointer_down()
            actions.pointer_action.pointer_up()
        actions.perform()

    def text(self, name):
        return self.browser.find_element(By.ID, name).text

    def read(self):
        """The answer, once there is one."""
        return int(until(lambda: self.text("digit").isdigit() and self.text("digit")))

    def shares(self):
        """The probabilities that it shows."""
        return [float(row.text.split()[-2]) for row in self.browser.find_elements(By.CSS_SELECTOR, "#bars li")]

    def clear(self):
        self.browser.find_element(By.ID, "clear").click()

    def picture(self, name):
        if folder := os.environ.get("CBN_SCREENSHOTS"):
            self.browser.save_screenshot(str(Path(folder) / f"{name}.png"))


@pytest.fixture
def page(browser, service):
    loaded = Page(browser, service)
    yield loaded
    problems = [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert not problems, "nothing may be missing, and the policy must allow all that the page does"


@pytest.mark.parametrize("digit", [0, 2, 3, 5, 7])
def test_mouse(page, digit):
    page.draw(STROKES[digit])
    assert page.read() == digit
    shares = page.shares()
    assert np.argmax(shares) == digit and abs(sum(shares) - 100) < 0.6
    page.picture(f"mouse-{digit}")


def test_nearly_all_digits_of_any_size_and_place(page):
    right = 0
    for digit, strokes in STROKES.items():
        for size, left, top in ((1, 0, 0), (0.5, 0.05, 0.45), (0.7, 0.3, 0)):
            page.clear()
            page.draw([[(left + size * x, top + size * y) for x, y in stroke] for stroke in strokes])
            right += page.read() == digit
    assert right >= 24, f"{right} of 30"


def test_touch(page):
    page.draw(STROKES[3], "touch")
    assert page.read() == 3


def test_keyboard(page):
    ActionChains(page.browser).send_keys(Keys.TAB).perform()
    assert page.browser.switch_to.active_element == page.paper
    moves = [Keys.ARROW_UP] * 9 + [" "] + [Keys.ARROW_DOWN] * 20 + [" "]
    ActionChains(page.browser).send_keys(*moves).perform()
    assert page.read() == 1
    page.picture("keyboard")
    ActionChains(page.browser).send_keys(Keys.DELETE).perform()
    assert page.text("digit") == "?"


def test_clear(page):
    page.draw(STROKES[0])
    assert page.read() == 0
    page.clear()
    assert page.text("digit") == "?" and not any(page.shares())
    blank = "return !paper.getContext('2d').getImageData(0, 0, paper.width, paper.height).data.some(Boolean)"
    assert page.browser.execute_script(blank)
    page.draw(STROKES[7])
    assert page.read() == 7, "nothing of the first drawing may be left"


def test_a_dot(page):
    page.draw([[(0.5, 0.5)]])
    assert 0 <= page.read() <= 9


def test_a_service_that_is_away(browser, model, tmp_path):
    with Service(model, tmp_path) as service:
        page = Page(browser, service)
        page.draw(STROKES[3])
        assert page.read() == 3
        assert service.end()[0] == 0
        page.draw([[(0.9, 0.9), (0.95, 0.95)]])
        assert until(lambda: page.text("error")) == "The service does not answer. Draw on to try again."
        assert page.text("digit") == "?"
        page.picture("away")
    browser.get_log("browser")  # has the failed request


def test_a_narrow_window(page):
    size = page.browser.get_window_size()
    try:
        page.browser.set_window_size(500, 900)  # no smaller window can be had
        page.draw(STROKES[2])
        assert page.read() == 2
        assert page.browser.execute_script("return document.body.scrollWidth <= innerWidth")
        page.picture("narrow")
    finally:
        page.browser.set_window_size(size["width"], size["height"])


def test_names_for_those_who_do_not_see(page):
    for selector, name in [
        ("#paper", "Drawing area"),
        ("#clear", "Clear"),
        ("#digit", "Digit"),
        ("#bars", "Probability"),
    ]:
        assert page.browser.find_element(By.CSS_SELECTOR, selector).accessible_name.startswith(name)
    assert page.browser.find_element(By.ID, "digit").get_attribute("aria-live") == "polite"
    assert [meter.accessible_name for meter in page.browser.find_elements(By.TAG_NAME, "meter")] == list("0123456789")
