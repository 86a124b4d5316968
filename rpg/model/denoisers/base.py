"""The interface of denoisers."""

from torch import Tensor, nn

# The width of a diffusion time's embedding.
TIME_WIDTH = 256


class Denoiser(nn.Module):
    """Predict the training target of each noisy token from the token, its diffusion time and its prototype.

    The constructor takes the denoiser's block of params.yaml, the token width D and the prototypes' width W. If `again`
    is set, the backward pass computes the activations of the denoiser's steps again.
    """

    again = False

    def forward(self, x_D: Tensor, t: Tensor, prototype_W: Tensor) -> Tensor:
        """Return the prediction [..., D] for noisy tokens [..., D], times `t` and prototypes [..., W].

        `t` broadcasts to [...]. Pass the time of several tokens once, as [B, 1] or [1]: half of the `mlp` denoiser's
        products depend on the time alone.
        """
        raise NotImplementedError
