"""EM of a Gaussian mixture, K = 10, on the 1,797 digits of 64 pixels: gmlib and scikit-learn, float64.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python bench/em_step.py

Both start from the same responsibilities and add the same floor to the variances. One step is an E step and
an M step; then each runs from the start until its mean of log p(x) is within 0.01 nats of where 100 steps of
gmlib's come to, which takes both the same number of steps. `race` says how they are compared.
"""

import json
import os

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # before numpy is imported

import torch
from race import race
from sklearn.datasets import load_digits
from sklearn.mixture import GaussianMixture as TheirMixture

from gmlib.mixture import COVARIANCES, GaussianMixture, em_step

COMPONENTS, FLOOR = 10, 1e-2
THEIRS = {"full": "full", "diagonal": "diag", "spherical": "spherical", "tied": "tied"}


def steps_to(target: float, step, limit: int = 200) -> int:
    """The number of steps until one returns the target."""
    return next(n for n in range(1, limit) if step() >= target)


def contest(covariance: str, rounds: int) -> None:
    x = torch.tensor(load_digits().data)
    scores = 2 * torch.randn(len(x), COMPONENTS, generator=torch.Generator().manual_seed(0))
    r = scores.double().softmax(-1)
    ours = GaussianMixture(x.shape[1], COMPONENTS, covariance).double()
    theirs = TheirMixture(COMPONENTS, covariance_type=THEIRS[covariance], reg_covar=FLOOR)

    def start_ours():
        ours.maximize(x, r, FLOOR)

    def start_theirs():
        theirs._initialize(x.numpy(), r.numpy())

    def our_step():
        return em_step(ours, x, FLOOR)

    def their_step():
        mean, log_r = theirs._e_step(x.numpy())
        theirs._m_step(x.numpy(), log_r)
        return mean

    start_ours()
    target = max(our_step() for _ in range(100)) - 0.01
    counts = {}
    for name, start, step in [("gmlib", start_ours, our_step), ("scikit-learn", start_theirs, their_step)]:
        start()
        counts[name] = steps_to(target, step)
    print(json.dumps({"covariance": covariance, "mean log p": round(target, 4), "steps": counts}))
    assert len(set(counts.values())) == 1, "one algorithm, twice"

    def whole(start, step):
        start()
        return steps_to(target, step)

    steps = {"gmlib": our_step, "scikit-learn": their_step}
    race(f"GMM {covariance}, one EM step", steps, rounds=rounds, steps=10)
    runs = {
        "gmlib": lambda: whole(start_ours, our_step),
        "scikit-learn": lambda: whole(start_theirs, their_step),
    }
    race(f"GMM {covariance}, start to finish", runs, rounds=max(3, rounds // 3))


def main(rounds: int = 15) -> None:
    torch.set_num_threads(1)
    for covariance in COVARIANCES:
        contest(covariance, rounds)


if __name__ == "__main__":
    main()
