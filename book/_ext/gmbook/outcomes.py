"""What the outputs of a notebook's cells say."""

import re
from collections import Counter

EQUATION = re.compile(r"^✓ ((?:eq|err)-[\w-]+)", re.MULTILINE)


def text(outputs) -> str:
    """What a cell printed and the value that it showed; nothing for a bare figure."""
    shown = (output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)
    return "".join(said for said in shown if not said.startswith("<Figure"))


def unchecked(outputs, outputs_in_full) -> list[str]:
    """The equations that a cell checked in the full run and, or not as often, in this one."""
    full, here = (Counter(EQUATION.findall(text(found))) for found in (outputs_in_full, outputs))
    return sorted((full - here).elements())
