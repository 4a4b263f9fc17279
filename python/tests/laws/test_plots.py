"""The pictures of laws: drawn without a warning, with as many series as there should be, axes with units."""

import warnings

import numpy as np
import pytest

from dither import laws
from dither.errors import UserError

pytest.importorskip("matplotlib")
from dither.laws import plots


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


TRUTH = dict(A=450.0, B=2000.0, E=1.8, alpha=0.34, beta=0.36)


def sweep(noise=0.004, seed=0, budgets=6, **truth):
    flops = np.repeat(np.geomspace(1e18, 1e21, budgets), 7)
    N = np.sqrt(flops / 120) * np.tile(np.geomspace(1 / 4, 4, 7), budgets)
    return laws.get("chinchilla").simulate({**TRUTH, **truth}, N=N, D=flops / (6 * N), noise=noise, seed=seed)


@pytest.fixture(scope="module")
def fit():
    return laws.fit("chinchilla", sweep())


def drawn(figure):
    """Render it: what overflows or cannot be laid out warns here. No legend names what is not in the picture,
    and no two labels of an axis run into each other."""
    figure.canvas.draw()
    for axes in figure.axes:
        for artist in (*axes.lines, *axes.patches):
            path = artist.get_transform().transform_path(artist.get_path())
            inside = path.intersects_bbox(axes.bbox, filled=False) or any(
                map(axes.bbox.contains, *path.vertices.T)
            )
            assert inside or artist.get_label().startswith("_"), artist.get_label()
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = (*axis.get_major_ticks(), *axis.get_minor_ticks())
            seen = [t for tick in ticks if low <= tick.get_loc() <= high for t in (tick.label1, tick.label2)]
            shown = [t for t in seen if t.get_visible() and t.get_text()]
            boxes = [t.get_window_extent() for t in shown]
            for i, one in enumerate(boxes):
                clash = [shown[k].get_text() for k in range(i) if one.overlaps(boxes[k])]
                assert not clash, (shown[i].get_text(), clash)
    return figure


def labelled(figure):
    """What all axes say together."""
    return " ".join(a.get_xlabel() + " " + a.get_ylabel() for a in figure.axes)


def test_isoflop_has_a_star_a_budget_and_hollow_ones_where_it_is_not_to_be_trusted():
    runs = sweep()
    flops = 6 * runs["N"] * runs["D"]
    figure = drawn(plots.isoflop(runs["N"], flops, runs["loss"]))
    left, right = figure.axes
    stars = [line for line in left.lines if line.get_marker() == "*"]
    assert len(stars) == 6 and len(left.lines) == 18 and left.get_title() == ""
    assert len(right.lines) == 6  # two clouds, two lines, two references
    assert "(FLOPs)" in labelled(figure) and "(tokens)" in labelled(figure)
    small = runs["N"] < np.sqrt(flops / 120) / 1.2  # one side of the minimum only
    figure = plots.isoflop(runs["N"][small], flops[small], runs["loss"][small])
    hollow = [s for s in figure.axes[0].lines if s.get_marker() == "*" and s.get_markerfacecolor() == "none"]
    assert hollow and figure.axes[0].get_title().startswith("hollow")
    with pytest.raises(UserError, match="need two"):
        plots.isoflop(runs["N"][:7], flops[:7], runs["loss"][:7])


def test_the_envelope_lies_on_the_lowest_curve():
    c = np.geomspace(1e17, 1e20, 50)
    curves = {f"{k} layers": (c * k, 2 + k * (c * k / 1e17) ** -0.3 / 2 + 0.3 / k) for k in (1, 4)}
    figure = drawn(plots.envelope(curves))
    assert len(figure.axes[0].lines) == 4
    low = figure.axes[0].lines[2].get_ydata()
    inside = np.interp(np.log(figure.axes[0].lines[2].get_xdata()), np.log(c), curves["1 layers"][1])
    assert np.all(low[:100] <= inside[:100] + 1e-12)
    assert "nats/token" in labelled(figure)


