"""`pytest --nbval book` compares the text of the notebooks; their figures are not stored."""


def pytest_collectstart(collector):
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("image/svg+xml",)
