"""Chapter 8 is the page `08-...`: numbers come from file names, so they hold before all chapters exist.

A chapter may have several pages, which continue the numbers of its sections.
"""

import re
from collections import Counter
from pathlib import PurePosixPath

from docutils import nodes
from sphinx_external_toc.collectors import TocTreeCollectorWithStyles as Collector

assign_in_sequence = Collector.assign_section_numbers


def chapter_of(docname):
    """'08' for 'book/08-variational-autoencoders', None for a page that is no chapter."""
    match = re.match(r"(\d\d)-", PurePosixPath(docname).name)
    return match and match[1]


def assign_section_numbers(collector, env):
    changed = assign_in_sequence(collector, env)
    used = Counter()  # sections of a chapter on its earlier pages
    for docname, sections in env.toc_secnumbers.items():
        chapter = int(chapter_of(docname))

        def renumber(number, chapter=chapter, before=used[chapter]):
            section, deeper = number[1:2], number[2:]
            return (chapter, *(part + before for part in section), *deeper)

        for anchor, number in sections.items():
            sections[anchor] = number and renumber(number)
        env.titles[docname]["secnumber"] = [chapter]
        for reference in env.tocs[docname].findall(nodes.reference):
            if number := reference.get("secnumber"):
                reference["secnumber"] = [*renumber(number)]
        used[chapter] = max((number[1] for number in sections.values() if number and number[1:]), default=0)
    return changed


def setup(app):
    Collector.assign_section_numbers = assign_section_numbers
