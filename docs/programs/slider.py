"""An animation of the page of ``panacea serve``: one prompt, asked at several λ.

A server must run, and chromium with its driver and the package selenium must be installed.

    panacea serve --adapter runs/small/panacea --port 8000
    python docs/programs/slider.py http://127.0.0.1:8000 slider.gif --prompt "What should I cook?"
"""

from __future__ import annotations

import argparse
import io
import shutil
from typing import Any

from PIL import Image

WIDTH, HEIGHT = 980, 632
SCROLL_BAR = 15
HOLD = 1800  # milliseconds for each answer


def browser() -> Any:
    """A headless one of the picture's size."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        f"window-size={WIDTH},{HEIGHT + 140}",
    ):
        options.add_argument(f"--{flag}")
    options.binary_location = shutil.which("chromium") or ""
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))


def frames(
    url: str, prompt: str, shares: list[float], tokens: int, seconds: int
) -> list[Image.Image]:
    """A picture of the page with the whole answer at each λ of two objectives."""
    from selenium.webdriver.support.wait import WebDriverWait

    driver, found = browser(), []
    try:
        for share in shares:
            driver.get("about:blank")  # a fragment alone would not load the page anew
            driver.get(f"{url}/#l={share:g},{1 - share:g}")
            WebDriverWait(driver, seconds).until(
                lambda page: page.find_elements("css selector", ".pane")
            )
            driver.execute_script(
                "document.querySelector('#tokens').value = arguments[0];"
                "document.querySelector('#prompt').value = arguments[1];"
                "document.querySelector('#ask button.main').click();",
                tokens,
                prompt,
            )
            WebDriverWait(driver, seconds, 0.2).until(
                lambda page: any(
                    "tokens in" in state.text
                    for state in page.find_elements("css selector", ".state")
                )
            )
            png = driver.get_screenshot_as_png()
            found.append(
                Image.open(io.BytesIO(png)).convert("RGB").crop((0, 0, WIDTH - SCROLL_BAR, HEIGHT))
            )
    finally:
        driver.quit()
    return found


def main() -> None:
    """Write the animation."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url", help="of the server")
    parser.add_argument("file", help="where the GIF goes")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--shares", type=float, nargs="+", default=[1, 0.75, 0.5, 0.25, 0])
    parser.add_argument("--tokens", type=int, default=48, help="of an answer, at most")
    parser.add_argument("--seconds", type=int, default=120, help="to wait for an answer")
    args = parser.parse_args()
    pictures = frames(args.url, args.prompt, args.shares, args.tokens, args.seconds)
    # There and back again, in 64 colours that all frames share.
    order = [*pictures, *pictures[-2:0:-1]]
    palette = pictures[0].quantize(64)
    first, *rest = (picture.quantize(palette=palette, dither=0) for picture in order)
    first.save(args.file, save_all=True, append_images=rest, duration=HOLD, loop=0, optimize=True)


if __name__ == "__main__":
    main()
