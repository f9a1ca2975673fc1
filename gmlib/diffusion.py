"""Noise step by step, and the way back: schedules, diffusion models, their samplers, and flow matching."""

import math
from collections import deque
from itertools import chain

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from gmlib.base import (
    Sampler,
    Trainable,
    require_batch,
    require_classes,
    require_count,
    require_networks,
    require_points,
)
from gmlib.divergences import gaussian_kl_to_standard
from gmlib.nn import bernoulli, normal, uniform
from gmlib.ode import transport

Points, Rows = Float[Tensor, "N D"], Float[Tensor, " N"]
Time = int | float | Tensor  # one for all rows, or a tensor (N,) with one for each
KINDS = ("noise", "data", "score", "velocity")


class Schedule(nn.Module):
    r"""How much of the data is left, and how much noise there is, at times t = 0, ..., T.

    .. math:: q(x_t \mid x_0) = \mathcal N(\sqrt{\bar\alpha_t} \, x_0, (1 - \bar\alpha_t) I), \quad
        \bar\alpha_t = \prod_{s=1}^t (1 - \beta_s), \quad \bar\alpha_0 = 1

    It keeps log alpha_bar, in which no digits are lost where alpha_bar is close to 1 or 0, and has the dtype
    of beta. Between whole times, log alpha_bar is linear. What depends on t comes without axes for one t,
    and as (N, 1) for times (N,).

    Args:
        beta: the variances of the noise that the steps 1, ..., T add.

    Raises:
        ValueError: if beta is not in (0, 1), or a time not in [0, T].

    Source: Ho, Jain and Abbeel (2020), Denoising Diffusion Probabilistic Models, section 2.
    """

    def __init__(self, beta: Float[Tensor, " T"]):
        super().__init__()
        if beta.ndim != 1 or len(beta) < 1 or not ((beta > 0) & (beta < 1)).all():
            raise ValueError(f"Schedule needs T >= 1 numbers beta in (0, 1), got {beta}.")
        log_alpha_bar = torch.cumsum(torch.log1p(-beta.double()), 0)
        self.register_buffer("log_alpha_bar", F.pad(log_alpha_bar, (1, 0)).to(beta))
        self.T = len(beta)

    @classmethod
    def linear(cls, T: int) -> "Schedule":
        """beta rises evenly from 1e-4 to 0.02, both times 1000 / T: Ho, Jain and Abbeel (2020), section 4."""
        beta = torch.linspace(0.1, 20, max(T, 0), dtype=torch.float64) / T
        return cls(beta.to(torch.get_default_dtype()))

    @classmethod
    def cosine(cls, T: int) -> "Schedule":
        r"""alpha_bar is a squared cosine, but no beta is above 0.999.

        .. math:: \bar\alpha_t = f(t) / f(0), \quad f(t) = \cos^2 \left( \frac{t / T + 0.008}{1.008}
            \cdot \frac{\pi}{2} \right)

        Source: Nichol and Dhariwal (2021), Improved Denoising Diffusion Probabilistic Models, section 3.2.
        """
        t = torch.arange(max(T, 0) + 1, dtype=torch.float64)
        f = ((t / T + 0.008) / 1.008 * (math.pi / 2)).cos().square()
        return cls((1 - f[1:] / f[:-1]).clamp(max=0.999).to(torch.get_default_dtype()))

    @property
    def alpha_bar(self) -> Float[Tensor, " times"]:
        """At the times 0, ..., T, so that alpha_bar[t] belongs to t."""
        return self.log_alpha_bar.exp()

    @property
    def beta(self) -> Float[Tensor, " T"]:
        """Of the steps 1, ..., T, so that beta[t - 1] belongs to t."""
        return -torch.expm1(self.log_alpha_bar.diff())

    def at(self, t: Time) -> Float[Tensor, "..."]:
        """log alpha_bar at times in [0, T]."""
        return self._tensor(self._at(t))

    def _at(self, t: Time, least: int = 0) -> float | Tensor:
        """The same as a number for one whole time, which is quicker to reckon with."""
        if isinstance(t, int) and least <= t <= self.T:
            return self.log_alpha_bar[t].item()
        t = self._tensor(t)
        if t.ndim > 1 or not ((t >= least) & (t <= self.T)).all():
            raise ValueError(f"Schedule needs times () or (N,) from {least} to {self.T}, got {t}.")
        k = t.long().clamp(max=self.T - 1)
        value = torch.lerp(self.log_alpha_bar[k], self.log_alpha_bar[k + 1], t - k)
        return value.unsqueeze(-1) if t.ndim else value

    def _tensor(self, number: float | Tensor) -> Tensor:
        return torch.as_tensor(number, dtype=self.log_alpha_bar.dtype, device=self.log_alpha_bar.device)

    def when(self, log_alpha_bar: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The time at which log alpha_bar has this value: the inverse of `at`."""
        k = (torch.searchsorted(-self.log_alpha_bar, -log_alpha_bar) - 1).clamp(0, self.T - 1)
        low, high = self.log_alpha_bar[k], self.log_alpha_bar[k + 1]
        return k + (log_alpha_bar - low) / (high - low)

    def levels(self, t: Time) -> tuple[Tensor, Tensor]:
        """alpha = sqrt(alpha_bar) and sigma = sqrt(1 - alpha_bar), of data and noise in x_t."""
        return _levels(self.at(t))

    def snr(self, t: Time) -> Float[Tensor, "..."]:
        """The signal-to-noise ratio alpha_bar / (1 - alpha_bar), infinite at t = 0."""
        return 1 / torch.expm1(self.at(t).abs())

    def marginal(self, x_0: Points, t: Time) -> tuple[Points, Float[Tensor, "..."]]:
        """Mean and standard deviation of q(x_t | x_0)."""
        _require_match("Schedule.marginal", t, x_0)
        alpha, sigma = self.levels(t)
        return alpha * x_0, sigma

    def posterior(self, x_0: Points, x_t: Points, t: Time) -> tuple[Points, Float[Tensor, "..."]]:
        r"""Mean and variance of q(x_{t-1} | x_t, x_0), for t in [1, T].

        .. math:: \tilde\mu_t = \frac{\sqrt{\bar\alpha_{t-1}} \, \beta_t}{1 - \bar\alpha_t} x_0
            + \frac{\sqrt{1 - \beta_t} \, (1 - \bar\alpha_{t-1})}{1 - \bar\alpha_t} x_t, \quad
            \tilde\beta_t = \frac{1 - \bar\alpha_{t-1}}{1 - \bar\alpha_t} \beta_t

        Source: Ho, Jain and Abbeel (2020), equations 6 and 7.
        """
        mean, variance = self._posterior(x_0, x_t, t)
        return mean, self._tensor(variance)

    def _posterior(self, x_0, x_t, t):
        _require_match("Schedule.posterior", t, x_0, x_t)
        now, before = self._at(t, 1), self._at(t - 1)
        beta, noise, noise_before = (-_expm1(a) for a in (now - before, now, before))
        of_x_0 = _exp(0.5 * before) * beta / noise
        of_x_t = _exp(0.5 * (now - before)) * noise_before / noise
        return of_x_0 * x_0 + of_x_t * x_t, noise_before / noise * beta


def convert(prediction: Points, x_t: Points, t: Time, schedule: Schedule, given: str, wanted: str) -> Points:
    r"""One of "noise", "data", "score" and "velocity" in x_t from another, for t in [1, T].

    .. math:: x_t = \alpha x_0 + \sigma \varepsilon, \quad \text{score} = -\varepsilon / \sigma, \quad
        \text{velocity} = \alpha \varepsilon - \sigma x_0, \quad \alpha^2 = 1 - \sigma^2 = \bar\alpha_t

    Source: Salimans and Ho (2022), Progressive Distillation for Fast Sampling of Diffusion Models, section 4.
    """
    _require_kinds("convert", given, wanted)
    _require_match("convert", t, x_t, prediction)
    alpha, sigma = _levels(schedule._at(t, 1))
    (a, b), (c, d) = (_parts(kind, alpha, sigma) for kind in (given, wanted))
    determinant = a * sigma - b * alpha  # of the equations for prediction and x_t in x_0 and noise
    return (c * sigma - d * alpha) / determinant * prediction + (a * d - b * c) / determinant * x_t


def ddpm_step(x_t: Points, x_0: Points, t: Time, schedule: Schedule, noise: Points) -> Points:
    r"""x_{t-1} from x_t and an estimate of x_0: a draw of q(x_{t-1} | x_t, x_0), for noise from N(0, I).

    .. math:: x_{t-1} = \tilde\mu_t(x_t, x_0) + \tilde\beta_t^{1/2} \, \varepsilon

    Source: Ho, Jain and Abbeel (2020), algorithm 2, with the second of the two variances of section 3.2.
    """
    _require_match("ddpm_step", t, x_t, noise)
    mean, variance = schedule._posterior(x_0, x_t, t)
    return mean + variance**0.5 * noise


def ddim_step(
    x_t: Points, x_0: Points, t: Time, s: Time, schedule: Schedule, eta: float, noise: Points | None = None
) -> Points:
    r"""x_s from x_t and an estimate of x_0, for s < t; with eta = 1 a draw of q(x_s | x_t, x_0).

    .. math:: x_s = \sqrt{\bar\alpha_s} \, x_0 + \sqrt{1 - \bar\alpha_s - \tau^2} \,
        \frac{x_t - \sqrt{\bar\alpha_t} \, x_0}{\sqrt{1 - \bar\alpha_t}} + \tau \varepsilon, \quad
        \tau = \eta \sqrt{(1 - \bar\alpha_s) (1 - \mathrm{SNR}(t) / \mathrm{SNR}(s))}

    Raises:
        ValueError: if eta is not in [0, 1], s not before t, or there is no noise where eta > 0.

    Source: Song, Meng and Ermon (2021), Denoising Diffusion Implicit Models, equations 12 and 16.
    """
    if not 0 <= eta <= 1 or (eta > 0 and noise is None):
        raise ValueError(f"ddim_step needs eta in [0, 1], and noise unless eta is 0, got {eta} and {noise}.")
    late = s >= t
    if late.any() if isinstance(late, Tensor) else late:
        raise ValueError(f"ddim_step needs s < t, got s = {s} and t = {t}.")
    _require_match("ddim_step", t, x_t, x_0)
    _require_match("ddim_step", s, x_t, x_t if noise is None else noise)
    now, before = schedule._at(t), schedule._at(s)
    (alpha, sigma), (alpha_s, sigma_s) = _levels(now), _levels(before)
    shrinkage = _expm1(-before) / _expm1(-now)  # SNR(t) / SNR(s)
    of_x_t = sigma_s * (1 - eta**2 + eta**2 * shrinkage) ** 0.5 / sigma
    x_s = (alpha_s - of_x_t * alpha) * x_0 + of_x_t * x_t
    return x_s if eta == 0 else x_s + eta * sigma_s * (1 - shrinkage) ** 0.5 * noise


def ideal_denoiser(x_t: Points, t: Time, schedule: Schedule, data: Float[Tensor, "M D"]) -> Points:
    r"""E[x_0 | x_t] where x_0 is one of M points with equal probability, for t in [1, T].

    .. math:: \sum_m w_m x^{(m)}, \quad w_m \propto \exp \left(
        -\frac{|x_t - \sqrt{\bar\alpha_t} \, x^{(m)}|^2}{2 (1 - \bar\alpha_t)} \right)
    """
    require_points(data, x_t.shape[-1], "ideal_denoiser")
    _require_match("ideal_denoiser", t, x_t)
    alpha, sigma = _levels(schedule._at(t, 1))
    distance = torch.cdist(x_t / alpha, data, compute_mode="donot_use_mm_for_euclid_dist")
    return (-0.5 * (alpha / sigma * distance).square()).softmax(-1) @ data


def mixture_denoiser(
    x_t: Points,
    t: Time,
    schedule: Schedule,
    weights: Float[Tensor, " K"],
    means: Float[Tensor, "K D"],
    covariances: Float[Tensor, "K D D"],
) -> Points:
    r"""E[x_0 | x_t] where x_0 is drawn from a mixture of K Gaussians, for t in [0, T].

    .. math:: \sum_k r_k \left( \mu_k + \alpha \Sigma_k S_k^{-1} (x_t - \alpha \mu_k) \right), \quad
        r_k \propto \pi_k \, \mathcal N(x_t; \alpha \mu_k, S_k), \quad S_k = \alpha^2 \Sigma_k + \sigma^2 I

    with alpha and sigma as in `convert`.
    """
    K, D = len(weights), x_t.shape[-1]
    if means.shape != (K, D) or covariances.shape != (K, D, D):
        got = f"{tuple(means.shape)} and {tuple(covariances.shape)}"
        raise ValueError(f"mixture_denoiser needs {K} means and covariances in {D} dimensions, got {got}.")
    _require_match("mixture_denoiser", t, x_t)
    alpha, sigma = (level.unsqueeze(-1) for level in schedule.levels(t))
    values, vectors = torch.linalg.eigh(covariances)  # (K, D) and (K, D, D)
    spread = alpha.square() * values + sigma.square()  # eigenvalues of S
    offset = torch.einsum("nkd,kde->nke", x_t.unsqueeze(1) - alpha * means, vectors)
    log_r = weights.log() - 0.5 * (offset.square() / spread + spread.log()).sum(-1)
    centers = means + torch.einsum("nke,kde->nkd", alpha * values / spread * offset, vectors)
    return torch.einsum("nk,nkd->nd", log_r.softmax(-1), centers)


class _Guided(Trainable, Sampler):
    """A network of points, times in [0, 1] and labels, trained with and without labels at once."""

    def __init__(self, network: nn.Module, classes: int, drop_condition: float):
        super().__init__()
        name = type(self).__name__
        require_networks((network,), name)
        if classes < 0 or network.inputs != network.outputs + classes:
            got = f"{classes} classes, {network.inputs} inputs and {network.outputs} outputs"
            raise ValueError(f"{name} needs a network with inputs for its outputs and classes, got {got}.")
        if not 0 <= drop_condition < 1:
            raise ValueError(f"{name} needs drop_condition in [0, 1), got {drop_condition}.")
        self.network, self.classes, self.drop_condition = network, classes, drop_condition
        self.dim = network.outputs

    def _label(self, x: Points, condition: Int[Tensor, " N"] | None, guidance: float) -> Tensor:
        """One-hot (N, classes); zeros without a condition."""
        name = type(self).__name__
        if condition is None and guidance == 0:
            return x.new_zeros(len(x), self.classes)
        if condition is None:
            raise ValueError(f"{name} needs a condition for guidance {guidance}, got none.")
        if self.classes == 0:
            raise ValueError(f"{name} without classes takes no condition, got one.")
        require_classes(condition, len(x), self.classes, name)
        return F.one_hot(condition, self.classes).to(x)

    def _label_to_learn(self, x: Points, condition: Tensor | None, rng: torch.Generator | None) -> Tensor:
        """The same, where some rows have lost theirs."""
        if condition is None and self.classes > 0:
            raise ValueError(f"{type(self).__name__} needs a condition to learn from, got none.")
        label = self._label(x, condition, 0.0)
        if self.classes == 0:
            return label
        kept = bernoulli(x.new_full((len(x), 1), 1 - self.drop_condition), rng)
        return label * kept

    def _outputs(self, x: Points, time: float | Tensor, label: Tensor, guidance: float) -> Points:
        """(1 + w) f(x, t, c) - w f(x, t), for guidance w."""
        time = torch.as_tensor(time, dtype=x.dtype, device=x.device).expand(len(x))
        outputs = self.network(x, time, label)
        if guidance == 0:
            return outputs
        return (1 + guidance) * outputs - guidance * self.network(x, time, torch.zeros_like(label))

    def _start(self, n: int, rng: torch.Generator | None) -> Points:
        require_count(n, type(self).__name__)
        like = next(chain(self.parameters(), self.buffers()), torch.empty(()))  # a network may have none
        return normal((n, self.dim), rng, like=like)


class Diffusion(_Guided):
    r"""A chain of T small steps from noise to data, which one network guides.

    .. math:: p(x_T) = \mathcal N(0, I), \quad p_\theta(x_{t-1} \mid x_t) = q(x_{t-1} \mid x_t, \hat x_0),
        \quad p_\theta(x_0 \mid x_1) = \mathcal N(\hat x_0, \beta_1 I), \quad
        \hat x_0 = \hat x_0(x_t, t) \text{ by the network}

    `loss` is the mean over rows of |f(x_t, t / T) - y|^2 for one t in each, uniform on 1, ..., T, where y is
    what the network `predicts` of x_t; for the score it is times 1 - alpha_bar_t. It is no bound; `elbo` is.
    Where alpha_bar_T is as small as in the cosine schedule, noise and score say too little about the data.

    Args:
        network: f(x_t, t / T, label) as `gmlib.nn.TimeMLP`, which states its `inputs` and `outputs`.
        schedule: the noise.
        predicts: "noise", "data", "score" or "velocity", as in `convert`.
        classes: number of classes; `condition` is a whole number below it for each row of x.
        drop_condition: probability with which a row loses its condition in training, so that the model
            learns to draw without one, too. Draws with guidance w follow (1 + w) f(x_t, t, c) - w f(x_t, t).

    Raises:
        ValueError: if the widths do not fit together, x is not a finite (N, D) batch, or a time, a label or a
            number of steps is out of range.

    Source: Ho, Jain and Abbeel (2020), Denoising Diffusion Probabilistic Models; Ho and Salimans (2022),
    Classifier-Free Diffusion Guidance. Departs from them: a Gaussian p(x_0 | x_1); draws are its means.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        *,
        predicts: str = "noise",
        classes: int = 0,
        drop_condition: float = 0.1,
    ):
        super().__init__(network, classes, drop_condition)
        _require_kinds("Diffusion", predicts)
        self.schedule, self.predicts = schedule, predicts

    def loss(self, x, condition=None, *, rng=None):
        require_points(x, self.dim, "Diffusion")
        label = self._label_to_learn(x, condition, rng)
        t = 1 + (uniform((len(x),), rng, like=x) * self.schedule.T).long()
        noise = normal(x.shape, rng, like=x)
        alpha, sigma = self.schedule.levels(t)
        x_t = alpha * x + sigma * noise
        of_x, of_noise = _parts(self.predicts, alpha, sigma)
        error = self._predict(x_t, t, label, 0.0) - (of_x * x + of_noise * noise)
        return (sigma * error if self.predicts == "score" else error).square().sum() / len(x)

    def to_data(self, prediction: Points, x_t: Points, t: Time) -> Points:
        """The x_0 that goes with what the network predicts."""
        return convert(prediction, x_t, t, self.schedule, self.predicts, "data")

    def denoise(self, x_t: Points, t: Time, condition: Tensor | None = None, guidance: float = 0.0) -> Points:
        """An estimate of x_0, E[x_0 | x_t] for a perfect network without guidance."""
        require_points(x_t, self.dim, "Diffusion.denoise")
        return self._denoise(x_t, t, self._label(x_t, condition, guidance), guidance)

    def _denoise(self, x_t, t, label, guidance):
        return self.to_data(self._predict(x_t, t, label, guidance), x_t, t)

    def _predict(self, x_t, t, label, guidance):
        t = torch.as_tensor(t, dtype=x_t.dtype, device=x_t.device)
        return self._outputs(x_t, t / self.schedule.T, label, guidance)

    def elbo_terms(
        self, x: Points, condition: Tensor | None = None, *, rng: torch.Generator | None = None
    ) -> Float[Tensor, "N times"]:
        r"""-L_0, ..., -L_T in nats, whose sum is the ELBO; all but the last from one draw of x_t each.

        .. math:: L_0 = -\log p_\theta(x \mid x_1), \quad L_T = \mathrm{KL}(q(x_T \mid x) \,\|\, p(x_T)),
            \quad L_{t-1} = \tfrac12 (\mathrm{SNR}(t - 1) - \mathrm{SNR}(t)) \, |x - \hat x_0(x_t)|^2

        Source: Ho, Jain and Abbeel (2020), equation 5; Kingma, Salimans, Poole and Ho (2021), Variational
        Diffusion Models, equation 14.
        """
        require_points(x, self.dim, "Diffusion")
        label, terms, schedule = self._label(x, condition, 0.0), [], self.schedule
        for t in range(1, schedule.T + 1):
            mean, sigma = schedule.marginal(x, t)
            x_t = mean + sigma * normal(x.shape, rng, like=x)
            square = (x - self._denoise(x_t, t, label, 0.0)).square().sum(-1)
            if t == 1:
                variance = schedule.beta[0]
                terms.append(-0.5 * (square / variance + self.dim * (2 * math.pi * variance).log()))
            else:
                terms.append(-0.5 * (schedule.snr(t - 1) - schedule.snr(t)) * square)
        terms.append(-gaussian_kl_to_standard(mean, sigma.expand_as(mean)))
        return torch.stack(terms, -1)

    def elbo(
        self, x: Points, condition: Tensor | None = None, *, rng: torch.Generator | None = None
    ) -> Float[Tensor, " N"]:
        """Unbiased estimate of a lower bound on log p(x) in nats, at the cost of T calls of the network."""
        return self.elbo_terms(x, condition, rng=rng).sum(-1)

    def trajectory(self, n, condition=None, *, rng=None, steps=None, eta=1.0, guidance=0.0):
        """Yields the steps + 1 states of n draws, from noise to data; arguments as for `sample`."""
        T = self.schedule.T
        steps = T if steps is None else steps
        if not 1 <= steps <= T:
            raise ValueError(f"Diffusion needs steps from 1 to {T}, got {steps}.")
        x = self._start(n, rng)
        label = self._label(x, condition, guidance)
        yield x
        for k in range(steps, 0, -1):
            t, s = T * k // steps, T * (k - 1) // steps
            noise = normal(x.shape, rng, like=x) if eta else None
            with torch.no_grad():
                x = ddim_step(x, self._denoise(x, t, label, guidance), t, s, self.schedule, eta, noise)
            yield x

    def sample(self, n, condition=None, *, rng=None, steps=None, eta=1.0, guidance=0.0):
        """Draws n rows by `ddim_step` through evenly spread times, by default through all T of them.

        With eta = 1 and all times a step is `ddpm_step`; with eta = 0 only the start is random.
        """
        return _last(self.trajectory(n, condition, rng=rng, steps=steps, eta=eta, guidance=guidance))

    def log_prob_ode(self, x: Points, condition: Tensor | None = None, rtol: float = 1e-4) -> Rows:
        r"""log p(x_1) in nats under the probability-flow ODE, which DDIM with eta = 0 takes steps of.

        .. math:: \frac{dx}{d\phi} = v(x, t), \quad \cos^2 \phi = \bar\alpha_t, \quad \log p(x_1) = \log
            \mathcal N(x_T; 0, I) + \int_{\phi_1}^{\phi_T} \operatorname{tr}(\partial v / \partial x) \, d\phi

        v is the velocity of `convert`, and x_1 the data with the noise of the first step.

        Source: Song, Sohl-Dickstein, Kingma, Kumar, Ermon and Poole (2021), Score-Based Generative Modeling
        through Stochastic Differential Equations, section 4.3; Salimans and Ho (2022), appendix D, for phi.
        """
        require_points(x, self.dim, "Diffusion.log_prob_ode")
        label, schedule = self._label(x, condition, 0.0), self.schedule
        start, end = (schedule.levels(t)[0].acos().item() for t in (1, schedule.T))

        def velocity(phi, x):
            # the solver looks ahead of the end
            t = schedule.when(2 * phi.clamp(start, end).cos().log()).clamp(1, schedule.T)
            return convert(self._predict(x, t, label, 0.0), x, t, schedule, self.predicts, "velocity")

        z, ladj = transport(velocity, x, start, end, rtol)
        return _log_normal(z) + ladj


