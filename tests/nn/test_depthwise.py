"""The depthwise convolution's own gradients against those of torch."""

import pytest
import torch
from torch.nn import functional

from svkit.nn.depthwise import depthwise_conv


@pytest.mark.parametrize(
    ("batch", "channels", "frames", "taps"), [(1, 1, 5, 5), (1, 3, 40, 31), (4, 7, 31, 31), (3, 16, 129, 4)]
)
@pytest.mark.parametrize("trained", ["input", "weight", "both"])
def test_gradients_are_those_of_torch(
    batch: int, channels: int, frames: int, taps: int, trained: str
) -> None:
    # Given an input as the encoder passes it, with time not the fastest dimension
    torch.manual_seed(0)
    values = torch.randn(batch, frames, channels).transpose(1, 2)
    weight = torch.randn(channels, 1, taps)
    values.requires_grad_(trained != "weight")
    weight.requires_grad_(trained != "input")
    direction = torch.randn(batch, channels, frames - taps + 1)
    wanted = [tensor for tensor in (values, weight) if tensor.requires_grad]

    # When
    output = depthwise_conv(values, weight)
    expected = functional.conv1d(values, weight, groups=channels)
    found = torch.autograd.grad(output, wanted, direction)

    # Then
    assert output.grad_fn is not None and "DepthwiseConv" in output.grad_fn.name()
    torch.testing.assert_close(output, expected, rtol=0, atol=0)
    for ours, reference in zip(found, torch.autograd.grad(expected, wanted, direction), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)


def test_without_gradients_it_is_torchs_convolution() -> None:
    values, weight = torch.randn(2, 3, 40), torch.randn(3, 1, 31, requires_grad=True)
    with torch.no_grad():
        output = depthwise_conv(values, weight)
    assert output.grad_fn is None
    torch.testing.assert_close(output, functional.conv1d(values, weight.detach(), groups=3), rtol=0, atol=0)
