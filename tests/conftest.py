"""What all tests share: hypothesis without chance or a clock, one thread, and figures without a screen."""

import matplotlib
import torch
from hypothesis import settings

matplotlib.use("agg")
torch.set_num_threads(1)
settings.register_profile("gmlib", derandomize=True, deadline=None)
settings.load_profile("gmlib")