class FlowMatching(_Guided):
    r"""A velocity field that carries noise (t = 0) to data (t = 1), against the direction of `Diffusion`.

    .. math:: \frac{dx}{dt} = v(x, t), \quad \text{loss} = \frac1N \sum_{n=1}^N |v(x_t, t) - (x_1 - x_0)|^2,
        \quad x_t = (1 - t) x_0 + t x_1, \quad x_0 \sim \mathcal N(0, I), \quad t \sim U(0, 1)

    with data x_1. The loss is in the squared unit of x, and above 0 at the best v, E[x_1 - x_0 | x_t].

    Args:
        network: v(x_t, t, label) as `gmlib.nn.TimeMLP`, which states its `inputs` and `outputs`.
        classes, drop_condition: as for `Diffusion`.

    Raises:
        ValueError: as `Diffusion`.

    Source: Lipman, Chen, Ben-Hamu, Nickel and Le (2023), Flow Matching for Generative Modeling, section 4.1,
    with sigma_min = 0; Liu, Gong and Liu (2023), Flow Straight and Fast, equation 1.
    """

    def __init__(self, network: nn.Module, *, classes: int = 0, drop_condition: float = 0.1):
        super().__init__(network, classes, drop_condition)

    def loss(self, x, condition=None, *, rng=None):
        require_points(x, self.dim, "FlowMatching")
        t, x_t, v = self.path(x, rng=rng)
        label = self._label_to_learn(x, condition, rng)
        return F.mse_loss(self._outputs(x_t, t, label, 0.0), v, reduction="sum") / len(x)

    def path(self, x: Points, *, rng: torch.Generator | None = None) -> tuple[Rows, Points, Points]:
        """What there is to learn from: t, x_t and the velocity x_1 - x_0, for each row one line to data x."""
        require_batch(x, self.dim, "FlowMatching.path")
        t = uniform((len(x),), rng, like=x)
        noise = normal(x.shape, rng, like=x)
        return t, torch.lerp(noise, x, t.unsqueeze(-1)), x - noise

    def velocity(self, x: Points, t: Time, condition: Tensor | None = None, guidance: float = 0.0) -> Points:
        """v(x, t), for t in [0, 1]."""
        require_points(x, self.dim, "FlowMatching.velocity")
        _require_match("FlowMatching.velocity", t, x)
        if not ((torch.as_tensor(t) >= 0) & (torch.as_tensor(t) <= 1)).all():
            raise ValueError(f"FlowMatching needs times from 0 to 1, got {t}.")
        return self._outputs(x, t, self._label(x, condition, guidance), guidance)

    def trajectory(self, n, condition=None, *, rng=None, steps=50, order=2, guidance=0.0):
        """Yields the steps + 1 states of n draws, from noise to data; arguments as for `sample`."""
        if steps < 1 or order not in (1, 2):
            raise ValueError(f"FlowMatching needs steps >= 1 and order 1 or 2, got {steps} and {order}.")
        x = self._start(n, rng)
        label = self._label(x, condition, guidance)
        yield x
        for k in range(steps):
            with torch.no_grad():
                v = self._outputs(x, k / steps, label, guidance)
                if order == 2:
                    v = 0.5 * (v + self._outputs(x + v / steps, (k + 1) / steps, label, guidance))
            x = x + v / steps
            yield x

    def sample(self, n, condition=None, *, rng=None, steps=50, order=2, guidance=0.0):
        """Draws n rows in steps of equal length, of Euler's method (order 1) or Heun's (order 2)."""
        return _last(self.trajectory(n, condition, rng=rng, steps=steps, order=order, guidance=guidance))

    def log_prob_ode(self, x: Points, condition: Tensor | None = None, rtol: float = 1e-4) -> Rows:
        """log p(x) in nats, up to the solver's error."""
        require_points(x, self.dim, "FlowMatching.log_prob_ode")
        label = self._label(x, condition, 0.0)
        z, ladj = transport(lambda t, x: self._outputs(x, t, label, 0.0), x, 1.0, 0.0, rtol)
        return _log_normal(z) + ladj


