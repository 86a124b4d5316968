"""The interface of denoisers."""

from torch import Tensor, nn

# Width of the embedding of a diffusion time.
TIME_WIDTH = 256


class Denoiser(nn.Module):
    """From a noisy token, its diffusion time and its prototype to a prediction, each token alone.

    The constructor takes the denoiser's block of params.yaml, the token width D and the prototypes' width W. If `again`
    is set, the activations of its steps are computed again in the backward pass.
    """

    again = False

    def forward(self, x_D: Tensor, t: Tensor, prototype_W: Tensor) -> Tensor:
        """The prediction [..., D] from noisy tokens [..., D], times that broadcast to [...], and prototypes [..., W].

        Tokens that share a time get it once, as [B, 1] or [1]: half of the `mlp` denoiser's products depend on the time
        alone.
        """
        raise NotImplementedError
