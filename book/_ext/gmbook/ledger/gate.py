"""The gate: what is displayed and not shown by a check that ran fails the build, with file and line."""

from sphinx.errors import SphinxError
from sphinx.util import logging

from .claims import FILE

logger = logging.getLogger(__name__)

NOTATION = "book/notation"
EQUALITIES = {"equal", "estimate", "bound", "limit", "optimum"}
TARGETS = {"refute": ("err-",), "reached": ("fig-", "tab-"), "exercise": ("ex-",)}
TARGETS |= dict.fromkeys(EQUALITIES, ("eq-", "err-"))


class LedgerError(SphinxError):
    category = "Ledger"


def equations(page, notation):
    yield from ((line, "display equation without a label") for line in page.unlabelled)
    for label, line in page.equations.items():
        kinds = {check.kind for check in page.checks_of(label) if check.mark == "✓"}
        if label.startswith("def-"):
            if notation is None or label not in notation.referenced:
                yield line, f"{label} is not in the notation table"
        elif label.startswith("err-"):
            if "refute" not in kinds:
                yield line, f"{label} is not refuted on this page"
        elif not label.startswith("eq-"):
            yield line, f"label {label} is none of def-, eq-, err-"
        elif not kinds & EQUALITIES:
            yield line, f"{label} has no check that ran on this page"


def checks(page):
    for check in page.checks:
        if check.kind not in TARGETS:
            yield check.line, f"check.{check.kind} is no kind of check"
        elif not check.label.startswith(TARGETS[check.kind]):
            yield check.line, f"check.{check.kind} cannot judge {check.label}"
        elif not page.defines(check.label):
            yield check.line, f"check of {check.label}, which is not on this page"


def exercises(page):
    for label, line in page.exercises.items():
        marks = [check.mark for check in page.checks_of(label)]
        if marks != ["○", "✓"]:
            yield line, f"{label} needs a stub that fails and then a solution that passes, got {marks}"


def cited(page, claims):
    for claim, line in page.claims:
        if claim not in claims:
            yield line, f"unknown claim {claim}"


def shown(claims, pages):
    for claim in claims.values():
        if not claim.shown_by:
            yield claim.line, f"claim {claim.id} of chapter {claim.chapter} is shown by nothing"
        for label in claim.shown_by:
            if label.startswith("def-") or not any(page.defines(label) for page in pages.values()):
                yield claim.line, f"claim {claim.id} is shown by {label}, which no page has"


def findings(pages, claims):
    notation = pages.get(NOTATION)
    for page in pages.values():
        for finder in (equations(page, notation), checks(page), exercises(page), cited(page, claims)):
            yield from ((page.file, line, fault) for line, fault in finder)
        yield from ((page.file, line, fault) for line, fault in page.faults)
    yield from ((FILE, line, fault) for line, fault in shown(claims, pages))


def judge(app, exception):
    if exception:
        return
    faults = sorted(findings(app.env.ledger_pages, app.claims))
    for file, line, fault in faults:
        logger.error(fault, location=f"{file}:{line}")
    if faults:
        raise LedgerError(f"{len(faults)} faults, listed above")


def setup(app):
    app.connect("build-finished", judge, priority=900)
