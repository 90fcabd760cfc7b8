"""Trains a small network on scikit-learn's digits in a plain PyTorch loop."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

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


def loss_and_backward(batch, labels):
    loss = nn.functional.cross_entropy(model(batch), labels)
    loss.backward()
    return loss


for _ in range(epochs):
    for batch, labels in loader:
        loss_and_backward(batch, labels)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()

with torch.no_grad():
    accuracy = (model.eval()(images[1400:]).argmax(1) == targets[1400:]).float().mean().item()
print(f"accuracy {accuracy:.3f}, {sum(p.numel() for p in model.parameters()):,} parameters")
