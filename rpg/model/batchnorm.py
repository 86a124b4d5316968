"""BatchNorm over the batches of all processes of a training. torch's SyncBatchNorm runs on GPUs only."""

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional


class BatchNorm(nn.BatchNorm2d):
    """Normalize x [n, C, 1, D] as `nn.BatchNorm2d` does, with statistics over n and D of all processes.

    Some processes may have n = 0. In one process the result equals `nn.BatchNorm2d` bit by bit. `counts` says whether a
    batch enters the running statistics.
    """

    counts = True
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, x_nC1D: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x_nC1D)
        momentum = self.momentum if self.counts and self.momentum else 0.0
        if self.counts:
            self.num_batches_tracked.add_(1)
        if not (distributed.is_initialized() and distributed.get_world_size() > 1):
            return functional.batch_norm(
                x_nC1D, self.running_mean, self.running_var, self.weight, self.bias, True, momentum, self.eps
            )
        values_nC1D = x_nC1D.float()
        count = torch.full((1,), values_nC1D.shape[0] * values_nC1D.shape[3], dtype=torch.float32, device=x_nC1D.device)
        totals = all_reduce(torch.cat([values_nC1D.sum((0, 2, 3)), count]))
        mean_C11, count = totals[:-1, None, None] / totals[-1], totals[-1].detach()
        # A second sum, of the centered values: a difference of two large sums would lose digits.
        centred_nC1D = values_nC1D - mean_C11
        variance_C = all_reduce(centred_nC1D.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean_C11.flatten(), momentum)
            self.running_var.lerp_(variance_C * count / (count - 1), momentum)
        scale_C11 = (self.weight / (variance_C + self.eps).sqrt())[:, None, None]
        return (centred_nC1D * scale_C11 + self.bias[:, None, None]).to(x_nC1D.dtype)
