"""Noise step by step, and the way back: schedules, diffusion models, their samplers, and flow matching."""

import math
from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from gmlib.base import Sampler, Trainable, require_count, require_networks, require_points
from gmlib.divergences import gaussian_kl_to_standard
from gmlib.nn import bernoulli, normal, uniform
from gmlib.ode import transport

Time = int | float | Tensor  # one for all rows, or a tensor (N,) with one for each
Kind = Literal["noise", "data", "score", "velocity"]
KINDS = ("noise", "data", "score", "velocity")


class Schedule(nn.Module):
    r"""How much of the data is left, and how much noise there is, at times t = 0, ..., T.

    .. math:: \bar\alpha_t = \prod_{s=1}^t (1 - \beta_s), \quad \bar\alpha_0 = 1, \quad
        q(x_t \mid x_0) = \mathcal N(\sqrt{\bar\alpha_t} \, x_0, (1 - \bar\alpha_t) I)

    It keeps log alpha_bar, which loses no digits where alpha_bar is close to 1 or to 0, and has the dtype of
    beta. A time is a number for all rows, or a tensor (N,); at times that are not whole, log alpha_bar is
    linear in between.

    Args:
        beta: the variances of the noise that the steps 1, ..., T add, in (0, 1).

    Raises:
        ValueError: if beta is no such tensor, or a time not in 0, ..., T.

    Source: Ho, Jain and Abbeel (2020), Denoising Diffusion Probabilistic Models, section 2.
    """

    def __init__(self, beta: Float[Tensor, " T"]):
        super().__init__()
        if beta.ndim != 1 or len(beta) < 1 or not ((beta > 0) & (beta < 1)).all():
            raise ValueError(f"Schedule needs T >= 1 numbers beta in (0, 1), got {beta}.")
        log_alpha_bar = torch.log1p(-beta.double()).cumsum(0)
        self.register_buffer("log_alpha_bar", F.pad(log_alpha_bar, (1, 0)).to(beta))
        self.T = len(beta)

    @classmethod
    def linear(cls, T: int) -> "Schedule":
        """beta rises evenly from 1e-4 to 0.02, both times 1000 / T: Ho, Jain and Abbeel (2020), section 4."""
        beta = torch.linspace(1e-4, 0.02, T, dtype=torch.float64) * (1000 / T)
        return cls(beta.to(torch.get_default_dtype()))

    @classmethod
    def cosine(cls, T: int) -> "Schedule":
        r"""alpha_bar as a squared cosine, beta at most 0.999.

        .. math:: \bar\alpha_t = f(t) / f(0), \quad f(t) = \cos^2 \frac{\pi}{2} \frac{t / T + 0.008}{1.008}

        Source: Nichol and Dhariwal (2021), Improved Denoising Diffusion Probabilistic Models, equation 17.
        """
        t = torch.arange(T + 1, dtype=torch.float64)
        f = ((t / T + 0.008) / 1.008 * (math.pi / 2)).cos().square()
        return cls((1 - f[1:] / f[:-1]).clamp(max=0.999).to(torch.get_default_dtype()))

    @property
    def alpha_bar(self) -> Float[Tensor, " T_1"]:
        """alpha_bar at the times 0, ..., T, so that alpha_bar[t] belongs to t."""
        return self.log_alpha_bar.exp()

    @property
    def beta(self) -> Float[Tensor, " T"]:
        """beta of the steps 1, ..., T, so that beta[t - 1] belongs to t."""
        return -torch.expm1(self.log_alpha_bar.diff())

    def at(self, t: Time, least: int = 0) -> Float[Tensor, "..."]:
        """log alpha_bar at the time t, which is in [least, T]: a number, or (N, 1) for times (N,)."""
        if isinstance(t, int):
            if not least <= t <= self.T:
                raise ValueError(f"Schedule needs times from {least} to {self.T}, got {t}.")
            return self.log_alpha_bar[t]
        t = torch.as_tensor(t, device=self.log_alpha_bar.device)
        if t.ndim > 1 or t.numel() == 0 or not ((t >= least) & (t <= self.T)).all():
            raise ValueError(f"Schedule needs times () or (N,) from {least} to {self.T}, got {t}.")
        k = t.long().clamp(max=self.T - 1)
        low, high = self.log_alpha_bar[k], self.log_alpha_bar[k + 1]
        value = torch.lerp(low, high, (t - k).to(low))
        return value.unsqueeze(-1) if t.ndim else value

    def time(self, log_alpha_bar: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The time, whole or not, at which log alpha_bar has this value."""
        k = (torch.searchsorted(-self.log_alpha_bar, -log_alpha_bar) - 1).clamp(0, self.T - 1)
        low, high = self.log_alpha_bar[k], self.log_alpha_bar[k + 1]
        return k + (log_alpha_bar - low) / (high - low)

    def levels(self, t: Time, least: int = 0) -> tuple[Tensor, Tensor]:
        """The factors of data and noise in x_t: alpha = sqrt(alpha_bar) and sigma = sqrt(1 - alpha_bar)."""
        log_alpha_bar = self.at(t, least)
        return (0.5 * log_alpha_bar).exp(), (-torch.expm1(log_alpha_bar)).sqrt()

    def snr(self, t: Time) -> Float[Tensor, "..."]:
        """The signal-to-noise ratio alpha_bar / (1 - alpha_bar), infinite at t = 0."""
        return 1 / torch.expm1(-self.at(t))

    def marginal(
        self, x_0: Float[Tensor, "N D"], t: Time
    ) -> tuple[Float[Tensor, "N D"], Float[Tensor, "..."]]:
        """Mean and standard deviation of q(x_t | x_0)."""
        alpha, sigma = self.levels(t)
        return alpha * x_0, sigma

    def posterior(
        self, x_0: Float[Tensor, "N D"], x_t: Float[Tensor, "N D"], t: int | Int[Tensor, "..."]
    ) -> tuple[Float[Tensor, "N D"], Float[Tensor, "..."]]:
        r"""Mean and variance of q(x_{t-1} | x_t, x_0), for t >= 1.

        .. math:: \tilde\mu_t = \frac{\sqrt{\bar\alpha_{t-1}} \, \beta_t}{1 - \bar\alpha_t} x_0
            + \frac{\sqrt{1 - \beta_t} \, (1 - \bar\alpha_{t-1})}{1 - \bar\alpha_t} x_t, \quad
            \tilde\beta_t = \frac{1 - \bar\alpha_{t-1}}{1 - \bar\alpha_t} \beta_t

        Source: Ho, Jain and Abbeel (2020), equations 6 and 7.
        """
        now, before = self.at(t, 1), self.at(t - 1)
        beta, noise, noise_before = (-torch.expm1(a) for a in (now - before, now, before))
        mean = (0.5 * before).exp() * beta / noise * x_0
        mean = mean + (0.5 * (now - before)).exp() * noise_before / noise * x_t
        return mean, noise_before / noise * beta


def convert(
    prediction: Float[Tensor, "N D"],
    x_t: Float[Tensor, "N D"],
    t: Time,
    schedule: Schedule,
    given: Kind,
    wanted: Kind,
) -> Float[Tensor, "N D"]:
    r"""One of noise, data, score and velocity from another, at a time t in [1, T].

    .. math:: x_t = \alpha x_0 + \sigma \varepsilon, \quad \text{score} = -\varepsilon / \sigma, \quad
        v = \alpha \varepsilon - \sigma x_0, \quad \alpha = \sqrt{\bar\alpha_t}, \quad
        \sigma = \sqrt{1 - \bar\alpha_t}

    Raises:
        ValueError: if a kind is none of the four, or t not in [1, T].

    Source: Salimans and Ho (2022), Progressive Distillation for Fast Sampling of Diffusion Models, section 4.
    """
    for kind in (given, wanted):
        _require_kind(kind, "convert")
    alpha, sigma = schedule.levels(t, 1)
    if given == wanted:
        return prediction
    if given == "velocity":
        x_0, noise = alpha * x_t - sigma * prediction, sigma * x_t + alpha * prediction
    elif given == "data":
        x_0, noise = prediction, (x_t - alpha * prediction) / sigma
    else:
        noise = prediction if given == "noise" else -sigma * prediction
        x_0 = (x_t - sigma * noise) / alpha
    if wanted == "velocity":
        return alpha * noise - sigma * x_0
    return {"data": x_0, "noise": noise, "score": -noise / sigma}[wanted]


def ddpm_step(
    x_t: Float[Tensor, "N D"],
    x_0: Float[Tensor, "N D"],
    t: int | Int[Tensor, "..."],
    schedule: Schedule,
    noise: Float[Tensor, "N D"],
) -> Float[Tensor, "N D"]:
    r"""x_{t-1} from x_t and an estimate of x_0, by the mean and the variance of q(x_{t-1} | x_t, x_0).

    .. math:: x_{t-1} = \tilde\mu_t(x_t, x_0) + \sqrt{\tilde\beta_t} \, \varepsilon

    Source: Ho, Jain and Abbeel (2020), algorithm 2. Departs from it: of its two variances, the smaller one.
    """
    mean, variance = schedule.posterior(x_0, x_t, t)
    return mean + variance.sqrt() * noise


def ddim_step(
    x_t: Float[Tensor, "N D"],
    x_0: Float[Tensor, "N D"],
    t: Time,
    s: Time,
    schedule: Schedule,
    eta: float,
    noise: Float[Tensor, "N D"] | None = None,
) -> Float[Tensor, "N D"]:
    r"""x_s from x_t and an estimate of x_0, for an earlier time s < t.

    .. math:: x_s = \sqrt{\bar\alpha_s} \, x_0 + \sqrt{1 - \bar\alpha_s - \tau^2} \, \hat\varepsilon + \tau \varepsilon,
        \quad \hat\varepsilon = \frac{x_t - \sqrt{\bar\alpha_t} \, x_0}{\sqrt{1 - \bar\alpha_t}}, \quad
        \tau^2 = \eta^2 \frac{1 - \bar\alpha_s}{1 - \bar\alpha_t} \left(1 - \frac{\bar\alpha_t}{\bar\alpha_s} \right)

    With eta = 1 it draws from q(x_s | x_t, x_0); with eta = 0 it reads no noise.

    Raises:
        ValueError: if eta is not in [0, 1], s not before t, or noise is needed and missing.

    Source: Song, Meng and Ermon (2021), Denoising Diffusion Implicit Models, equations 12 and 16.
    """
    if not 0 <= eta <= 1 or (eta > 0 and noise is None):
        raise ValueError(f"ddim_step needs eta in [0, 1], and noise if it is not 0, got {eta} and {noise}.")
    if not torch.all(torch.as_tensor(s) < torch.as_tensor(t)):
        raise ValueError(f"ddim_step needs a time s < t, got {s} and {t}.")
    before, now = schedule.at(s), schedule.at(t, 1)
    variance = -torch.expm1(before)
    ratio = torch.expm1(-before) / torch.expm1(-now)  # SNR(t) / SNR(s) = 1 - tau^2 / variance at eta = 1
    eps = (x_t - (0.5 * now).exp() * x_0) * (-torch.expm1(now)).rsqrt()
    x_s = (0.5 * before).exp() * x_0 + (variance * (1 - eta**2 + eta**2 * ratio)).sqrt() * eps
    return x_s if eta == 0 else x_s + eta * (variance * (1 - ratio)).sqrt() * noise


def ideal_denoiser(
    x_t: Float[Tensor, "N D"], t: Time, schedule: Schedule, data: Float[Tensor, "M D"]
) -> Float[Tensor, "N D"]:
    r"""E[x_0 | x_t] where x_0 is one of M points with equal probability, for t in [1, T].

    .. math:: \sum_m w_m x^{(m)}, \quad
        w \propto \exp \left( -\frac{|x_t - \sqrt{\bar\alpha_t} \, x^{(m)}|^2}{2 (1 - \bar\alpha_t)} \right)
    """
    alpha, sigma = schedule.levels(t, 1)
    distance = (x_t.unsqueeze(1) - alpha.unsqueeze(-1) * data).square().sum(-1)
    return (-0.5 * distance / sigma.square()).softmax(-1) @ data


def mixture_denoiser(
    x_t: Float[Tensor, "N D"],
    t: Time,
    schedule: Schedule,
    weights: Float[Tensor, " K"],
    means: Float[Tensor, "K D"],
    covariances: Float[Tensor, "K D D"],
) -> Float[Tensor, "N D"]:
    r"""E[x_0 | x_t] where x_0 is drawn from a mixture of Gaussians, for t in [0, T].

    .. math:: \sum_k r_k \left( \mu_k + \alpha \Sigma_k S_k^{-1} (x_t - \alpha \mu_k) \right), \quad
        r_k \propto \pi_k \, \mathcal N(x_t; \alpha \mu_k, S_k), \quad S_k = \alpha^2 \Sigma_k + \sigma^2 I

    with alpha and sigma as in `convert`.
    """
    alpha, sigma = (level.unsqueeze(-1) for level in schedule.levels(t))
    values, vectors = torch.linalg.eigh(covariances)  # (K, D), (K, D, D)
    spread = alpha.square() * values + sigma.square()  # eigenvalues of S, (N, K, D) or (1, K, D)
    offset = torch.einsum("nkd,kde->nke", x_t.unsqueeze(1) - alpha * means, vectors)
    log_r = weights.log() - 0.5 * (offset.square() / spread + spread.log()).sum(-1)
    means = means + torch.einsum("nke,kde->nkd", alpha * values / spread * offset, vectors)
    return (log_r.softmax(-1).unsqueeze(-1) * means).sum(1)


class _Guided(Trainable, Sampler):
    """A network of points, times and labels, which learns with and without the labels at once."""

    def __init__(self, network: nn.Module, classes: int, drop_condition: float):
        super().__init__()
        require_networks((network,), type(self).__name__)
        if classes < 0 or network.inputs != network.outputs + classes:
            raise ValueError(
                f"{type(self).__name__} needs a network with {network.outputs + classes} inputs for "
                f"{network.outputs} outputs and {classes} classes, got {network.inputs}."
            )
        if not 0 <= drop_condition < 1:
            raise ValueError(f"{type(self).__name__} needs drop_condition in [0, 1), got {drop_condition}.")
        self.network, self.classes, self.drop_condition = network, classes, drop_condition
        self.dim = network.outputs

    def _label(self, x: Float[Tensor, "N D"], condition: Int[Tensor, " N"] | None) -> Float[Tensor, "N K"]:
        """One-hot, or zeros where there is no condition."""
        if condition is None:
            return x.new_zeros(len(x), self.classes)
        name = type(self).__name__
        if self.classes == 0:
            raise ValueError(f"{name} takes no condition, got one.")
        if condition.shape != x.shape[:1] or condition.is_floating_point():
            raise ValueError(f"{name} needs one whole class for each of {len(x)} rows, got {condition}.")
        if condition.min() < 0 or condition.max() >= self.classes:
            raise ValueError(f"{name} needs whole classes from 0 to {self.classes - 1}, got {condition}.")
        return F.one_hot(condition, self.classes).to(x)

    def _label_in_training(self, x, condition, rng):
        """Labels, each of which is dropped with some probability."""
        if self.classes and condition is None:
            raise ValueError(f"{type(self).__name__} needs conditions to learn from, got none.")
        label = self._label(x, condition)
        if self.classes and self.drop_condition:
            kept = bernoulli(x.new_full((len(x), 1), 1 - self.drop_condition), rng)
            label = label * kept
        return label

    def _guided(self, x, time, condition, guidance):
        r"""(1 + w) f(x, t, c) - w f(x, t), for guidance w."""
        if guidance and condition is None:
            raise ValueError(f"{type(self).__name__} needs a condition for guidance {guidance}, got none.")
        label = self._label(x, condition)
        time = torch.as_tensor(time).to(x).expand(len(x))
        outputs = self.network(x, time, label)
        if guidance == 0:
            return outputs
        return (1 + guidance) * outputs - guidance * self.network(x, time, torch.zeros_like(label))

    def _noise(self, n, rng):
        require_count(n, type(self).__name__)
        return normal((n, self.dim), rng, like=next(self.network.parameters()))


class Diffusion(_Guided):
    r"""A chain of T denoising steps from noise to data, which one network guides.

    .. math:: p(x_T) = \mathcal N(0, I), \quad p_\theta(x_{t-1} \mid x_t) = q(x_{t-1} \mid x_t, \hat x_0(x_t, t)),
        \quad p_\theta(x_0 \mid x_1) = \mathcal N(\hat x_0(x_1, 1), \beta_1 I)

    with q as in `Schedule.posterior`. `loss` is the mean over rows of |f(x_t, t) - y|^2 at one t for each
    row, uniform on 1, ..., T, where y is the noise, the data, the score or the velocity in x_t; for the score
    it is multiplied by 1 - alpha_bar, and then that of the noise. It is no bound; `elbo` is. Where alpha_bar_T
    is close to 0, as in the cosine schedule, "data" or "velocity" should be predicted, since the noise says
    nothing about x_0 there.

    Args:
        network: f(x_t, t / T, label) -> (N, D), as `gmlib.nn.TimeMLP`, which states its `inputs` and `outputs`.
        schedule: the noise.
        predicts: what the network's outputs mean.
        classes: number of classes; `condition` is a whole number below it for each row of x.
        drop_condition: with which probability a row's condition is dropped in training; without a condition,
            a trained model draws from all classes.

    Guidance w makes predictions (1 + w) f(x_t, t, c) - w f(x_t, t).

    Raises:
        ValueError: if the widths do not fit together, x is not a finite (N, D) batch, or a time, a label or a
            number of steps is out of range.

    Source: Ho, Jain and Abbeel (2020), Denoising Diffusion Probabilistic Models; Ho and Salimans (2021),
    Classifier-Free Diffusion Guidance. Departs from them: a Gaussian p(x_0 | x_1), whose mean is the draw.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        *,
        predicts: Kind = "noise",
        classes: int = 0,
        drop_condition: float = 0.1,
    ):
        super().__init__(network, classes, drop_condition)
        _require_kind(predicts, "Diffusion")
        self.schedule, self.predicts = schedule, predicts

    def loss(self, x, condition=None, *, rng=None):
        require_points(x, self.dim, "Diffusion")
        label = self._label_in_training(x, condition, rng)
        t = 1 + (uniform((len(x),), rng, like=x) * self.schedule.T).long()
        noise = normal(x.shape, rng, like=x)
        alpha, sigma = self.schedule.levels(t)
        x_t = alpha * x + sigma * noise
        error = self.network(x_t, t.to(x) / self.schedule.T, label)
        error = error - convert(noise, x_t, t, self.schedule, "noise", self.predicts)
        if self.predicts == "score":
            error = sigma * error
        return error.square().sum(-1).mean()

    def to_data(self, prediction: Tensor, x_t: Tensor, t: Time) -> Float[Tensor, "N D"]:
        """The x_0 that goes with what the network has predicted."""
        return convert(prediction, x_t, t, self.schedule, self.predicts, "data")

    def denoise(
        self, x_t: Float[Tensor, "N D"], t: Time, condition: Tensor | None = None, guidance: float = 0.0
    ) -> Float[Tensor, "N D"]:
        """The estimate of x_0, E[x_0 | x_t] where the network is perfect."""
        require_points(x_t, self.dim, "Diffusion.denoise")
        return self.to_data(self._guided(x_t, t / self.schedule.T, condition, guidance), x_t, t)

    def elbo_terms(
        self, x: Float[Tensor, "N D"], condition: Tensor | None = None, *, rng: torch.Generator | None = None
    ) -> Float[Tensor, "N T_1"]:
        r"""Terms of the bound, in nats: -L_0, ..., -L_T, each but the last from one draw of x_t.

        .. math:: L_0 = -\log p_\theta(x \mid x_1), \quad
            L_{t-1} = \tfrac12 (\mathrm{SNR}(t - 1) - \mathrm{SNR}(t)) \, |x - \hat x_0(x_t, t)|^2, \quad
            L_T = \mathrm{KL}(q(x_T \mid x) \,\|\, \mathcal N(0, I))
        """
        require_points(x, self.dim, "Diffusion")
        schedule, T = self.schedule, self.schedule.T
        terms = []
        for t in range(1, T + 1):
            mean, sigma = schedule.marginal(x, t)
            x_t = mean + sigma * normal(x.shape, rng, like=x)
            square = (x - self.denoise(x_t, t, condition)).square().sum(-1)
            if t == 1:
                variance = schedule.beta[0]
                terms.append(-0.5 * (square / variance + self.dim * (2 * math.pi * variance).log()))
            else:
                terms.append(-0.5 * (schedule.snr(t - 1) - schedule.snr(t)) * square)
        mean, sigma = schedule.marginal(x, T)
        return torch.stack([*terms, -gaussian_kl_to_standard(mean, sigma.expand_as(mean))], -1)

    def elbo(
        self, x: Float[Tensor, "N D"], condition: Tensor | None = None, *, rng: torch.Generator | None = None
    ) -> Float[Tensor, " N"]:
        """Unbiased estimate of a lower bound on log p(x), in nats; it takes T calls of the network."""
        return self.elbo_terms(x, condition, rng=rng).sum(-1)

    @torch.no_grad()
    def trajectory(
        self,
        n: int,
        condition: Tensor | None = None,
        *,
        rng: torch.Generator | None = None,
        steps: int | None = None,
        eta: float = 1.0,
        guidance: float = 0.0,
    ) -> Iterator[Float[Tensor, "n D"]]:
        """The states of n draws on their way from noise to data, steps + 1 of them."""
        T = self.schedule.T
        steps = T if steps is None else steps
        if not 1 <= steps <= T:
            raise ValueError(f"Diffusion needs steps from 1 to {T}, got {steps}.")
        x = self._noise(n, rng)
        yield x
        for k in range(steps, 0, -1):
            t, s = T * k // steps, T * (k - 1) // steps
            x_0 = self.denoise(x, t, condition, guidance)
            noise = normal(x.shape, rng, like=x) if eta and s else torch.zeros_like(x)
            x = ddim_step(x, x_0, t, s, self.schedule, eta, noise)
            yield x

    def sample(
        self,
        n,
        condition=None,
        *,
        rng=None,
        steps: int | None = None,
        eta: float = 1.0,
        guidance: float = 0.0,
    ):
        """Draws n rows in some steps, by default T, with evenly spread times.

        With eta = 1 steps are those of `ddpm_step`, over longer times if they are fewer; with eta = 0 nothing
        is random but the start.
        """
        for x in self.trajectory(n, condition, rng=rng, steps=steps, eta=eta, guidance=guidance):
            pass
        return x

    def log_prob_ode(
        self, x: Float[Tensor, "N D"], condition: Tensor | None = None, rtol: float = 1e-4
    ) -> Float[Tensor, " N"]:
        r"""log p(x_1) in nats of the draws of the probability-flow ODE, up to the solver's error.

        .. math:: \frac{dx}{d\phi} = v(x, t), \quad \cos^2 \phi = \bar\alpha_t, \quad \log p(x_1)
            = \log \mathcal N(x_T; 0, I) + \int_{\phi_1}^{\phi_T} \operatorname{tr} \frac{\partial v}{\partial x} \, d\phi

        It is that of DDIM with eta = 0 and small steps. x_1 is the data with the noise of the first step.

        Source: Song, Sohl-Dickstein, Kingma, Kumar, Ermon and Poole (2021), Score-Based Generative Modeling
        through Stochastic Differential Equations, section 4.3; Salimans and Ho (2022), appendix D, for phi.
        """
        require_points(x, self.dim, "Diffusion.log_prob_ode")
        schedule = self.schedule

        def velocity(phi, x):
            phi = phi.clamp(start, end)  # the solver looks ahead
            t = schedule.time(2 * phi.cos().log()).clamp(1, schedule.T)
            prediction = self._guided(x, t / schedule.T, condition, 0.0)
            return convert(prediction, x, t, schedule, self.predicts, "velocity")

        start, end = (schedule.levels(t)[0].acos().item() for t in (1, schedule.T))
        z, ladj = transport(velocity, x, start, end, rtol)
        return _log_normal(z) + ladj


