"""Batches that no model of three binary coordinates accepts, each with what it must hear."""

import torch

GOOD = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])

FORMS = [
    (GOOD[:, :2], r"shape \(N, 3\).*got \(2, 2\)"),
    (GOOD.repeat(1, 2), r"shape \(N, 3\).*got \(2, 6\)"),
    (GOOD[0], r"shape \(N, 3\).*got \(3,\)"),
    (GOOD[:0], r"N >= 1, got \(0, 3\)"),
    (GOOD.long(), "floats, got torch.int64"),
    (GOOD.tolist(), "floats, got list"),
    (GOOD * torch.nan, "finite x, got NaN"),
    (GOOD / 0, "finite x"),
    (-GOOD / 0, "finite x"),
]
VALUES = [
    (GOOD + 0.25, "whole numbers from 0 to 1, got values from 0.25 to 1.25"),
    (GOOD - 2 * GOOD[:1], "whole numbers from 0 to 1, got values from -2 to 1"),
    (GOOD * 2, "whole numbers from 0 to 1, got values from 0 to 2"),
]
