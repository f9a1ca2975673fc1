"""Every check passes what is right and has the power to fail: planted mistakes, one by one."""

import math

import numpy as np
import pytest
import torch

from gmlib import check
from gmlib.check import CheckFailed

X = torch.linspace(0, 1, 1024, dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normals(*shape):
    return torch.randn(*shape, generator=generator(), dtype=torch.float64)


class TestEqual:
    @pytest.mark.parametrize(
        ("left", "right", "words"),
        [
            (X**2, X * X, "equal on 1,024 values"),
            (X.numpy() ** 2, X * X, "equal on 1,024 values"),
            ((X**2).sum(), float((X * X).sum()), "equal on 1 value"),
            (torch.arange(3), np.arange(3), "equal on 3 values"),
            (2**784, 2 * 2**783, "equal on 1 value"),
            ([2**784, 1], [2 * 2**783, 1], "equal on 2 values"),
            (torch.ones(2, dtype=torch.float64).sum(), 2, "equal on 1 value"),
            ([0.5, math.inf, -math.inf], [1 / 2, math.inf, -math.inf], "equal on 3 values"),
            (torch.tensor([True, False]), [True, False], "equal on 2 values"),
            (torch.full((3,), 1e-17, dtype=torch.float64), [0.0, 0.0, 0.0], "equal on 3 values"),
            (X * 1e6 + 1e-4, X * 1e6 + 1e-4, "equal on 1,024 values"),
        ],
    )
    def test_right(self, left, right, words, capsys):
        assert check.equal("eq-x", left, right) is None
        assert capsys.readouterr().out == f"✓ eq-x  {words}\n"

    def test_symmetric_matrix_is_no_tautology(self):
        a = normals(4, 4)
        a = a + a.T
        check.equal("eq-symmetric", a, a.T)

    def test_gradients_are_no_obstacle(self):
        check.equal("eq-x", (X.clone().requires_grad_() * 2).sum(), 2 * X.sum())

    def test_a_wider_tolerance_is_printed(self, capsys):
        check.equal("eq-x", X + 1e-7, X * 1.0, tolerance=1e-6)
        assert capsys.readouterr().out == "✓ eq-x  equal to 1e-06 on 1,024 values\n"

    @pytest.mark.parametrize(
        ("left", "right"),
        [
            (X - 0.5, 0.5 - X),  # a sign
            (X, X + 1.1e-9),  # just beyond the tolerance
            (X * 1e6, X * 1e6 * (1 + 2e-9)),  # relative to large values
            (torch.tensor([1.0, math.nan], dtype=torch.float64), [1.0, 2.0]),
            ([1.0, math.nan], [1.0, math.nan]),
            ([1.0, math.inf], [1.0, -math.inf]),
            ([1.0, 5.0], [1.0, math.inf]),  # infinitely many tolerances wide is not equal
            ([1.0, math.inf], [1.0, 5.0]),
            ([1e308], [-1e308]),
            (2**784, 2**784 + 1),  # exact, far beyond floats
            (2**53, 2**53 + 1),
            (torch.tensor(0.1).double(), 0.1),  # a float32 in disguise
        ],
    )
    def test_wrong(self, left, right, capsys):
        with pytest.raises(CheckFailed, match="eq-x"):
            check.equal("eq-x", left, right)
        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize(
        ("left", "right"),
        [
            (X, X),  # a tautology
            (X, X.detach()),
            (X, X.view(1024)),
            (X.numpy(), X),
            (X[0], X[0]),
            (X, X[:1]),  # broadcasting
            (X[:, None], X.clone()),
            (X, 1.0),
            (torch.empty(0), torch.empty(0)),
            ([], []),
            (X.float(), X.clone()),  # float32
            (X.clone(), X.float()),
            ([X[0].float()], [0.0]),
            (X.to(torch.complex128), X),
            ("one", "two"),
            (1e-12, 5e-11),  # hidden by the tolerance
        ],
    )
    def test_no_power_or_no_sense(self, left, right):
        with pytest.raises(ValueError, match="eq-x needs"):
            check.equal("eq-x", left, right)

    @pytest.mark.parametrize("tolerance", [-1.0, 0.1, math.nan])
    def test_tolerance_stays_a_tolerance(self, tolerance):
        with pytest.raises(ValueError, match="tolerance"):
            check.equal("eq-x", X + 0.0, X * 1.0, tolerance=tolerance)

    def test_message_names_label_worst_element_and_both_values(self):
        left, right = torch.zeros(3, 4, dtype=torch.float64), torch.zeros(3, 4, dtype=torch.float64)
        right[0, 1], right[2, 3] = 0.5, -2.5
        message = (
            r"eq-x failed: left is 0\.0 and right is -2\.5 at \[2, 3\], the worst of 2 wrong among 12 values"
        )
        with pytest.raises(CheckFailed, match=message):
            check.equal("eq-x", left, right)

    def test_nan_is_the_worst(self):
        with pytest.raises(CheckFailed, match=r"left is nan and right is 2\.0 at \[1\]"):
            check.equal("eq-x", [9.0, math.nan], [1.0, 2.0])

    def test_message_without_index_for_numbers(self):
        with pytest.raises(
            CheckFailed, match=r"left is 1 and right is 2, the worst of 1 wrong among 1 value$"
        ):
            check.equal("eq-x", 1, 2)


class TestEstimate:
    def test_right(self, capsys):
        check.estimate("eq-x", normals(100_000) + 3, 3.0, within=0.05)
        assert capsys.readouterr().out == "✓ eq-x  estimated within 0.05 from 100,000 draws\n"

    def test_one_mean_for_each_element(self):
        check.estimate("eq-x", normals(10_000, 2, 3) + 1, np.ones((2, 3)), within=0.2)

    def test_frequencies(self):
        check.estimate("eq-x", normals(10_000) < 0, 0.5, within=0.05)

    @pytest.mark.parametrize(
        ("draws", "exact", "reason"),
        [
            (normals(100_000) + 0.02, 0.0, "the mean is"),  # six standard errors off
            (normals(100_000) - 3, 3.0, "the mean is"),  # a sign
            (normals(100_000), math.nan, "the mean is"),
            (normals(100_000), math.inf, "the mean is"),
            (normals(10_000), 0.0, "too few draws"),
            (normals(100_000).div(normals(100_000).roll(1)), 0.0, "heavy tails"),  # Cauchy
            ((3 * normals(100_000)).exp(), math.exp(4.5), "heavy tails"),  # log-normal
            (torch.ones(1000, dtype=torch.float64) / 3, 1 / 3, "constant"),
            (torch.cat([normals(1000), torch.tensor([math.nan], dtype=torch.float64)]), 0.0, "NaN"),
            (torch.cat([normals(1000), torch.tensor([math.inf], dtype=torch.float64)]), 0.0, "NaN"),
        ],
    )
    def test_wrong(self, draws, exact, reason, capsys):
        with pytest.raises(CheckFailed, match=f"eq-x failed: .*{reason}"):
            check.estimate("eq-x", draws, exact, within=0.05)
        assert capsys.readouterr().out == ""

    def test_one_bad_element_among_many(self):
        exact = torch.zeros(5, dtype=torch.float64)
        exact[3] = 0.1
        with pytest.raises(CheckFailed, match=r"exact is 0\.1 at \[3\]"):
            check.estimate("eq-x", normals(100_000, 5), exact, within=0.05)

    def test_one_constant_element_among_many(self):
        draws = normals(1000, 2)
        draws[:, 1] = 0
        with pytest.raises(CheckFailed, match="constant"):
            check.estimate("eq-x", draws, [0.0, 0.0], within=1)

    @pytest.mark.parametrize(
        ("draws", "exact", "within"),
        [
            (normals(1000), torch.zeros(1000, dtype=torch.float64), 1.0),  # would broadcast
            (normals(1000, 2), 0.0, 1.0),
            (normals(99), 0.0, 10.0),
            (normals(()), 0.0, 1.0),
            (normals(1000), 0.0, 0.0),
            (normals(1000), 0.0, math.nan),
            (normals(1000).float(), 0.0, 1.0),
            (normals(1000, 0), [], 1.0),
        ],
    )
    def test_no_sense(self, draws, exact, within):
        with pytest.raises(ValueError, match="eq-x needs"):
            check.estimate("eq-x", draws, exact, within)


class TestBound:
    def test_tight_somewhere(self, capsys):
        check.bound("eq-x", X**2, X, tight=(X == 0) | (X == 1))
        check.bound("eq-x", X**2, X, tight=[0, 1023])
        check.bound("eq-x", 1.0, 1.0 + 1e-12, tight=True)
        assert capsys.readouterr().out == (
            "✓ eq-x  bound holds on 1,024 values, tight on 2\n" * 2
            + "✓ eq-x  bound holds on 1 value, tight on 1\n"
        )

    def test_strict(self, capsys):
        check.bound("eq-x", [1.0, -math.inf], [2.0, 0.0], strict=True)
        check.bound("eq-x", 3, 4, strict=True)
        assert capsys.readouterr().out == (
            "✓ eq-x  bound holds strictly on 2 values\n✓ eq-x  bound holds strictly on 1 value\n"
        )

    def test_strict_beyond_noise(self, capsys):
        check.bound("eq-x", [1.0, 2.0], [2.0, 3.0], strict=True, standard_error=[0.1, 0.12])
        assert capsys.readouterr().out == "✓ eq-x  bound holds strictly on 2 values\n"

    @pytest.mark.parametrize(
        ("lower", "upper", "options"),
        [
            (X, X**2, {"tight": [0, 1023]}),  # the wrong way round
            (X**2, X, {"tight": [0, 1]}),  # not tight there
            (X - 1, X, {"tight": [0]}),
            ([0.0, math.nan], [0.0, 1.0], {"tight": [0]}),
            ([0.0, 1.0], [0.0, math.nan], {"tight": [0]}),
            (X**2, X, {"strict": True}),  # equal at the ends
            ([1.0], [1.0 + 1e-12], {"strict": True}),  # equal but for rounding
            ([math.nan], [1.0], {"strict": True}),
            ([math.inf], [math.inf], {"strict": True}),
            (3, 3, {"strict": True}),
            ([1.0, 2.0], [2.0, 2.5], {"strict": True, "standard_error": [0.1, 0.1]}),  # within 8
        ],
    )
    def test_wrong(self, lower, upper, options, capsys):
        with pytest.raises(CheckFailed, match="eq-x failed: lower is"):
            check.bound("eq-x", lower, upper, **options)
        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"tight": [0], "strict": True},
            {"tight": X > 2},  # an empty mask
            {"tight": False},
            {"tight": []},
            {"tight": [5000]},
            {"tight": torch.tensor([True])},  # a mask of another shape
            {"tight": [0], "standard_error": X + 1},
            {"strict": True, "standard_error": 0.1},  # would broadcast
            {"strict": True, "standard_error": X * 0},
            {"strict": True, "standard_error": X * math.nan},
        ],
    )
    def test_no_sense(self, options):
        with pytest.raises(ValueError, match="eq-x needs"):
            check.bound("eq-x", X**2, X, **options)

    @pytest.mark.parametrize("upper", [X, X[:5], X.float()])
    def test_sides_as_in_equal(self, upper):
        with pytest.raises(ValueError, match="eq-x needs"):
            check.bound("eq-x", X, upper, tight=[0])