def _last(states):
    return deque(states, maxlen=1).pop()


def _exp(a: float | Tensor) -> float | Tensor:
    return a.exp() if isinstance(a, Tensor) else math.exp(a)


def _expm1(a: float | Tensor) -> float | Tensor:
    return a.expm1() if isinstance(a, Tensor) else math.expm1(a)


def _levels(log_alpha_bar: float | Tensor) -> tuple:
    return _exp(0.5 * log_alpha_bar), (-_expm1(log_alpha_bar)) ** 0.5


def _parts(kind: str, alpha: float | Tensor, sigma: float | Tensor) -> tuple:
    """The factors of x_0 and of the noise in what a network may predict."""
    return {"noise": (0, 1), "data": (1, 0), "score": (0, -1 / sigma), "velocity": (-sigma, alpha)}[kind]


def _log_normal(z: Points) -> Rows:
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)


def _require_kinds(name: str, *kinds: str) -> None:
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"{name} needs one of {KINDS}, got {kind!r}.")


def _require_match(name: str, t: Time, *points: Tensor) -> None:
    shapes = {tuple(x.shape) for x in points}
    if (
        len(shapes) != 1
        or points[0].ndim != 2
        or (isinstance(t, Tensor) and t.shape not in ((), points[0].shape[:1]))
    ):
        raise ValueError(f"{name} needs points (N, D) of one shape and one time or N, got {shapes} and {t}.")
