"""A browser without a network, on the site that `make book` has built."""

import shutil

import pytest
from building import ROOT, SITE, from_npm, missing
from playwright.sync_api import sync_playwright

AXE = "4.10.2"
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 900}
THEME = """theme => {
    Object.assign(document.documentElement.dataset, {theme, mode: theme});
    for (const fading of document.getAnimations())  // of colours, as on buttons
        if (fading instanceof CSSTransition) fading.finish() }"""
CHAPTERS = sorted(path.stem for path in (ROOT / "book").glob("[0-9][0-9]-*.md"))


def pytest_generate_tests(metafunc):
    """All tests of a page come together, so that it is opened once: chapters are the first of the pages."""
    if "name" in metafunc.fixturenames:
        pages = {path.stem for path in (SITE / "book").glob("*.html")}
        others = [] if "chapter" in metafunc.fixturenames else sorted(pages - set(CHAPTERS))
        metafunc.parametrize("name", CHAPTERS + others if pages else [], scope="session")


@pytest.fixture(scope="session")
def browser():
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        missing("no Chromium: install it to test the site in a browser")
    if not SITE.exists():
        missing("no site: run `make book` first")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=executable,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def axe():
    """The script of axe-core, from npm."""
    return (from_npm("axe-core", AXE) / "axe.min.js").read_text()


class Visit:
    """A page, opened, with its formulas set; and what it asked for and complained of on the way."""

    def __init__(self, browser, address):
        self.requests, self.complaints = [], []
        self.context = browser.new_context(viewport=WIDE, color_scheme="light")
        self.context.add_init_script("localStorage.mode = localStorage.theme = 'light'")
        self.context.set_default_timeout(120_000)  # a page with many formulas, on a busy machine
        self.page = self.context.new_page()
        self.page.route("**/*", self.stay_here)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda line: line.type == "error" and self.complaints.append(line.text))
        self.page.on("requestfailed", lambda request: self.complaints.append(f"failed: {request.url}"))
        self.page.goto(address)
        self.page.wait_for_load_state("load")
        if self.page.locator(".math").count():
            self.page.wait_for_function("window.MathJax?.startup?.promise !== undefined")
            self.page.evaluate("MathJax.startup.promise.then(() => null)")

    def stay_here(self, route):
        self.requests.append(route.request.url)
        route.continue_() if route.request.url.startswith(("file:", "data:", "blob:")) else route.abort()


def address(name):
    return (SITE / "book" / f"{name}.html").as_uri()


@pytest.fixture(scope="session")
def wide(browser, name):
    visit = Visit(browser, address(name))
    yield visit
    visit.context.close()


@pytest.fixture
def narrow(wide):
    """The page on a telephone."""
    wide.page.set_viewport_size(NARROW)
    yield wide
    wide.page.set_viewport_size(WIDE)


@pytest.fixture
def dark(wide):
    """The page as the theme's button makes it dark."""
    wide.page.evaluate(THEME, "dark")
    yield wide
    wide.page.evaluate(THEME, "light")


@pytest.fixture
def chapter(wide, name):
    """A chapter's name and its page."""
    return name, wide.page


@pytest.fixture
def open_page(browser):
    visits = []

    def open_(name_or_address):
        target = name_or_address if ":" in name_or_address else address(name_or_address)
        visits.append(Visit(browser, target))
        return visits[-1].page

    yield open_
    for visit in visits:
        visit.context.close()
