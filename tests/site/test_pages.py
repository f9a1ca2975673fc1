"""Every page of the built site, as a reader's browser sees it."""

from collections import Counter
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlparse

import pytest
from bs4 import BeautifulSoup
from building import SITE

# What the theme itself is known for, and no style sheet can mend.
KNOWN = {
    "label-content-name-mismatch": "the theme's search button is named 'Search' and also shows the keys",
    "aria-required-children": "docutils gives a list of references the role of a list, and not its entries",
}


def test_no_request_leaves_and_nothing_fails(wide):
    assert [url for url in wide.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert wide.complaints == []


def test_every_formula_is_set(wide):
    assert wide.page.locator("mjx-merror, [data-mjx-error]").count() == 0
    assert wide.page.locator("mjx-container").count() == wide.page.locator(".math").count()
    text = wide.page.evaluate(
        """() => { const copy = document.querySelector("article").cloneNode(true);
                   copy.querySelectorAll("pre, code, mjx-container, script, style").forEach(e => e.remove());
                   return copy.textContent }"""
    )
    for raw in ("\\(", "\\[", "$", "\\begin", "{eq}", "{cite", "{numref}", "```", ":::"):
        assert raw not in text


def test_every_figure_has_words(wide):
    images = wide.page.locator("article :is(img, svg.figure)")
    for image in images.all():
        assert image.get_attribute("aria-label") or image.get_attribute("alt")


def test_no_sideways_scrolling_on_a_telephone(narrow):
    assert narrow.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_numbers_and_check_marks_do_not_collide_on_a_telephone(narrow):
    overlaps = narrow.page.evaluate(
        """() => [...document.querySelectorAll(".equation")].filter(box => {
             const [number, mark, math] = [".eqno", ".check-mark", "mjx-container"].map(
               part => box.querySelector(part).getBoundingClientRect());
             return number.right > mark.left || mark.right > 390 })
           .map(box => box.textContent)"""
    )
    assert overlaps == []


@pytest.mark.parametrize("theme", ["wide", "dark"])
def test_axe_finds_nothing_serious(axe, theme, request, name):
    page = request.getfixturevalue(theme).page
    page.evaluate(axe)
    violations = page.evaluate("axe.run({resultTypes: ['violations']}).then(result => result.violations)")
    serious = {
        violation["id"]: [node["target"] for node in violation["nodes"]]
        for violation in violations
        if violation["impact"] in {"serious", "critical"} and violation["id"] not in KNOWN
    }
    assert serious == {}


@cache
def links_and_ids(path):
    soup = BeautifulSoup(path.read_text(), "html.parser")
    return [link["href"] for link in soup.find_all("a", href=True)], [
        tag["id"] for tag in soup.find_all(id=True)
    ]


def test_sections_are_numbered_once_in_the_book():
    pages = sorted((SITE / "book").glob("[0-9][0-9]-*.html"))
    soups = [BeautifulSoup(page.read_text(), "html.parser") for page in pages]
    numbers = [
        tag.text for soup in soups for tag in soup.select("h2 > .section-number, h3 > .section-number")
    ]
    assert numbers
    assert [number for number, count in Counter(numbers).items() if count > 1] == []


def test_ids_are_unique(name):
    _, ids = links_and_ids(SITE / "book" / f"{name}.html")
    assert [id for id, count in Counter(ids).items() if count > 1] == []


def test_every_link_resolves(name):
    path = SITE / "book" / f"{name}.html"
    dead = []
    for link in links_and_ids(path)[0]:
        target, anchor = urldefrag(urljoin(path.as_uri(), link))
        if not target.startswith("file:"):
            continue
        file = Path(unquote(urlparse(target).path))
        if not file.exists() or (anchor and unquote(anchor) not in links_and_ids(file)[1]):
            dead.append(link)
    assert dead == []
