"""Curves of a run for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from torch.utils.tensorboard import SummaryWriter

from adasap.report.records import PruneRecord, Record, StageRecord, StepRecord


class TensorBoardObserver:
    """Writes loss, gap and linear rise, factor of the radii, learning rate, gradient norm, kept cost, stage scores."""

    def __init__(self, folder: Path, *, every: int = 10) -> None:
        self._writer = SummaryWriter(str(folder))
        self._every = every

    def __call__(self, record: Record) -> None:
        for name, value in _curves(record, self._every).items():
            self._writer.add_scalar(name, value, record.step)

    def close(self) -> None:
        self._writer.close()


def _curves(record: Record, every: int) -> dict[str, float]:
    if isinstance(record, StepRecord) and record.step % every == 0:
        curves = {
            "train/loss": record.loss,
            "train/learning_rate": record.learning_rate,
            "train/gradient_norm": record.gradient_norm,
        }
        if record.gap is not None:
            curves["sharpness/gap"] = record.gap
        if record.linear_rise is not None:
            curves["sharpness/linear_rise"] = record.linear_rise
        if record.radius_factor is not None:
            curves["sharpness/radius_factor"] = record.radius_factor
        return curves | {f"sharpness/share_{k}": v for k, v in (record.radius_shares or {}).items()}
    if isinstance(record, PruneRecord):
        curves = {f"pruning/{record.unit.lower()}": record.cost, "pruning/mask_error": record.mask_error}
        if record.layer_errors:
            before, after = zip(*record.layer_errors.values(), strict=True)
            curves |= {"pruning/layer_error_before": fmean(before), "pruning/layer_error_after": fmean(after)}
        return curves
    if isinstance(record, StageRecord):
        return {f"evaluation/{suite}": score for suite, score in record.scores.items()}
    return {}
