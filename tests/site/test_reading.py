"""What a reader does: search, follow a check mark, open a solution, change the theme."""

import re

import yaml
from building import ROOT


def changes_with_the_theme(page):
    ink = "getComputedStyle(document.querySelector('svg.figure, .map li')).color"
    light = page.evaluate(ink)
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    dark = page.evaluate(ink)
    page.evaluate("document.documentElement.dataset.theme = 'light'")
    return dark != light


def test_search_finds_a_phrase(open_page):
    page = open_page("index")
    page.keyboard.press("Control+k")
    field = page.locator("#pst-search-dialog input")
    assert field.evaluate("field => field === document.activeElement")
    field.fill("evidence lower bound")
    field.press("Enter")
    page.locator("#search-results li a", has_text=re.compile("Variational autoencoders")).first.wait_for()


def test_a_check_mark_leads_to_its_cell(chapter):
    _, page = chapter
    mark = page.locator("a.check-mark").first
    cell = page.locator(f"[id='{mark.get_attribute('href')[1:]}']")
    mark.click()
    page.wait_for_timeout(800)  # the theme scrolls smoothly
    top = cell.evaluate("cell => cell.getBoundingClientRect().top")
    assert 0 <= top < 450
    assert "check." in cell.text_content()


def test_a_check_leads_back_to_its_equation(chapter):
    _, page = chapter
    back = page.locator(".checks a[href^='#equation-']").first
    back.click()
    assert page.url.endswith(back.get_attribute("href"))
    assert page.locator(f"[id='{back.get_attribute('href')[1:]}'] mjx-container").count() == 1


def test_a_solution_opens(chapter):
    _, page = chapter
    solution = page.locator(".solution").first
    code = solution.locator(".cell_input").first
    assert not code.is_visible()
    solution.locator(".admonition-title").click()
    code.wait_for(state="visible")


def test_figures_take_the_colour_of_the_theme(chapter):
    _, page = chapter
    assert changes_with_the_theme(page)


def test_the_map_takes_the_colour_of_the_theme(open_page):
    assert changes_with_the_theme(open_page("index"))


def test_the_colab_button_opens_a_notebook_that_exists(chapter):
    name, page = chapter
    address = page.locator(".dropdown-launch-buttons a").first.get_attribute("href")
    repository = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]
    owner_and_name = repository["url"].removeprefix("https://github.com/")
    start = f"https://colab.research.google.com/github/{owner_and_name}/blob/{repository['branch']}/"
    assert address.startswith(start)
    assert address.removeprefix(start) == f"book/{name}.ipynb"
    assert (ROOT / "book" / f"{name}.ipynb").exists()


def test_a_figure_is_stepped_through_and_played(open_page):
    figure = open_page("05-normalizing-flows").locator("#fig-moons-walk")
    shown, slider = figure.locator(".frame:visible"), figure.get_by_role("slider")
    slider.fill("3")
    assert (shown.count(), shown.get_attribute("data-label")) == (1, "station = 3")
    assert figure.locator("output").inner_text() == "station = 3"
    figure.get_by_role("button").click()
    figure.locator("output", has_text="station = 8").wait_for()
    figure.locator("button", has_text="▶").wait_for()
    assert (shown.count(), slider.input_value()) == (1, "8")
