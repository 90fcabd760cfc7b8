"""What the words of the page mean, for readers who did not make the run."""

from __future__ import annotations

from adasap.metric import Metric

WORDS = {
    "dense": "the model before anything was removed",
    "compressed": "the model after its last channel was removed and it was fine-tuned",
    "clean": "test images as they are",
    "corrupted": "the same images under noise, blur, weather and digital damage, severity 1 (weak) to 5; the mean over "
    "all of them",
    "shifted": "other images of the same classes, from another source",
    "95 %": "interval from 2,000 resamples of the test images: other images would stay within it 19 times of 20, "
    "another seed of the training may not",
    "points": "percentage points: from 80 % to 82 % is +2 points",
    "parameters": "numbers that the model stores; four bytes each in float32",
    "MACs": "multiply-accumulates of one image, the arithmetic of its convolutions and linear layers",
    "latency": "time of one call, the median; batch 1 is one image at a time",
    "pass": "one forward and backward computation of a batch; a sharpness-aware step takes two",
    "loss gap": "loss at the perturbed weights minus loss at the weights themselves: how sharp the minimum is",
    "group": "channels that can only be removed together, because additions or concatenations tie their layers",
    "warm-up, pruning, fine-tuning": "the three steps of the method: before, while and after channels are removed",
}


def words(metric: Metric) -> dict[str, str]:
    """The words of a page, its metric first where that says what it counts.

    Example:
        >>> list(words(Metric("mae", "count error", meaning="dots that are missed or invented")))[:2]
        ['count error', 'dense']
    """
    return {**({metric.label: metric.meaning} if metric.meaning else {}), **WORDS}