class FlowMatching(_Guided):
    r"""A velocity field that carries noise (t = 0) to data (t = 1) along lines that are straight on average.

    .. math:: \frac{dx}{dt} = v(x, t), \quad x_t = (1 - t) x_0 + t x_1, \quad x_0 \sim \mathcal N(0, I), \quad
        \text{loss} = \frac1N \sum_{n=1}^N |v(x_t, t) - (x_1 - x_0)|^2, \quad t \sim U(0, 1)

    where x_1 is the data, against the direction of `Diffusion`. The loss is in the squared unit of x, and not
    zero at the best v, the mean of x_1 - x_0 given x_t.

    Args:
        network: v(x_t, t, label) -> (N, D), as `gmlib.nn.TimeMLP`, which states its `inputs` and `outputs`.
        classes, drop_condition: as for `Diffusion`.

    Raises:
        ValueError: as `Diffusion`.

    Source: Lipman, Chen, Ben-Hamu, Nickel and Le (2023), Flow Matching for Generative Modeling, section 4, with
    sigma_min = 0; Liu, Gong and Liu (2023), Flow Straight and Fast, equation 1.
    """

    def __init__(self, network: nn.Module, *, classes: int = 0, drop_condition: float = 0.1):
        super().__init__(network, classes, drop_condition)

    def loss(self, x, condition=None, *, rng=None):
        require_points(x, self.dim, "FlowMatching")
        label = self._label_in_training(x, condition, rng)
        t = uniform((len(x),), rng, like=x)
        noise = normal(x.shape, rng, like=x)
        x_t = torch.lerp(noise, x, t.unsqueeze(-1))
        return (self.network(x_t, t, label) - (x - noise)).square().sum(-1).mean()

    def velocity(
        self,
        x: Float[Tensor, "N D"],
        t: float | Tensor,
        condition: Tensor | None = None,
        guidance: float = 0.0,
    ) -> Float[Tensor, "N D"]:
        """v(x, t), for t in [0, 1]."""
        require_points(x, self.dim, "FlowMatching.velocity")
        if not ((torch.as_tensor(t) >= 0) & (torch.as_tensor(t) <= 1)).all():
            raise ValueError(f"FlowMatching needs times from 0 to 1, got {t}.")
        return self._guided(x, t, condition, guidance)

    @torch.no_grad()
    def trajectory(
        self,
        n: int,
        condition: Tensor | None = None,
        *,
        rng: torch.Generator | None = None,
        steps: int = 50,
        order: int = 2,
        guidance: float = 0.0,
    ) -> Iterator[Float[Tensor, "n D"]]:
        """The states of n draws on their way from noise to data, steps + 1 of them."""
        if steps < 1 or order not in (1, 2):
            raise ValueError(f"FlowMatching needs steps >= 1 and order 1 or 2, got {steps} and {order}.")
        x = self._noise(n, rng)
        yield x
        for k in range(steps):
            v = self.velocity(x, k / steps, condition, guidance)
            if order == 2:
                v = 0.5 * (v + self.velocity(x + v / steps, (k + 1) / steps, condition, guidance))
            x = x + v / steps
            yield x

    def sample(self, n, condition=None, *, rng=None, steps: int = 50, order: int = 2, guidance: float = 0.0):
        """Draws n rows by steps of equal length, of Euler's method (order 1) or Heun's (order 2)."""
        for x in self.trajectory(n, condition, rng=rng, steps=steps, order=order, guidance=guidance):
            pass
        return x

    def log_prob_ode(
        self, x: Float[Tensor, "N D"], condition: Tensor | None = None, rtol: float = 1e-4
    ) -> Float[Tensor, " N"]:
        """log p(x) in nats, up to the solver's error."""
        require_points(x, self.dim, "FlowMatching.log_prob_ode")
        z, ladj = transport(lambda t, x: self._guided(x, t, condition, 0.0), x, 1.0, 0.0, rtol)
        return _log_normal(z) + ladj


def _log_normal(z: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)


def _require_kind(kind: str, name: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"{name} needs one of {KINDS}, got {kind!r}.")
