"""The gate lets a good book through, and names each fault of a bad one with file and line."""

import re
from collections import defaultdict

import pytest
from building import ROOT, build, faults

# What the gate says of each section of tests/books/faulty/book/03-faults.md.
EXPECTED = {
    "Nothing wrong": [],
    "An equation without a label": ["display equation without a label"],
    "A label of no kind": ["label three is none of def-, eq-, err-"],
    "An equation that nothing checks": ["eq-unchecked has no check that ran on this page"],
    "An equation with a check that was printed by hand": [
        "eq-printed has no check that ran on this page",
        "prints a check of eq-printed that it does not call by name",
    ],
    "A check in a cell that the reader cannot see": ["eq-unseen has no check that ran on this page"],
    "A check of nothing on the page": ["check of eq-elsewhere, which is not on this page"],
    "A call that did not run": [
        "eq-called has no check that ran on this page",
        "calls a check of eq-called that printed nothing",
    ],
    "An equation shown by a training outcome": [
        "eq-trained has no check that ran on this page",
        "check.reached cannot judge eq-trained",
    ],
    "An erratum that is agreed with": ["err-agreed is not refuted on this page"],
    "A check of an unknown kind": [
        "eq-guessed has no check that ran on this page",
        "check.guess is no kind of check",
    ],
    "A definition that the notation does not list": ["def-hidden is not in the notation table"],
    "An unknown claim": ["unknown claim S9.9"],
    "A figure without words": ["figure without name", "figure without caption", "figure without alt"],
    "A figure that a blind reader cannot read": ["figure without alt"],
    "An exercise whose stub passes": [
        "ex-easy needs a stub that fails and then a solution that passes, got ['✓']",
    ],
    "S0.1": [],
    "S0.2": ["claim S0.2 of chapter 03 is shown by nothing"],
    "S0.3": ["claim S0.3 is shown by eq-ghost, which no page has"],
    "S0.4": ["claim S0.4 is shown by def-hidden, which no page has"],
}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    return folder, build("good", folder)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    return build("faulty", tmp_path_factory.mktemp("faulty"))


@pytest.fixture(scope="module")
def found(faulty):
    """The faults by the section, or the claim, of the line that each names."""
    found = defaultdict(list)
    for file, line, fault in faults(faulty):
        lines = (ROOT / "tests/books/faulty" / file).read_text().splitlines()
        places = [re.match(r"## (.+)|  - {id: ([^,]+)", text) for text in lines[:line]]
        place = [match[1] or match[2] for match in places if match][-1]
        found[place].append(fault)
    return found


def test_a_good_book_passes(good):
    _, result = good
    assert result.returncode == 0, result.stderr
    assert faults(result) == []


def test_a_bad_book_fails(faulty):
    assert faulty.returncode != 0


@pytest.mark.parametrize("place", EXPECTED)
def test_a_fault_is_named_where_it_is(found, place):
    assert sorted(found[place]) == sorted(EXPECTED[place])


def test_nothing_else_is_named(found):
    assert found.keys() <= EXPECTED.keys()


def page(good, name):
    return (good[0] / "_build/html/book" / f"{name}.html").read_text()


def test_a_check_mark_leads_to_the_cell_and_back(good):
    text = page(good, "03-good")
    assert '<a class="check-mark checked" href="#check-eq-nat"' in text
    assert '<a class="check-mark refuted" href="#check-err-nat"' in text
    assert re.search(r'<div class="cell[^>]*id="check-eq-nat"', text)
    assert '<a href="#equation-eq-nat">eq-nat</a>  equal on 3 values' in text


def test_numbers_come_from_the_file_name(good):
    assert ">(3.1)<" in page(good, "03-good")


def test_a_figure_is_part_of_the_page(good):
    text = page(good, "03-good")
    assert 'role="img" aria-label="A line that rises from the lower left to the upper right."' in text
    assert "stroke: currentColor" in text
    assert "unused" not in text.split("<svg")[-1]


def test_the_ledger_counts(good):
    text = re.sub(r"<[^>]+>", "", page(good, "ledger"))
    for total in (
        "2 equations",
        "1 definitions",
        "4 checks that ran",
        "3 of 3 claims shown",
        "1 of 1 errata answered",
    ):
        assert total in text


def test_the_ledger_names_what_shows_a_claim(good):
    text = page(good, "ledger")
    row = text[text.index('id="claim-S0.2"') :].partition("</tr>")[0]
    assert re.findall(r'href="([^"]+)"[^>]*>([^<]+)', row) == [
        ("03-good.html#equation-err-nat", "(3.3)"),
        ("03-good.html#fig-line", "Fig. 3.1"),
        ("03-good.html#ex-turn", "Exercise 3.1"),
    ]


def test_the_errata_page_has_the_errata_alone(good):
    text = page(good, "sources-and-errata")
    assert "upside down" in text
    assert "a line rises" not in text