def test_contours_show_the_frontier_the_runs_and_what_was_held_out(fit):
    figure = drawn(plots.contours(fit, held={"N": [1e10], "D": [2e11]}))
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names == ["efficient frontier", "runs", "held out"]
    assert figure.axes[0].get_xlabel() == "N (parameters)"
    frontier = next(x for x in figure.axes[0].lines if x.get_label() == "efficient frontier")
    flops = 6 * frontier.get_xdata() * frontier.get_ydata()
    slope = np.polyfit(np.log(flops), np.log(frontier.get_xdata()), 1)[0]
    assert slope == pytest.approx(fit.params["beta"] / (fit.params["alpha"] + fit.params["beta"]), abs=1e-3)
    slices = figure.axes[1]
    assert len(slices.lines) == 12 and slices.get_ylabel() == "loss (nats/token)"
    middle = slices.lines[5].get_xdata(), slices.lines[5].get_ydata()
    c = float(slices.get_legend().get_texts()[2].get_text())
    flops = 6 * fit.arrays["N"] * fit.arrays["D"]
    near = float(np.exp(np.log(flops[14:21]).mean()))
    assert c == pytest.approx(near, rel=0.05)
    np.testing.assert_allclose(middle[1], fit.predict(N=middle[0], D=near / (6 * middle[0]), far=True))


@pytest.mark.parametrize(("ratio", "side"), [(3e4, "larger N"), (1e-2, "smaller N")])
def test_a_frontier_outside_is_said_to_be_there(ratio, side):
    runs = sweep()
    n, d = runs["N"], runs["D"]
    shift = np.sqrt(ratio / 20)
    far = laws.get("chinchilla").simulate(TRUTH, N=n / shift, D=d * shift, noise=0.001, seed=2)
    figure = drawn(plots.contours(laws.fit("chinchilla", far)))
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["runs"]
    assert f"the efficient frontier lies outside, at {side}" in axes.get_title()


def test_narrow_ranges_have_round_labels_that_do_not_touch():
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(8288, 123328, 5), np.geomspace(6e4, 6e5, 4)))
    tiny = laws.fit("chinchilla", laws.get("chinchilla").simulate(TRUTH, N=N, D=D, noise=0.002, seed=4))
    figure = drawn(plots.residuals(tiny))
    labels = [t.get_text() for t in figure.axes[3].get_xticklabels()]
    assert figure.axes[3].get_xlabel() == "D (training tokens)"
    assert labels == [f"${k}\\times10^{{{e}}}$" for k, e in ((1, 5), (2, 5), (5, 5))]


def test_residuals_are_those_of_the_fit_and_stand_beside_others(fit):
    figure = drawn(plots.residuals(fit, other=TRUTH))
    assert len(figure.axes) == 6
    points = next(line for line in figure.axes[2].lines if line.get_marker() == "o")
    np.testing.assert_allclose(points.get_ydata(), 100 * fit.residuals)
    assert [t.get_text() for t in figure.axes[1].get_xticklabels()] == ["fit", "other"]
    assert "(%)" in labelled(figure)


def test_extrapolation_holds_out_the_largest_budget(fit):
    figure = drawn(plots.extrapolation(fit, n=30))
    star = next(line for line in figure.axes[0].lines if line.get_marker() == "*")
    assert len(star.get_xdata()) == 7
    rolling = sum(len(line.get_xdata()) for line in figure.axes[1].lines)
    assert rolling == len(laws.validate(fit).rolling)
    assert "mean error held out: 0." in figure.axes[0].get_title()
    assert "(%)" in labelled(figure)


def test_pairs_profiles_starts_and_sensitivity(fit):
    figure = drawn(plots.pairs(fit.bootstrap(40), published=TRUTH))
    assert len(figure.axes) == 15  # the lower triangle of five parameters
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["resamples", "fit", "published"]
    assert figure.axes[-1].get_xlabel() == "beta" and "ln A" in labelled(figure)
    figure = drawn(plots.profiles(fit, ["E", "alpha"]))
    assert [axes.get_xlabel() for axes in figure.axes] == ["E", "alpha"]
    assert min(figure.axes[0].lines[0].get_ydata()) == pytest.approx(1, abs=2e-3)
    figure = drawn(plots.starts(fit))
    assert len(figure.axes[0].lines[0].get_xdata()) == fit.certificate.starts
    figure = drawn(plots.sensitivity(fit))
    assert [axes.get_xlabel() for axes in figure.axes] == ["exponent of N*(C)", "E (nats/token)"]
    assert len(figure.axes[0].lines[0].get_xdata()) == len(laws.validate(fit).sensitivity)


def test_a_parameter_at_its_bound_is_no_point():
    flat = laws.fit("chinchilla", sweep(noise=0.03, seed=5, E=1e-4, budgets=3))
    assert "E went to 0" in " ".join(flat.cautions)
    figure = drawn(plots.sensitivity(flat))
    axes, every = figure.axes[1], laws.sensitivities(flat)
    none = [name for name, one in every.items() if one.params["E"] < 1e-3]
    assert none[0] == "as fitted" and axes.get_xlabel() == "E (nats/token)"
    assert [t.get_text() for t in axes.texts] == ["at its bound"] * len(none)
    shown = axes.lines[0].get_ydata()[np.isfinite(axes.lines[0].get_xdata())]
    assert [list(every)[int(i)] for i in shown] == [name for name in every if name not in none]


