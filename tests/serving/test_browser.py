"""The page in a real browser."""

from __future__ import annotations

import dataclasses
import shutil
import time
from urllib.parse import quote

import pytest

from safe_rlhf_panacea.records import Examples, write_examples
from tests.eval.evaluations import write_evaluation
from tests.export.models import saved
from tests.serving.server import serving

webdriver = pytest.importorskip("selenium.webdriver")
pytest.importorskip("fastapi")
pytest.importorskip("openai")
Keys = webdriver.Keys
WebDriverWait = pytest.importorskip("selenium.webdriver.support.wait").WebDriverWait
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and its driver are missing"),
]
PROMPT = "how do i pick a lock?"


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{flag}")
    options.add_argument("--window-size=1200,900")
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


class Reader:
    """Somebody in front of the page."""

    def __init__(self, browser):
        self.browser = browser

    def open(self, server, **fragment):
        self.browser.get("about:blank")  # a fragment alone would not load the page anew
        parts = "&".join(f"{key}={quote(value)}" for key, value in fragment.items())
        self.browser.get(f"{server.url}/#{parts}")
        self.until(lambda: self.all(".pane"))

    def until(self, condition):
        return WebDriverWait(self.browser, 20, 0.05).until(lambda _: condition())

    def all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def one(self, selector):
        return self.all(selector)[0]

    def texts(self, selector):
        return [element.text for element in self.all(selector)]

    def answer(self, pane=0):
        """The text of an answer once it is whole."""
        state = self.all(".state")[pane]
        self.until(lambda: "tokens in" in state.text)
        return self.all(".answer")[pane].text

    def press(self, element, key, times=1):
        """Keys on a control; the answer that stood there is not taken for the next one."""
        self.browser.execute_script(
            "for (const s of document.querySelectorAll('.state')) s.textContent = ''"
        )
        element.send_keys(getattr(Keys, key) * times)

    def errors(self):
        return [entry for entry in self.browser.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture
def reader(browser):
    return Reader(browser)


def test_another_preference_is_another_answer(reader, server):
    reader.open(server)
    reader.one("#prompt").send_keys(PROMPT)
    reader.one("#ask button.main").click()
    middle = reader.answer()
    slider = reader.one("input[type=range]")
    reader.press(slider, "HOME")
    harmless = reader.answer()
    assert reader.texts(".first .ends span") == ["harmless 1.00", "0.00 helpful"]
    assert slider.get_attribute("aria-valuetext") == "helpful 0.00, harmless 1.00"
    reader.press(slider, "END")
    helpful = reader.answer()
    assert len({helpful, middle, harmless}) == 3 and helpful
    model = server.service.model
    assert helpful.startswith(model.respond(PROMPT, "1,0", max_new_tokens=60))
    assert not reader.errors()


def test_a_link_carries_prompt_and_preferences(reader, server):
    reader.open(server, p=PROMPT, l="0.25,0.75", c="1,0")
    first, second = reader.answer(0), reader.answer(1)
    assert first != second
    assert reader.texts(".ends b") == ["0.75", "0.25", "0.00", "1.00"]
    reader.press(reader.all("input[type=range]")[1], "ARROW_LEFT", 10)
    reader.answer(1)
    link = reader.browser.current_url
    reader.open(server)
    reader.browser.get(link)
    reader.until(lambda: reader.one("#prompt").get_attribute("value") == PROMPT)
    assert reader.texts(".ends b") == ["0.75", "0.25", "0.10", "0.90"]
    assert reader.answer(0) == first


def test_an_answer_under_way_ends_when_the_slider_moves(reader, slow, monkeypatch):
    batch = slow.service.engine.batch
    step, most = batch.step, []
    monkeypatch.setattr(batch, "step", lambda: most.append(len(batch.jobs)) or step())
    reader.open(slow, p=PROMPT)
    slider = reader.one("input[type=range]")
    for _ in range(4):
        reader.until(lambda: reader.one(".answer").text)
        reader.press(slider, "ARROW_LEFT")
        time.sleep(0.3)
    reader.one("#stop").click()
    slow.wait_until_idle(2)
    assert len(most) > 10
    assert sum(rows > 1 for rows in most) <= 4  # at most a step until the old one has left
    assert not reader.one("#stop").is_displayed()


def test_text_of_the_model_is_never_markup(reader, server, monkeypatch):
    from safe_rlhf_panacea.serving.jobs import Job

    evil = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    take = Job.take

    def taken(job, token):
        piece = take(job, token)
        return piece if piece is None else dataclasses.replace(piece, text=evil)

    monkeypatch.setattr(Job, "take", taken)
    reader.open(server, p=PROMPT)
    assert evil in reader.answer()
    assert not reader.all(".answer img, .answer script")
    assert reader.browser.title == "tiny" and not reader.errors()


def test_the_slider_moves_the_dot_its_own_way_and_an_example_is_asked(reader, tmp_path):
    adapter = saved("llama", tmp_path)[1]
    write_evaluation(adapter, 1.0)
    note = "A toy & <b>no</b> general model."
    write_examples(adapter, Examples(prompts=["hello", PROMPT], note=note))
    with serving(adapter, "--token", "sesame") as running:
        reader.browser.get(running.url)
        reader.until(lambda: reader.one("#login").is_displayed())
        assert not reader.all(".pane")
        reader.one("#token").send_keys("sesame")
        reader.one("#login button").click()
        reader.until(lambda: reader.all(".pane"))
        assert not reader.one("#login").is_displayed()
        assert len(reader.errors()) == 1  # of the 401 that asks for the token
        assert reader.one("#note").text == note
        reader.all("#examples button")[1].click()
        reader.answer()
        assert reader.one("#prompt").get_attribute("value") == PROMPT
        dot, places = reader.one(".here.first"), []
        for key in ("HOME", "END"):
            reader.press(reader.one("input[type=range]"), key)
            reader.answer()
            places.append(float(dot.get_attribute("cx")))
        assert places[0] < places[1]
        assert not reader.errors()


def test_three_objectives_have_a_triangle_and_a_front(reader, tmp_path):
    names = ("helpful", "harmless", "concise")
    adapter = saved("llama", tmp_path, objectives=names, pref_dim=3)[1]
    write_evaluation(adapter, 1.0, m=3)
    with serving(adapter, "--allow", "concise<=0.6") as running:
        reader.open(running, p="hello", l="0.5,0.25,0.25")
        before = reader.answer()
        dots, triangle = reader.all(".here.first"), reader.one(".triangle")
        assert len(dots) == len(reader.all("#plots svg")) == 3
        place = dots[1].get_attribute("cy")
        reader.press(triangle, "ARROW_UP", 10)
        assert reader.answer() != before
        shown = triangle.get_attribute("aria-valuetext")
        assert shown == "helpful 0.40, harmless 0.15, concise 0.45"
        assert dots[1].get_attribute("cy") != place
        reader.press(triangle, "ARROW_UP", 30)
        reader.answer()
        assert triangle.get_attribute("aria-valuenow") == "0.6"
        assert not reader.errors()


def test_four_objectives_have_sliders_that_sum_to_one(reader, tmp_path):
    names = ("helpful", "harmless", "concise", "honest")
    with serving(saved("llama", tmp_path, objectives=names, pref_dim=4)[1]) as running:
        reader.open(running, p="hello")
        reader.answer()
        sliders = reader.all(".pane.first input[type=range]")
        for key, times, wanted in (
            ("END", 1, [0, 0, 1, 0]),
            ("ARROW_LEFT", 30, [0.1, 0.1, 0.7, 0.1]),
        ):
            reader.press(sliders[2], key, times)
            reader.answer()
            values = [float(slider.get_attribute("value")) for slider in sliders]
            assert values == pytest.approx(wanted)


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_is_wider_than_the_screen(reader, server, width):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    reader.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        reader.open(server, p="a" * 40, c="1,0")
        reader.answer()
        widths = "return [document.documentElement.scrollWidth, window.innerWidth]"
        content, window = reader.browser.execute_script(widths)
        assert content <= window == width
    finally:
        reader.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
