"""The pictures: what is drawn, not how it looks."""

import numpy as np
from matplotlib.patches import Rectangle

from dither.report import curves

STEPS = np.arange(1, 51)
FALLING = 5 * np.exp(-STEPS / 10) + 2


def test_smoothing_keeps_a_line_and_its_ends():
    np.testing.assert_allclose(curves.smooth(FALLING * 0 + STEPS, 9), STEPS)


def test_smoothing_averages_neighbours_on_both_sides():
    np.testing.assert_allclose(curves.smooth(np.array([0.0, 0, 3, 0, 0]), 3), [0, 1, 1, 1, 0])


def test_smoothing_leaves_missing_values_out():
    values = np.array([1.0, np.nan, 5.0, 5.0])
    np.testing.assert_allclose(curves.smooth(values, 3), [1.0, 3.0, 5.0, 5.0])
    assert np.isnan(curves.smooth(np.full(3, np.nan), 3)).all()


def test_every_arm_has_its_own_colour_and_line_style():
    arms = [curves.Curve(f"arm {i}", STEPS, FALLING + i, i) for i in range(6)]
    axes = curves.loss_over_steps(arms, "validation loss", "nats per token").axes[0]
    assert [line.get_label() for line in axes.get_lines()] == [arm.name for arm in arms]
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.get_lines()}
    assert len(looks) == len({line.get_color() for line in axes.get_lines()}) == 6


def test_more_arms_than_colours_still_look_different():
    assert len({curves.colour_and_style(look) for look in range(24)}) == 24


def test_the_fall_at_the_start_does_not_flatten_the_end():
    values = FALLING.copy()
    values[0] = 1e6
    axes = curves.loss_over_steps([curves.Curve("a", STEPS, values, 0)], "t", "nats").axes[0]
    assert axes.get_ylim()[1] < 10


def test_a_loss_that_is_not_finite_is_left_out_of_the_row():
    losses = {"a": {"full precision": 2.0, "int4": np.nan}, "b": {"int4": 3.0}}
    figure = curves.final_losses(losses, "t", "nats")
    drawn = {c.get_label(): np.asarray(c.get_offsets()).tolist() for c in figure.axes[0].collections}
    assert drawn["full precision"] == [[2.0, 0.0]]
    assert drawn["int4"] == [[3.0, 1.0]]


def test_slow_down_bars_carry_their_values():
    axes = curves.slowdown({"fp32": 1.0, "mxfp8": 1.234}, "slow-down", "fp32").axes[0]
    assert [bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle)] == [1.0, 1.234]
    assert "1.23x" in " ".join(text.get_text() for text in axes.texts)


def test_the_same_data_give_the_same_png_bytes():
    pictures = [curves.png(curves.slowdown({"fp32": 1.0}, "t", "fp32")) for _ in range(2)]
    assert pictures[0] == pictures[1]
    assert pictures[0].startswith(b"\x89PNG")


def test_an_arm_keeps_its_look_when_others_are_missing():
    [alone] = (
        curves.loss_over_steps([curves.Curve("third", STEPS, FALLING, 2)], "t", "nats").axes[0].get_lines()
    )
    assert alone.get_color() == curves.COLOURS[2]