def test_tokens_per_parameter_and_reducible_loss(fit):
    figure = drawn(plots.tokens_per_parameter(fit, n=20))
    line = figure.axes[0].lines[0]
    a = fit.params["alpha"] / (fit.params["alpha"] + fit.params["beta"])
    slope = np.polyfit(np.log(line.get_xdata()), np.log(line.get_ydata()), 1)[0]
    assert slope == pytest.approx(2 * a - 1, abs=1e-3)  # D* ~ C^a and N* ~ C^(1 - a)
    figure = drawn(plots.reducible(fit))
    assert len(figure.axes[0].lines) == 12
    assert "L - E (nats/token)" in labelled(figure)


def test_loss_to_loss_has_a_panel_a_map():
    sets = {"code": sweep(E=0.8), "prose": sweep(E=2.1, seed=1), "web": sweep(E=1.9, seed=2)}
    maps = {(y, x): laws.loss_to_loss(sets[x], sets[y]) for y in sets for x in sets if x != y}
    figure = drawn(plots.loss_to_loss(maps, stars={("code", "prose"): (2.4, 1.1)}))
    assert len([axes for axes in figure.axes if axes.collections]) == 6
    assert len(figure.axes[1].lines) == 3  # curve, its extension, the star
    assert "prose (nats/token)" in labelled(figure)
    one = maps["code", "prose"]
    figure = drawn(
        plots.translated(one.pairs.y, {"translated": one.predict(one.pairs.x), "same": one.pairs.y})
    )
    assert figure.axes[1].get_title() == "same, R² = 1.000" and len(figure.axes) == 2


def test_a_task_behind_a_loss_behind_compute(fit):
    law = laws.get("task_error")
    L = np.linspace(2.2, 3.4, 12)
    below = laws.fit(law, law.simulate(dict(eps=0.857, k=2.2, gamma=0.71), L=L, noise=0.01))
    figure = drawn(plots.task(below, chance=0.75, upstream=fit, n=20))
    assert [len(axes.lines) for axes in figure.axes] == [3, 2]
    text = labelled(figure)
    assert "L: loss (nats/token)" in text and "(FLOPs)" in text and "error" in text


def test_a_schedule_a_coverage_a_reward_and_bits():
    rates = np.r_[np.full(500, 1e-3), np.linspace(1e-3, 1e-5, 500)]
    steps = np.arange(10, 1001, 10)
    loss = 2.5 + steps**-0.3
    figure = drawn(plots.schedule(rates, steps, loss, loss * 1.01))
    assert figure.axes[2].lines[1].get_ydata() == pytest.approx(100 * (1 / 1.01 - 1))
    assert "(nats/token)" in labelled(figure)

    p = np.random.default_rng(0).beta(0.4, 2.0, 120)
    figure = drawn(plots.coverage(np.random.default_rng(1).binomial(200, p), 200))
    assert len(figure.axes[0].lines) == 2 and len(figure.axes[1].patches) == 20
    assert "samples a problem" in labelled(figure)

    law = laws.get("rl_sigmoid")
    c = np.geomspace(1e3, 1e5, 20)
    found = laws.fit(law, law.simulate(dict(R0=0.2, A=0.61, Cmid=6e3, B=1.2), C=c, noise=0.01))
    figure = drawn(plots.reward(found, excluded=([200, 500], [0.2, 0.21]), n=10))
    assert len(figure.axes[0].lines) == 4 and "GPU hours" in labelled(figure)

    figure = drawn(plots.bits(dict(gw=2.6745, ga=2.2102, gkv=0.9578)))
    assert len(figure.axes[0].lines) == 4 and "bits" in labelled(figure)
    with pytest.raises(UserError, match="gkv"):
        plots.bits(dict(gw=1.0, ga=1.0))


