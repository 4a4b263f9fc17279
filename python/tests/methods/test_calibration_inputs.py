"""What enters a layer, as methods on data see it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dither import methods
from dither.errors import UserError
from dither.methods.calibration import gram_of, groups_of

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(6, 5, 3, stride=2, dilation=2), (2, 6, 11)),
        (nn.Conv2d(6, 5, (3, 2), padding="same", padding_mode="circular"), (2, 6, 5, 4)),
        (nn.Conv2d(6, 5, 3, padding=1, padding_mode="reflect"), (6, 5, 4)),
        (nn.Conv3d(3, 5, 2, padding=1), (2, 3, 4, 3, 4)),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "",
)
def test_the_gram_matrix_of_a_convolution_is_that_of_its_patches(layer, shape):
    """tr(W G W^T) is the mean square of the outputs."""
    model, x = nn.Sequential(layer), torch.randn(shape, generator=torch.Generator().manual_seed(0))
    (target,) = methods.Ptq(model, "int4_g32", sites="conv").found
    (group,) = groups_of([target], x, model)
    rows = target.rows(layer.weight.detach()).double()
    with torch.no_grad():
        y = model(x) - layer.bias.view(-1, *[1] * (layer.weight.dim() - 2))
    positions = y.numel() / layer.weight.shape[0]
    found = torch.trace(rows @ gram_of(group, [x], model) @ rows.T)
    assert float(found) == pytest.approx(float(y.double().square().sum() / positions), rel=1e-5)
    methods.Gptq(model, "int4_g32", sites="conv").calibrate_([x])


def test_what_cannot_be_calibrated_is_named():
    for layer, x in (
        (nn.Conv2d(4, 4, 3, groups=2), torch.randn(2, 4, 5, 5)),
        (nn.ConvTranspose1d(4, 4, 3), torch.randn(2, 4, 5)),
    ):
        method = methods.Gptq(nn.Sequential(layer), "int4_g32", sites="conv")
        with pytest.raises(UserError, match=r"0\.weight: calibration knows.*exempt it"):
            method.calibrate_([x])
