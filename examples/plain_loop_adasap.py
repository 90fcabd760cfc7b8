"""Trains a small network on scikit-learn's digits in a plain PyTorch loop, and halves its multiply-accumulates."""

from functools import partial

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from adasap import BudgetOptions, Compression
from adasap.integrations import LoopCompression
from adasap.pruning import PruningOptions

torch.manual_seed(0)
digits = load_digits()
images, targets = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
loader = DataLoader(TensorDataset(images[:1400], targets[:1400]), batch_size=100, shuffle=True)
model = nn.Sequential(
    *(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU()),
    *(nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.ReLU()),
    *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
)
epochs = 4
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
config = Compression(pruning=PruningOptions(epochs=1, events=3, every=2, budget=BudgetOptions(macs=0.5)))
kept = {"steps_per_epoch": len(loader), "batches": [images[:500]]}
compression = LoopCompression(model, images[:1], config, optimizer, **kept)


def loss_and_backward(batch, labels):
    loss = nn.functional.cross_entropy(model(batch), labels)
    loss.backward()
    return loss


for _ in range(epochs):
    for batch, labels in loader:
        compression.gradients(partial(loss_and_backward, batch, labels))
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        compression.step()

with torch.no_grad():
    accuracy = (model.eval()(images[1400:]).argmax(1) == targets[1400:]).float().mean().item()
print(f"accuracy {accuracy:.3f}, {sum(p.numel() for p in model.parameters()):,} parameters")