class TestLimit:
    SIZES = (10, 100, 1000, 10_000)

    def test_right(self, capsys):
        check.limit("eq-x", self.SIZES, [3 * n**-0.5 for n in self.SIZES], -0.5, below=0.1)
        check.limit("eq-x", [0.1, 0.2, 0.4], [0.01, 0.04, 0.16], 2, below=0.1)
        assert capsys.readouterr().out == (
            "✓ eq-x  error falls as size^-0.5 over 4 sizes\n✓ eq-x  error falls as size^2 over 3 sizes\n"
        )

    @pytest.mark.parametrize(
        ("errors", "order", "below"),
        [
            ([n**-0.7 for n in SIZES], -0.5, 1),  # an order that is off by 0.2
            ([n**-0.3 for n in SIZES], -0.5, 1),
            ([n**0.5 for n in SIZES], -0.5, 10),  # grows
            ([n**-0.5 for n in SIZES], 0.5, 1),  # a sign
            ([n**-0.5 + 0.1 for n in SIZES], -0.5, 1),  # comes to rest above 0
            ([n**-0.5 for n in SIZES], -0.5, 0.01),  # too large
            ([1.0, 0.1, 0.0, 0.001], -1, 1),
            ([1.0, 0.1, -0.01, 0.001], -1, 1),
            ([1.0, 0.1, math.nan, 0.001], -1, 1),
            ([1.0, 0.1, 0.01, math.inf], -1, 1),
            ([n**-0.5 for n in SIZES], math.nan, 1),
        ],
    )
    def test_wrong(self, errors, order, below):
        with pytest.raises(CheckFailed, match="eq-x"):
            check.limit("eq-x", self.SIZES, errors, order, below=below)

    @pytest.mark.parametrize(
        ("sizes", "order"),
        [((1, 10), -1), ((1, 1, 10), -1), ((10, 11, 12), -1), ((-1, 1, 10), -1), ((1, 10, 100), 0)],
    )
    def test_no_sense(self, sizes, order):
        with pytest.raises(ValueError, match="eq-x needs"):
            check.limit("eq-x", sizes, [1.0 / (i + 1) for i in range(len(sizes))], order, below=10)

    def test_one_error_for_each_size(self):
        with pytest.raises(ValueError, match="alike in shape"):
            check.limit("eq-x", self.SIZES, [1.0, 0.1, 0.01], -1, below=1)


