"""What all tests share: hypothesis without chance or a clock, one thread, and figures without a screen.

Where all must be tested, a test may be skipped for want of what a machine need not have, and of nothing else.
"""

import os

import matplotlib
import pytest
import torch
from hypothesis import settings

matplotlib.use("agg")
torch.set_num_threads(1)
settings.register_profile("gmlib", derandomize=True, deadline=None)
settings.load_profile("gmlib")

ABSENT = ("no CUDA device", "GMLIB_DATA is not set")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    outcome = yield
    report = outcome.get_result()
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        _, _, reason = report.longrepr
        if not reason.endswith(ABSENT):
            report.outcome, report.longrepr = "failed", f"{reason}: it must run where CI is set"