def test_a_fit_draws_itself_and_its_page(fit, tmp_path):
    from dither.report import laws as page

    assert len(fit.plot("reducible").axes) == 1
    with pytest.raises(UserError, match="did you mean 'residuals'"):
        fit.plot("residual plot")
    with pytest.raises(UserError, match="N and D alone"):
        plots.contours(laws.fit("compute_power", {"C": [1e18, 1e19, 1e20], "loss": [3.0, 2.0, 1.5]}))
    written = page.write(fit, tmp_path / "fit", n=20, notes=("left out: a run",))
    text = written.read_text()
    assert text.count("<img") == 10 == len(list((tmp_path / "fit").glob("*.png")))
    assert "left out: a run" in text and "inf" not in text.split("<img")[0]


def test_what_follows_from_a_fit_has_the_budgets_where_there_are_some(fit):
    names = [name for name, _, _ in plots.of_fit(fit, n=5)]
    assert names[0] == "residuals" and names[-1] == "isoflop"
    n, d = np.geomspace(1e7, 1e9, 12), np.geomspace(1e12, 1e9, 12) ** 1.1  # every run has a budget of its own
    alone = laws.fit("chinchilla", laws.get("chinchilla").simulate(TRUTH, N=n, D=d, noise=0.003, seed=1))
    assert [name for name, _, _ in plots.of_fit(alone, n=5)][-1] == "tokens_per_parameter"


ON_PAGES = {
    "task_error": (dict(eps=0.857, k=2.2, gamma=0.71), dict(L=np.linspace(2.2, 3.4, 12)), "task"),
    "coverage": (dict(a=2.0, b=0.4), dict(k=np.unique(np.geomspace(1, 1000, 12).round())), "samples"),
    "rl_sigmoid": (dict(R0=0.2, A=0.61, Cmid=6e3, B=1.2), dict(C=np.geomspace(1e3, 1e5, 15)), "reward"),
    "qat_share": (dict(a=6.7), dict(N=1e9, D=np.geomspace(1e9, 1e12, 8), bits=4.0), "bits"),
}
"""law: its truth, its runs, its picture."""


@pytest.mark.parametrize("name", ON_PAGES)
def test_a_law_with_a_picture_of_its_own_has_it_on_its_page(name):
    truth, variables, picture = ON_PAGES[name]
    law = laws.get(name)
    one = laws.fit(law, law.simulate(truth, **variables, noise=0.003))
    found = {key: figure for key, _, figure in plots.of_fit(one, n=10)}
    assert list(found)[-1] == picture
    drawn(found[picture])
    if name == "coverage":
        (points, line), axes = found[picture].axes[0].lines, found[picture].axes[0]
        assert len(points.get_xdata()) == 12 and axes.get_ylabel() == "-ln pass@k"
        np.testing.assert_allclose(line.get_ydata(), -np.log(one.predict(k=line.get_xdata())))


def test_every_picture_is_on_a_page_where_its_data_are(fit):
    """The sixteen kinds of pictures: those that need more than one fit and its runs are functions alone."""
    curves = {"N 1": (np.array([1e18, 2e18]), np.array([3.0, 2.9])), "N 1 (2)": ([2e18, 4e18], [2.95, 2.8])}
    on_pages = {name: figure for name, _, figure in plots.of_fit(fit, n=5, curves=curves)}
    texts = [text.get_text() for text in drawn(on_pages["envelope"]).axes[0].texts]
    assert texts == ["N 1"]
    names = {*on_pages, *(picture for *_, picture in ON_PAGES.values())}
    alone = {"coverage", "loss_to_loss", "translated", "schedule"}
    assert names | alone == set(plots.__all__) - {"of_fit"} and not names & alone
    with pytest.raises(UserError, match="shows coverage, not chinchilla"):
        plots.samples(fit)


def test_a_page_says_which_pictures_cannot_be_drawn(tmp_path):
    """Runs that leave nothing to hold out, that the law meets, of one size, of one scale, all the same."""
    from dither.report import laws as page

    law, n = laws.get("chinchilla"), np.geomspace(1e7, 1e9, 5)
    five = laws.fit(law, law.simulate(TRUTH, N=n, D=1e9, noise=0.01))
    met = laws.fit("saturation", {"C": [1e8, 1e9], "loss": [3.1, 2.7]}, fixed={"E": 1.0})
    text = page.write(five, tmp_path / "five", n=5).read_text()
    assert "No picture of extrapolation: chinchilla has 5 free parameters, but there are 4 rows" in text
    text = page.write(met, tmp_path / "met", n=5).read_text()
    assert "No picture of profiles: the law meets every run" in text and "starts.png" not in text
    one_scale = laws.fit(law, law.simulate(TRUTH, N=n, D=1e18 / n, noise=0.01))
    assert drawn(plots.residuals(one_scale)) and (tmp_path / "met" / "starts.png").is_file()
