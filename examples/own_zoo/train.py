"""A zoo to try RPG with: `python examples/own_zoo/train.py` trains 3 networks and saves 10 checkpoints of each.

Plain PyTorch, as your own zoo may have been trained; nothing here knows of RPG.
"""

from pathlib import Path

import torch
from network import build, digits
from torch.nn.functional import cross_entropy

CHECKPOINTS = Path(__file__).parent / "checkpoints"
# Steps until the network is good, checkpoints after that, steps from one to the next.
STEPS, SAVES, SAVE_EVERY = 300, 10, 10

images, labels = digits("train")
for seed in range(3):
    torch.manual_seed(seed)
    network = build()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    folder = CHECKPOINTS / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    for step in range(1, STEPS + SAVES * SAVE_EVERY + 1):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (1 - step / STEPS) + 0.0005 if step < STEPS else 0.0005
        batch = torch.randint(len(labels), (64,))
        loss = cross_entropy(network(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step > STEPS and (step - STEPS) % SAVE_EVERY == 0:
            torch.save(network.state_dict(), folder / f"step-{step}.pth")
    print(f"{folder.name}: {SAVES} checkpoints, last loss {loss.item():.4f}")
