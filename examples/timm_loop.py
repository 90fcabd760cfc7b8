"""Trains a small network of timm on scikit-learn's digits with parts of timm's train script."""

import timm
import torch
from sklearn.datasets import load_digits
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3, accuracy
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
digits = load_digits()
images, targets = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
images = torch.nn.functional.interpolate(images, size=32)
loader = DataLoader(TensorDataset(images[:400], targets[:400]), batch_size=100, shuffle=True)
model = timm.create_model("test_resnet", in_chans=1, num_classes=10)
epochs = 3
criterion = LabelSmoothingCrossEntropy(0.1)
optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-2, weight_decay=0.05)
scheduler = CosineLRScheduler(optimizer, t_initial=epochs)
average = ModelEmaV3(model, decay=0.9)


def loss_and_backward(batch, labels):
    loss = criterion(model(batch), labels)
    loss.backward()
    return loss


for epoch in range(epochs):
    model.train()
    for batch, labels in loader:
        loss_and_backward(batch, labels)
        optimizer.step()
        average.update(model)
        optimizer.zero_grad()
    scheduler.step(epoch + 1)

with torch.no_grad():
    (top1,) = accuracy(average.module.eval()(images[400:600]), targets[400:600])
print(f"accuracy {top1 / 100:.3f}, {sum(p.numel() for p in model.parameters()):,} parameters")
