"""The glossary against the chapters: an entry leads to the page that introduces its term."""

import re
import unicodedata
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
CELL = re.compile(r"^```\{code-cell\}.*?^```", re.DOTALL | re.MULTILINE)
ENTRY = re.compile(r"^(\S.*)\n  (.+)$", re.MULTILINE)
LINK = re.compile(r"\{doc\}`[^<`]*<([^>]+)>`|\{eq\}`([^`]+)`")
CONTENTS = yaml.safe_load((ROOT / "_toc.yml").read_text())
FILES = [Path(chapter["file"]) for chapter in CONTENTS["parts"][0]["chapters"]]
CHAPTERS = {file.name: CELL.sub("", (ROOT / f"{file}.md").read_text()) for file in FILES}
GLOSSARY = (ROOT / "book/glossary.md").read_text()
BODY = re.search(r"```\{glossary\}\n(.*)```", GLOSSARY, re.DOTALL)[1]
ENTRIES = ENTRY.findall(BODY)


def printed(stars: str, term: str) -> list[str]:
    """The chapters, in the order of the book, that print a term, or its plural, between such stars."""
    stars = re.escape(stars)
    marked = re.compile(rf"(?<!\*){stars}{re.escape(term)}s?[.,:]?{stars}(?!\*)", re.IGNORECASE)
    return [name for name, text in CHAPTERS.items() if marked.search(text)]


def faults(term: str, words: str) -> list[str]:
    """What an entry promises and the chapters do not keep."""
    places = LINK.findall(words)
    if not places or not places[0][0]:
        return ["no chapter"]
    found, chapter = [], places[0][0]
    introduced = (printed("**", term) or printed("*", term))[:1]
    if introduced != [chapter]:
        found.append(f"introduced by {introduced}")
    for name, label in places:
        chapter = name or chapter
        if label and f"({label})" not in CHAPTERS[chapter]:
            found.append(f"{label} is not in {chapter}")
    return found


def key(term: str) -> str:
    """Without accents, small and capital letters alike."""
    return unicodedata.normalize("NFKD", term).encode("ascii", "ignore").decode().casefold()


def test_there_is_a_glossary():
    assert len(ENTRIES) >= 80
    assert len(ENTRIES) == len(BODY.strip().split("\n\n"))


def test_terms_are_in_the_order_of_the_alphabet_and_none_is_there_twice():
    keys = [key(term) for term, _ in ENTRIES]
    assert keys == sorted(set(keys))


@pytest.mark.parametrize(("term", "words"), ENTRIES, ids=[term for term, _ in ENTRIES])
def test_an_entry_leads_to_the_page_that_introduces_its_term(term, words):
    assert faults(term, words) == []


def test_a_wrong_entry_is_found():
    first, later = "{doc}`c <01-what-is-a-generative-model>`", "{doc}`c <08-variational-autoencoders>`"
    assert faults("prior", first) == []
    assert faults("prior", later) == ["introduced by ['01-what-is-a-generative-model']"]
    assert faults("no such term", first) == ["introduced by []"]
    assert faults("prior", "nowhere") == ["no chapter"]
    assert faults("prior", f"{first}, {{eq}}`def-elbo`") == [
        "def-elbo is not in 01-what-is-a-generative-model"
    ]
