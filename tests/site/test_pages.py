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

# Of the parts of code and of formulas one of a kind is looked at, of thousands: by the tags and the classes
# from it up to the root, within formulas by the tags. The rest has the same colours, or is none of axe's
# business: what is not shown, and single characters.
CONTRAST = """async () => {
    const kinds = new Map([[null, ""]]), seen = new Set(), name = part =>
        part.tagName + (part.closest("mjx-container") ? "" : "." + part.className);
    const kind = part => {
        if (!kinds.has(part)) kinds.set(part, kind(part.parentElement) + ">" + name(part));
        return kinds.get(part) };
    const judged = part => part.textContent.trim().length > 1
        && part.checkVisibility({visibilityProperty: true, opacityProperty: true});
    const whole = [...document.querySelectorAll("pre, mjx-container")].map(box => [box, box.innerHTML]);
    for (const part of document.querySelectorAll("pre *, mjx-container *"))
        if (part.isConnected)
            judged(part) && !seen.has(kind(part)) ? seen.add(kind(part)) : part.remove();
    const found = await axe.run({resultTypes: ["violations"], runOnly: ["color-contrast"]});
    for (const [box, html] of whole) box.innerHTML = html;
    return found }"""


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


def serious(violations):
    return {
        violation["id"]: [node["target"] for node in violation["nodes"]]
        for violation in violations
        if violation["impact"] in {"serious", "critical"} and violation["id"] not in KNOWN
    }


def test_axe_finds_nothing_serious(axe, wide):
    wide.page.evaluate(axe)
    found = wide.page.evaluate(
        "axe.run({resultTypes: ['violations'], rules: {'color-contrast': {enabled: false}}})"
    )
    assert len(found["passes"]) > 10
    assert serious(found["violations"]) == {}


@pytest.mark.parametrize("theme", ["wide", "dark"])
def test_axe_finds_enough_contrast(axe, theme, request, name):
    page = request.getfixturevalue(theme).page
    page.evaluate(axe)
    found = page.evaluate(CONTRAST)
    assert [rule["id"] for rule in found["passes"]] == ["color-contrast"]
    assert serious(found["violations"]) == {}


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
