"""Trains and cuts a ViT and a ResNet of Transformers, made from configurations, on scikit-learn digits; offline."""

import tempfile

import torch
import transformers
from sklearn.datasets import load_digits

import adasap
from adasap.integrations.transformers import AdaSAPTrainer, load_pretrained
from adasap.pruning import PruningOptions

torch.manual_seed(0)
digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
data = [{"pixel_values": image, "labels": int(label)} for image, label in zip(images, digits.target, strict=True)]
common = {"num_channels": 1, "num_labels": 10}
vit = transformers.ViTConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    image_size=8,
    patch_size=2,
    **common,
)
resnet = transformers.ResNetConfig(
    embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", **common
)
models = (transformers.ViTForImageClassification(vit), transformers.ResNetForImageClassification(resnet))
pruning = PruningOptions(epochs=1, events=2, every=2, budget=adasap.BudgetOptions(macs=0.6), recalibration_batches=2)

for model in models:
    with tempfile.TemporaryDirectory() as folder:
        before = model.num_parameters()
        trainer = AdaSAPTrainer(
            model,
            transformers.TrainingArguments(
                folder,
                per_device_train_batch_size=64,
                num_train_epochs=3,
                learning_rate=2e-3,
                save_strategy="no",
                report_to=[],
            ),
            train_dataset=data[:640],
            config=adasap.Compression(pruning=pruning),
            example_inputs={"pixel_values": images[:1]},
        )
        trainer.train()
        trainer.save_model(folder)
        loaded = load_pretrained(folder)
    with torch.no_grad():
        accuracy = (loaded(images[1400:]).logits.argmax(1) == torch.tensor(digits.target[1400:])).float().mean()
    name = type(model).__name__
    print(f"{name}: accuracy {accuracy:.3f}, {loaded.num_parameters():,} of {before:,} parameters")
