"""Examples of every verb, as its help shows them; no part of the library is imported for them."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "init": (
        "adasap init torchvision:resnet18 photos --weights best.pth",
        "adasap init ./mymodel.py:build arrays.npz --budget size_mb=2 --out small.yaml",
    ),
    "options": (
        "adasap options",
        "adasap options pruning.budget",
        "adasap options sweep.cluster",
    ),
    "compress": (
        "adasap compress recipes/cifar10/resnet20_adasap_l2.yaml --dry-run",
        "adasap compress recipes/cifar10/resnet20_adasap_l2.yaml --set seed=1 --set fine_tune.epochs=3 --out runs/one",
    ),
    "compare": (
        "adasap compare runs/resnet20_adasap_l2 runs/resnet20_plain_l2",
        "adasap compare runs/* --baseline resnet20_plain_l2 --out comparison",
    ),
    "sweep": (
        "adasap sweep recipes/sweeps/digits_main.yaml --dry-run",
        "adasap sweep recipes/sweeps/digits_main.yaml --cluster local --workers 2",
    ),
    "demo": (
        "adasap demo",
        "adasap demo --task detection --out demo-detection",
        "adasap demo --task segmentation --out demo-segmentation",
    ),
    "evaluate": (
        "adasap evaluate runs/resnet20_adasap_l2",
        "adasap evaluate runs/resnet20_adasap_l2/model.safetensors --data npz:test.npz --suite clean --suite corrupted",
        "adasap evaluate runs/dense small=runs/resnet20_adasap_l2 --data npz:test.npz --suite clean --suite corrupted "
        "--out side-by-side",
        "adasap evaluate small.safetensors small.onnx small-int8.onnx --data npz:test.npz --out side-by-side",
        "adasap evaluate adasap:cifar_resnet20 --weights dense.safetensors --data cifar10:data --suite corrupted "
        "--corruptions fog,frost --severities 1,3,5 --limit 1000",
        "adasap evaluate torchvision:resnet50 --weights resnet50.safetensors --suite imagenet-val=imagenet --workers 8",
    ),
    "analyze": (
        "adasap analyze runs/resnet20_adasap_l2",
        "adasap analyze adasap=runs/a/model.safetensors plain=runs/b/model.safetensors --data npz:train.npz "
        "--only loss,worst_case --set worst_case.steps=20",
    ),
    "check": (
        "adasap check folder:photos --split train --workers 8",
        "adasap check voc:VOCdevkit --split 07+12 --out broken.txt",
    ),
    "profile": (
        "adasap profile runs/resnet20_adasap_l2/model.safetensors --batch 32",
        "adasap profile torchvision:resnet50 --latency-table rn50.json --threads 1",
        "adasap profile torchvision:resnet50 --latency-table rn50_int8.json --engine onnxruntime --int8",
    ),
    "groups": (
        "adasap groups torchvision:resnet50",
        "adasap groups torchvision:vit_b_16 --model-option num_classes=10 --size 224 --keep 'encoder.*'",
    ),
    "export": (
        "adasap export runs/resnet20_adasap_l2/model.safetensors small.onnx --to onnx",
        "adasap export runs/resnet20_adasap_l2 small-int8.onnx --to onnx --int8 --calibrate cifar10:data",
        "adasap export runs/resnet20_adasap_l2 small.pte --to executorch",
        "adasap export torchvision:resnet18 resnet18.pt2 --to torch-export --weights resnet18.safetensors",
    ),
    "prune": (
        "adasap prune torchvision:resnet18 small.safetensors --weights best.pth --model-option num_classes=5 "
        "--budget macs=0.5 --data photos",
        "adasap prune torchvision:resnet18 small.safetensors --weights best.pth --model-option num_classes=5 "
        "--budget size_mb=20 --data photos --criterion taylor --compensate least_squares --renew-norms",
    ),
}