def bowl(x):
    return (x - torch.tensor([1.0, -2.0, 1e-3], dtype=torch.float64)).square().sum()


class TestOptimum:
    AT = (1.0, -2.0, 1e-3)

    def test_right(self, capsys):
        check.optimum("eq-x", bowl, self.AT, rng=generator())
        check.optimum(
            "eq-x",
            lambda x: -bowl(x),
            torch.tensor(self.AT, dtype=torch.float64),
            maximize=True,
            rng=generator(),
        )
        check.optimum("eq-x", lambda x: x.square(), 0, rng=generator())
        assert capsys.readouterr().out == (
            "✓ eq-x  minimum confirmed by 100 perturbations\n"
            "✓ eq-x  maximum confirmed by 100 perturbations\n"
            "✓ eq-x  minimum confirmed by 100 perturbations\n"
        )

    def test_positive_coordinates_stay_positive(self):
        check.optimum("eq-x", lambda x: (x - x.log()).sum(), [1.0, 1.0], rng=generator())

    def test_a_long_way_from_scale_one(self):
        check.optimum("eq-x", lambda x: 1e-6 * (x - 1e-8).square().sum() * 1e16, 1e-8, rng=generator())

    @pytest.mark.parametrize(
        ("f", "at"),
        [
            (lambda x: -bowl(x), AT),  # a maximum for a minimum
            (bowl, (1.0, 2.0, 1e-3)),  # a sign
            (bowl, (1.0 + 1e-5, -2.0, 1e-3)),  # near, but not there
            (lambda x: x[0] ** 2 - x[1] ** 2, (0.0, 0.0)),  # a saddle
            (lambda x: x[:49].square().sum() - 1e-3 * x[49] ** 2, (0.0,) * 50),  # one bad direction in 50
            (lambda x: x.sum() ** 3, (0.0, 0.0)),  # an inflection
            (lambda x: x.sum() * 0 + 1, (1.0, 1.0)),  # flat
            (lambda x: bowl(x) * math.nan, AT),
            (lambda x: (x - 0.99).log().sum() + x.sum(), (1.0,)),  # NaN on one side
            (lambda x: x.abs().sum(), (1e-9, 1.0)),
        ],
    )
    def test_wrong(self, f, at, capsys):
        with pytest.raises(CheckFailed, match="eq-x"):
            check.optimum("eq-x", f, at, rng=generator())
        assert capsys.readouterr().out == ""

    def test_narrow_saddle_is_seen_by_its_curvature(self):
        f = lambda x: x[:49].square().sum() - 1e-3 * x[49] ** 2  # noqa: E731
        with pytest.raises(CheckFailed, match="saddle"):
            check.optimum("eq-x", f, (0.0,) * 50, rng=generator())

    def test_gradient_is_named(self):
        with pytest.raises(CheckFailed, match=r"the gradient at the minimum is 2.* at \[0\]"):
            check.optimum("eq-x", bowl, (1.0 + 1e-6, -2.0, 1e-3), rng=generator())

    @pytest.mark.parametrize(
        "f", [lambda x: 1.0, lambda x: x, lambda x: x.sum().float(), lambda x: x.detach().sum()]
    )
    def test_no_sense(self, f):
        with pytest.raises(ValueError, match="eq-x needs f"):
            check.optimum("eq-x", f, (1.0, 1.0), rng=generator())


