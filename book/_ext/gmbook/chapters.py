"""Chapter 8 is the page `08-...`: numbers come from file names, so they hold before all chapters exist."""

import re
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
    for docname, sections in env.toc_secnumbers.items():
        chapter = int(chapter_of(docname))
        for anchor, number in sections.items():
            sections[anchor] = number and (chapter, *number[1:])
        env.titles[docname]["secnumber"] = [chapter]
        for reference in env.tocs[docname].findall(nodes.reference):
            if number := reference.get("secnumber"):
                reference["secnumber"] = [chapter, *number[1:]]
    return changed


def setup(app):
    Collector.assign_section_numbers = assign_section_numbers
