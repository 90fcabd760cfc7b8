"""What options mean, as help says it; no part of the library is imported for them."""

from __future__ import annotations

from adasap.experiments.known_names import ENGINES, TARGETS

# of several verbs
MODEL = (
    "A model file (model.safetensors), the folder of a run, torchvision:NAME, timm:NAME, smp:NAME, adasap:NAME, "
    "module:function, or a recipe (its dense model)."
)
MODELS = f"{MODEL} Also an exported .onnx, .xml or .pte. Several are shown side by side; NAME=MODEL names one."
DATA = "Of --data: exif_orientation=false, white=4095, skip_broken=true, follow_links=true, split=val; repeat."
CHANNELS = "Of a named model's inputs, a number per channel; a model file knows its own."
WEIGHTS = "File (.safetensors, .pth, .pt, .ckpt) that fills a named model, or DEFAULT: published ones."
INPUTS = "Of a named model's inputs; a model file knows its own."
SIZE = "Image side in pixels; a model file knows its own."
KIND = "what its kind is made for"
TRUST = "Let a file (model, recipe, run) import the module that it names."

# init, compress, compare, sweep, demo
MODEL_INIT = "torchvision:NAME, timm:NAME, smp:NAME, adasap:NAME, ./mymodel.py:build, or a model file that was not cut."
KEY = "With all keys below it, such as pruning.budget; sweep, of sweeps. All keys by default."
DATA_INIT = "A folder or file of images, or KIND:PATH."
TASK_INIT = "classification, detection, segmentation, or one of your own."
RUNS = "Folders that `adasap compress` made."
BASELINE = "What gains are measured from: a run's name or folder, or dense."
FILE = "YAML file; see recipes/sweeps/."
RESULTS = "Results file: its cells are taken over, and all are written to it."
BESIDE = "NAME.json beside NAME.yaml, if there is one"
FOR = "Begin no cell past this time, such as 150m or 2h."
CLUSTER = "Run the cells through Ray, here or on its cluster."
OUT = "Folder of the cells, which sweeps may share, and of results."
TASK = "Handwritten digits, or boxes around drawn shapes, or their masks."

# profile, groups, export, prune
BATCH = "The larger batch; batch 1 is always measured."
TABLE = "Time the single layers instead, for latency budgets; resumes."
ENGINE = f"What runs the models: {', '.join(ENGINES)}."
PLANS = "Random plans that the latency table is tried on."
TO = f"{', '.join(TARGETS)}, or one of your own: for onnxruntime, OpenVINO, ExecuTorch, torch.export.load, adasap.load."
KEEP = "Patterns of modules whose channels stay: a list with commas, or repeated."
TABLE_INEXACT = "Let the table know widths under norms, too, for budgets that may cut these."
ALLOW_INEXACT = "Cut channels under a norm or mean over them, too; what is not exact is marked."
DEPTH = "List the residual branches that can be taken out whole, too."
BATCH_EXPORT = "The one batch size the file takes; ExecuTorch's always take one, by default 1."
BUDGET = "What may be left: macs=0.5, parameters=1000000, size_mb=2, latency=0.5,latency_table=FILE; and depth=true."
DATA_PRUNE = "Images for what looks at some, and for scores before and after: a folder, or KIND:PATH."
SPLIT_PRUNE = "Of --data: what criteria, compensation and norms look at."
RANKING = "Channels that are compared: of the whole model, of each group, or of groups built alike."
COMPENSATE = "New weights for what reads the channels that went; least_squares wants --data."