class TestRefute:
    def test_right(self, capsys):
        check.refute("err-x", [1.0, 3.0], [1.0, 2.0], [1.0, 2.0])
        check.refute("err-x", [2.0, 3.0], [1.0, 2.0], [1.0, 2.0])
        check.refute("err-x", 1000, 1001, 1000 + 1)
        check.refute("err-x", math.inf, 1.0, np.float64(1.0))
        assert capsys.readouterr().out == (
            "✓ err-x  source refuted on 1 of 2 values\n✓ err-x  source refuted on 2 values\n"
            "✓ err-x  source refuted on 1 value\n✓ err-x  source refuted on 1 value\n"
        )

    @pytest.mark.parametrize(
        ("source", "ours", "reference"),
        [
            ([1.0, 2.0], [1.0, 2.0], [1.0, 2.0]),  # the source is right
            ([1.0, 2.001], [1.0, 2.0], [1.0, 2.0]),  # misses it by too little
            ([1.0, 3.0], [1.0, 2.0], [1.0, 2.1]),  # ours is wrong
            ([1.0, 3.0], [1.0, math.nan], [1.0, 2.0]),
            ([1.0, math.nan], [1.0, 2.0], [1.0, 2.0]),  # NaN refutes nothing
            (7, 7, 6 + 1),
        ],
    )
    def test_wrong(self, source, ours, reference, capsys):
        with pytest.raises(CheckFailed, match="err-x"):
            check.refute("err-x", source, ours, reference)
        assert capsys.readouterr().out == ""

    def test_sides_as_in_equal(self):
        with pytest.raises(ValueError, match="one object as ours and reference"):
            check.refute("err-x", X + 1, X, X)
        with pytest.raises(ValueError, match="alike in shape"):
            check.refute("err-x", 1.0, X + 0, X)


