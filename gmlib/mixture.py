"""Mixtures: one latent variable with K values. The evidence is a sum, the posterior exact; EM fits them."""

import math
from abc import abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from gmlib.base import Density, require_count, require_levels, require_no_condition, require_points
from gmlib.nn import bernoulli, categorical, normal

COVARIANCES = ("full", "diagonal", "spherical", "tied")


class _Mixture(Density):
    r"""K components, of which a hidden z chooses one for each x.

    .. math:: \log p(x) = \log \sum_{k=1}^K \exp \left( \log \pi_k + \log p(x \mid z = k) \right),
        \quad \log \pi = \operatorname{log\,softmax}(\text{logits})
    """

    def __init__(self, dim: int, components: int):
        super().__init__()
        if min(dim, components) < 1:
            raise ValueError(
                f"{type(self).__name__} needs dim >= 1 and components >= 1, got dim {dim} and "
                f"components {components}."
            )
        self.dim, self.components = dim, components
        self.logits = nn.Parameter(torch.zeros(components))

    @abstractmethod
    def _log_components(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "K N"]:
        """log p(x | z = k) in nats."""

    @abstractmethod
    def _draw(self, k: Int[Tensor, " n"], rng: torch.Generator | None) -> Float[Tensor, "n D"]:
        """Draws x from p(x | z = k)."""

    @abstractmethod
    def maximize(self, x: Float[Tensor, "N D"], r: Float[Tensor, "N K"], floor: float = 1e-6) -> None:
        """Sets the parameters to their best, given responsibilities: the M step."""

    @property
    def log_pi(self) -> Float[Tensor, " K"]:
        """The logarithm of the weights."""
        return torch.log_softmax(self.logits, 0)

    def _require_values(self, x: Float[Tensor, "N D"]) -> None:
        require_points(x, self.dim, type(self).__name__)

    def log_joint(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N K"]:
        """log p(x, z = k) in nats."""
        self._require_values(x)
        return (self._log_components(x) + self.log_pi[:, None]).T

    def log_prob(self, x):
        """log p(x) in nats, exact."""
        return self.log_joint(x).logsumexp(-1)

    def responsibilities(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N K"]:
        """p(z = k | x), the posterior; rows sum to 1."""
        return _posterior(self.log_joint(x))

    @torch.no_grad()
    def sample(self, n, condition=None, *, rng=None):
        require_count(n, type(self).__name__)
        require_no_condition(condition, type(self).__name__)
        return self._draw(categorical(self.log_pi.expand(n, -1), rng), rng)

    def _weigh(self, x, r, floor: float, pseudo_count: float) -> Float[Tensor, " K"]:
        """How many rows each component owns, and a pseudo-count, if the arguments of `maximize` are sound."""
        name = type(self).__name__
        self._require_values(x)
        if not 0 <= floor < math.inf:
            raise ValueError(f"{name} needs a finite floor >= 0, got {floor}.")
        if r.shape != (len(x), self.components):
            raise ValueError(
                f"{name} needs responsibilities of shape {(len(x), self.components)}, got {tuple(r.shape)}."
            )
        if not ((r.sum(-1) - 1).abs() < 1e-4).all() or r.min() < 0:
            raise ValueError(f"{name} needs responsibilities >= 0 whose rows sum to 1.")
        weight = r.sum(0) + pseudo_count
        if not (weight > torch.finfo(weight.dtype).tiny).all():
            raise ValueError(
                f"{name} needs some of the data for each component, got none for component "
                f"{weight.argmin()}: take fewer components, or another start."
            )
        return weight


class GaussianMixture(_Mixture):
    r"""A mixture of K Gaussians.

    .. math:: \log p(x \mid z = k) = \log \det A_k - \tfrac12 \| A_k (x - \mu_k) \|^2
        - \tfrac D2 \log 2\pi, \quad \Sigma_k^{-1} = A_k^\top A_k

    A_k, which makes component k white, is lower triangular; its diagonal is kept as a logarithm, so that
    any value of the parameters is a valid mixture. It starts at random means with unit covariances.

    Args:
        dim: number of coordinates D.
        components: number of components K.
        covariance: "full", "diagonal", "spherical" (a multiple of the identity), each component its own;
            or "tied", one full covariance for all.

    Raises:
        ValueError: if a size is below 1, the covariance is none of these, or x is not a finite (N, D) batch.

    Source: Dempster, Laird and Rubin (1977), Maximum Likelihood from Incomplete Data via the EM Algorithm,
    section 4.3; Bishop (2006), Pattern Recognition and Machine Learning, section 9.2.
    """

    measure = "lebesgue"

    def __init__(self, dim: int, components: int, covariance: str = "full"):
        super().__init__(dim, components)
        if covariance not in COVARIANCES:
            raise ValueError(f"GaussianMixture needs a covariance among {COVARIANCES}, got {covariance!r}.")
        self.covariance = covariance
        self.mu = nn.Parameter(torch.randn(components, dim))
        matrices = 1 if covariance == "tied" else components
        self.log_diagonal = nn.Parameter(torch.zeros(matrices, 1 if covariance == "spherical" else dim))
        if covariance in ("full", "tied"):
            self.below = nn.Parameter(torch.zeros(matrices, dim * (dim - 1) // 2))

    @property
    def Sigma(self) -> Float[Tensor, "K D D"]:
        """The covariances."""
        root = self._root()
        return root @ root.mT

    def _whitening(self) -> Float[Tensor, "matrices D D"]:
        """The matrices A: one for each component, or one for all."""
        diagonal = self.log_diagonal.exp().expand(-1, self.dim).diag_embed()
        if self.covariance in ("diagonal", "spherical"):
            return diagonal
        row, column = torch.tril_indices(self.dim, self.dim, -1, device=diagonal.device)
        return diagonal.index_put((torch.arange(len(diagonal))[:, None], row, column), self.below)

    def _root(self) -> Float[Tensor, "K D D"]:
        """The inverses of A."""
        eye = torch.eye(self.dim).to(self.mu)
        root = torch.linalg.solve_triangular(self._whitening(), eye, upper=False)
        return root.expand(self.components, -1, -1)

    def _log_components(self, x):
        mu, scale = self.mu, (2 * self.log_diagonal).exp()
        if self.covariance == "full":
            matrices = self._whitening()
            shifts = -(matrices @ mu[..., None])[..., 0]
            whitened = (torch.addmm(b, x, a.T) for b, a in zip(shifts, matrices, strict=True))
            squares = torch.stack([_square(z).sum(-1) for z in whitened])
        else:
            if self.covariance == "tied":  # whitened once, for all components
                matrix, scale = self._whitening()[0].T, torch.ones_like(mu)
                x, mu = x @ matrix, mu @ matrix
            squares = _distances(x, mu, scale)
        log_det = self.log_diagonal.expand(-1, self.dim).sum(-1, keepdim=True)
        return log_det - 0.5 * (squares + self.dim * math.log(2 * math.pi))

    def _draw(self, k, rng):
        noise = normal((len(k), self.dim), rng, like=self.mu)
        for j, (m, root) in enumerate(zip(self.mu, self._root(), strict=True)):
            noise[k == j] = torch.addmm(m, noise[k == j], root.T)
        return noise

    @torch.no_grad()
    def maximize(self, x, r, floor=1e-6):
        r"""Sets the parameters to their best, given responsibilities: the M step.

        .. math:: N_k = \sum_n r_{nk}, \quad \pi_k = \frac{N_k}{N}, \quad
            \mu_k = \frac{1}{N_k} \sum_n r_{nk} \, x_n, \quad
            \Sigma_k = \frac{1}{N_k} \sum_n r_{nk} (x_n - \mu_k)(x_n - \mu_k)^\top + \text{floor} \cdot I

        Diagonal covariances are the diagonal of that one, spherical ones the mean of the diagonal, a tied one
        the mean over components with weights pi.

        Args:
            x: the data.
            r: responsibilities, such as an E step returns, or hard ones of 0 and 1 to start from.
            floor: added to every variance. At 0 the likelihood of two components or more, each with a
                covariance of its own, has no maximum, see chapter 6.

        Raises:
            ValueError: if x or r has another form, a component has no data at all, or a covariance is not
                positive definite. The parameters are then as before.
        """
        weight = self._weigh(x, r, floor, 0.0)
        mu = r.T @ x / weight[:, None]
        if self.covariance in ("diagonal", "spherical"):
            variance = _variances(x, r, mu, weight, floor, pooled=self.covariance == "spherical") + floor
            self._require_positive(variance.amin(-1) > 0, floor)
            self.log_diagonal.copy_(-0.5 * variance.log())
        else:
            spread = ((x - m).mul_(q[:, None]) for q, m in zip(r.sqrt().T, mu, strict=True))
            squares = [y.T @ y for y in spread]
            if self.covariance == "tied":
                sigma = sum(squares)[None] / len(x)
            else:
                sigma = torch.stack(squares) / weight[:, None, None]
            eye = torch.eye(self.dim).to(x)
            root, failed = torch.linalg.cholesky_ex(sigma + floor * eye)
            self._require_positive(failed == 0, floor)
            matrices = torch.linalg.solve_triangular(root, eye, upper=False)
            row, column = torch.tril_indices(self.dim, self.dim, -1, device=x.device)
            self.log_diagonal.copy_(matrices.diagonal(dim1=-2, dim2=-1).log())
            self.below.copy_(matrices[:, row, column])
        self.mu.copy_(mu)
        self.logits.copy_(weight.log())

    def _require_positive(self, positive: Tensor, floor: float) -> None:
        if not positive.all():
            raise ValueError(
                f"GaussianMixture needs covariances that are positive definite, got one that is not, of "
                f"component {positive.int().argmin()} with floor {floor}: take a larger floor, fewer "
                f"components or a simpler covariance."
            )


class BernoulliMixture(_Mixture):
    r"""A mixture of K products of coins.

    .. math:: \log p(x \mid z = k) = \sum_{d=1}^D x_d \, \eta_{kd} - \log (1 + e^{\eta_{kd}})

    It starts at random log-odds eta.

    Args:
        dim: number of coordinates D.
        components: number of components K.

    Raises:
        ValueError: if a size is below 1, or x is not a batch of D zeros and ones.

    Source: Bishop (2006), Pattern Recognition and Machine Learning, section 9.3.3.
    """

    measure = "counting"

    def __init__(self, dim: int, components: int):
        super().__init__(dim, components)
        self.eta = nn.Parameter(torch.randn(components, dim))

    def _require_values(self, x):
        super()._require_values(x)
        require_levels(x, 2, type(self).__name__)

    def _log_components(self, x):
        return self.eta @ x.T - F.softplus(self.eta).sum(-1, keepdim=True)

    def _draw(self, k, rng):
        return bernoulli(self.eta.sigmoid()[k], rng)

    @torch.no_grad()
    def maximize(self, x, r, floor=1e-6):
        r"""Sets the parameters to their best, given responsibilities: the M step.

        .. math:: N_k = \sum_n r_{nk}, \quad
            \pi_k = \frac{N_k + \text{floor}}{N + K \, \text{floor}}, \quad
            \sigma(\eta_{kd}) = \frac{\sum_n r_{nk} \, x_{nd} + \text{floor}}{N_k + 2 \, \text{floor}}

        Args:
            x: the data.
            r: responsibilities, such as an E step returns, or hard ones of 0 and 1 to start from.
            floor: a pseudo-count, added to the rows of each component and to the ones and zeros of each coin.

        Raises:
            ValueError: if x or r has another form, a component has no data at all, or a coin that always
                falls alike has infinite log-odds, for want of a floor. The parameters are then as before.
        """
        weight = self._weigh(x, r, floor, floor)
        eta = (r.T @ x + floor).log() - (r.T @ (1 - x) + floor).log()
        if not eta.isfinite().all():
            raise ValueError(
                f"BernoulliMixture needs floor > 0 where a component's coin always falls alike, got {floor}."
            )
        self.eta.copy_(eta)
        self.logits.copy_(weight.log())


@torch.no_grad()
def em_step(model: _Mixture, x: Float[Tensor, "N D"], floor: float = 1e-6) -> float:
    r"""One step of expectation maximisation: sets r to the posterior of z, then the parameters to their best.

    .. math:: r_{nk} = p_\theta(z_n = k \mid x_n), \quad \theta' = \arg\max_{\theta'}
        \sum_{n, k} r_{nk} \log p_{\theta'}(x_n, z_n = k)

    With floor 0 the mean of log p(x) never falls, but it may grow without limit; see the `maximize` of
    each model for what the floor is added to.

    Returns:
        The mean of log p(x) before the step, in nats.

    Raises:
        ValueError: as `maximize`, or if a row of x has no density under the model.

    Source: Dempster, Laird and Rubin (1977), Maximum Likelihood from Incomplete Data via the EM Algorithm.
    """
    log_joint = model.log_joint(x)
    r = _posterior(log_joint)
    log_p = log_joint.T.amax(0) - r.T.amax(0).log()  # as r = p(x, z) / p(x), at the largest: no second exp
    if not log_p.isfinite().all():
        raise ValueError("em_step needs a positive density for every row of x: start from other means.")
    model.maximize(x, r, floor)
    return log_p.mean().item()


def _posterior(log_joint: Float[Tensor, "N K"]) -> Float[Tensor, "N K"]:
    """Softmax over the components, taken along columns: seven times as quick as along rows of a few."""
    return log_joint.T.softmax(0).T


def _distances(x: Tensor, mu: Tensor, scale: Tensor) -> Float[Tensor, "K N"]:
    """The sum over d of scale_kd (x_nd - mu_kd)^2: expanded, which is quicker, where no digits are lost,
    as in float64 on data that are not far from their center; in float32 never.

    A scale that is one number for all d is given as a column.
    """
    from_center, mu_from_center = x - mu[0], mu - mu[0]
    square = from_center.square()
    quadratic = scale * square.sum(-1) if scale.shape[1] == 1 else scale @ square.T
    if torch.finfo(x.dtype).eps * quadratic.amax() > 1e-10:
        return torch.stack([_square(x - m) @ s.expand_as(m) for m, s in zip(mu, scale, strict=True)])
    constant = (scale * mu_from_center.square()).sum(-1, keepdim=True)
    return torch.addmm(quadratic + constant, scale * mu_from_center, from_center.T, alpha=-2)


def _variances(
    x: Tensor, r: Tensor, mu: Tensor, weight: Tensor, floor: float, *, pooled: bool
) -> Float[Tensor, "K D"] | Float[Tensor, "K 1"]:
    """The mean of (x_nd - mu_kd)^2 with weights r_nk: expanded likewise, where no digits are lost.

    Pooled, it is the mean over d, too.
    """

    def squares(from_center: Tensor) -> Tensor:
        square = _square(from_center)
        return square.mean(-1, keepdim=True) if pooled else square

    between = squares(mu - mu[0])
    variance = r.T @ squares(x - mu[0]) / weight[:, None] - between
    cancelled = (between / (variance + floor)).abs().amax()
    if cancelled * torch.finfo(x.dtype).eps < 1e-9:
        return variance
    sums = [q @ squares(x - m) for q, m in zip(r.T, mu, strict=True)]
    return torch.stack(sums) / weight[:, None]


def _square(x: Tensor) -> Tensor:
    """x^2, written over x, so only for an x that was made for it: half the time, as no memory is taken."""
    return x.square_()
