"""`pytest --nbval book` replays the notebooks as Jupyter runs them, and compares their text.

With GMLIB_SMOKE=1 `pytest --nbval-lax book` holds each cell to the equations that it checked in full.
"""

import pytest
from gmbook import outcomes
from nbval.kernel import RunningKernel


def execute_with_history(kernel, source, allow_stdin=None):
    """A `;` that ends a cell hides its value only where the kernel keeps a history; nbval asks for none."""
    return kernel.kc.execute(source, store_history=True, allow_stdin=allow_stdin, stop_on_error=False)


def pytest_configure():
    RunningKernel.execute_cell_input = execute_with_history


def pytest_collectstart(collector):
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("image/svg+xml", "text/html")  # figures are not stored


def pytest_collection_modifyitems(config, items):
    """Cells that print text are compared, but for a few."""
    cells = [item for item in items if getattr(item, "cell", None) and outcomes.text(item.cell.outputs)]
    compared = [item for item in cells if item.options["check"] and item.cell.execution_count is not None]
    config.compared = f"compared: {len(compared)} of {len(cells)} cells that print text"
    if config.option.nbval and len(compared) < 0.8 * len(cells):
        raise pytest.UsageError(f"{config.compared}; at least 80 % are needed.")


def pytest_terminal_summary(terminalreporter, config):
    if config.option.nbval:
        terminalreporter.write_line(config.compared)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    yield
    if item.config.option.nbval_lax:
        missing = outcomes.unchecked(item.test_outputs, item.cell.outputs)
        if missing:
            pytest.fail(f"The short run does not check {', '.join(missing)}.", pytrace=False)
