"""BatchNorm whose batch is that of all processes of a training; torch's SyncBatchNorm is for GPUs alone."""

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional


class BatchNorm(nn.BatchNorm1d):
    """As `nn.BatchNorm1d`, x [n, C, D] → [n, C, D]; statistics over n and D of all processes, n being 0 in some.

    In one process the same bits. `counts`: whether a batch enters the running statistics.
    """

    counts = True
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, x_nCD: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x_nCD)
        momentum = self.momentum if self.counts and self.momentum else 0.0
        if self.counts:
            self.num_batches_tracked.add_(1)
        if not (distributed.is_initialized() and distributed.get_world_size() > 1):
            return functional.batch_norm(
                x_nCD, self.running_mean, self.running_var, self.weight, self.bias, True, momentum, self.eps
            )
        values_nCD = x_nCD.float()
        count = torch.full((1,), values_nCD.shape[0] * values_nCD.shape[2], dtype=torch.float32, device=x_nCD.device)
        totals = all_reduce(torch.cat([values_nCD.sum((0, 2)), count]))
        mean_C1, count = totals[:-1, None] / totals[-1], totals[-1].detach()
        # Squares of what is left, in a second sum: a difference of two large numbers would lose digits.
        centred_nCD = values_nCD - mean_C1
        variance_C = all_reduce(centred_nCD.square().sum((0, 2))) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean_C1[:, 0], momentum)
            self.running_var.lerp_(variance_C * count / (count - 1), momentum)
        scale_C1 = (self.weight / (variance_C + self.eps).sqrt()).unsqueeze(1)
        return (centred_nCD * scale_C1 + self.bias.unsqueeze(1)).to(x_nCD.dtype)
