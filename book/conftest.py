"""`pytest --nbval book` replays the notebooks as Jupyter runs them, and compares their text."""

from nbval.kernel import RunningKernel


def execute_with_history(kernel, source, allow_stdin=None):
    """A `;` that ends a cell hides its value only where the kernel keeps a history; nbval asks for none."""
    return kernel.kc.execute(source, store_history=True, allow_stdin=allow_stdin, stop_on_error=False)


def pytest_configure():
    RunningKernel.execute_cell_input = execute_with_history


def pytest_collectstart(collector):
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("image/svg+xml",)  # figures are not stored
