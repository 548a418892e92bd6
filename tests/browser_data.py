"""A page as its readers open it; the fixture ``browser`` is in conftest.py."""

import pytest

BROWSER = pytest.mark.xdist_group("browser")
"""Tests that share one Chromium."""


class Opened:
    """A page in a browser that remembers every complaint and every attempt to reach the network."""

    def __init__(self, browser, path, **settings):
        self.complaints = []
        self.page = browser.new_page(**settings)
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.reached(request.url))
        self.page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))
        self.page.goto(path.as_uri())

    def reached(self, url):
        if not url.startswith(("file:", "data:")):
            self.complaints.append(f"asked for {url}")

    def column(self, table, number):
        return self.page.locator(f"#{table} tbody tr td:nth-child({number})").all_inner_texts()


def contrast(one, other):
    """Contrast of two sRGB colours as WCAG 2 defines it."""

    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