class TestReached:
    def test_reached(self, capsys):
        check.reached("fig-x", torch.tensor(96.2), 96.61)
        check.reached("tab-x", 0.9, 0.9, at_least=True)
        assert capsys.readouterr().out == "✓ fig-x  reached: at most 96.61\n✓ tab-x  reached: at least 0.9\n"

    @pytest.mark.parametrize(
        ("value", "at_least"), [(2.0, False), (0.0, True), (math.nan, False), (math.nan, True)]
    )
    def test_missed(self, value, at_least, monkeypatch, capsys):
        with pytest.raises(CheckFailed, match="fig-x failed: the outcome is"):
            check.reached("fig-x", value, 1.0, at_least=at_least)
        monkeypatch.setenv("GMLIB_SMOKE", "1")
        check.reached("fig-x", value, 1.0, at_least=at_least)
        assert capsys.readouterr().out == "· fig-x  not judged (smoke run)\n"


class TestExercise:
    @pytest.mark.parametrize(
        "judge", [lambda a: a == 3, lambda a: torch.tensor(a == 3), lambda a: np.bool_(a == 3)]
    )
    def test_solved(self, judge, capsys):
        check.exercise("ex-x", judge, 3)
        check.exercise("ex-x", judge, 4)
        assert capsys.readouterr().out == "✓ ex-x  solved\n○ ex-x  not solved yet\n"

    @pytest.mark.parametrize(
        "judge",
        [
            lambda a: None,
            lambda a: 1,
            lambda a: a + 1,
            lambda a: [True],
            lambda a: torch.tensor([True, True]),
            lambda a: check.equal("eq-x", a, 1.0),
            lambda a: 1 / 0,
        ],
    )
    @pytest.mark.parametrize("answer", [..., None, 3])
    def test_not_solved_and_never_raises(self, judge, answer, capsys):
        check.exercise("ex-x", judge, answer)
        assert capsys.readouterr().out == "○ ex-x  not solved yet\n"

    def test_prints_one_line_whatever_the_judge_prints(self, capsys):
        check.exercise("ex-x", lambda a: check.equal("eq-inner", a, 2.0) is None, math.sqrt(4))
        assert capsys.readouterr().out == "✓ ex-x  solved\n"


@pytest.mark.parametrize(
    ("function", "right", "wrong"),
    [
        (lambda label: check.equal(label, 1, 1), "eq- err-", "ex- fig- def-"),
        (lambda label: check.estimate(label, normals(1000), 0, 1), "eq- err-", "ex-"),
        (lambda label: check.bound(label, 1, 2, strict=True), "eq- err-", "fig-"),
        (lambda label: check.limit(label, [1, 2, 4], [4, 2, 1], -1, below=2), "eq- err-", "tab-"),
        (lambda label: check.optimum(label, torch.square, 0.0, rng=generator()), "eq- err-", "def-"),
        (lambda label: check.refute(label, 2, 1, 1), "err-", "eq-"),
        (lambda label: check.reached(label, 1, 2), "fig- tab-", "eq- err-"),
        (lambda label: check.exercise(label, bool, 1), "ex-", "eq-"),
    ],
)
def test_labels_fit_the_check(function, right, wrong):
    for kind in right.split():
        function(f"{kind}some-name-2")
    for label in [f"{kind}x" for kind in wrong.split()] + ["x", "eq-", "eq-X", "eq x", "eq-x\n", "eq-x "]:
        with pytest.raises(ValueError, match="needs a label"):
            function(label)
