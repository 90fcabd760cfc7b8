"""Everything a run needs to go on: weights, optimizer, plan, averages, evidence and counters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from adasap.criteria import Evidence
from adasap.errors import CheckpointError, TrainingError
from adasap.groups import ChannelGroup
from adasap.pruning import PruningPlan, SoftMask


@dataclass
class Counters:
    """What a run has done so far."""

    step: int = 0
    events: int = 0
    skipped: int = 0
    passes: float = 0
    training_seconds: float = 0.0


class Verdict(NamedTuple):
    """How good a candidate is: the task's mean score (the higher the better) and mean loss on training batches."""

    score: float
    loss: float

    def rank(self, by: Literal["score", "loss"]) -> tuple[float, float]:
        """By which candidates are compared, the larger the better; what is not a number is worst.

        Example:
            >>> Verdict(0.5, 1.0).rank("score") > Verdict(0.5, 2.0).rank("score")
            True
            >>> Verdict(float("nan"), float("nan")).rank("loss")
            (-inf, -inf)
        """
        score = -math.inf if math.isnan(self.score) else self.score
        gain = -math.inf if math.isnan(self.loss) else -self.loss
        return (score, gain) if by == "score" else (gain, score)


@dataclass
class TrainingState:
    """The moving parts of a run.

    Attributes:
        model: The plain module, cut in place as the run goes on.
        groups: Its groups as they are now.
        optimizer: Over the model's parameters; momentum survives the cuts.
        plan: What has been kept so far, in the dense model's indices.
        evidence: Gradient evidence since the last pruning event.
        averaged: Exponential moving average of the weights, if wanted.
        soft_mask: The channels that are masked until a later event, if any.
        tried: Verdicts on the first candidates of the coming event.
        directions: Parameter name -> gradient of the last step, for steps whose direction is stale.
    """

    model: nn.Module
    groups: Sequence[ChannelGroup]
    optimizer: torch.optim.Optimizer
    plan: PruningPlan
    evidence: Evidence
    averaged: AveragedModel | None = None
    counters: Counters = field(default_factory=Counters)
    soft_mask: SoftMask | None = None
    tried: list[Verdict] = field(default_factory=list)
    directions: dict[str, Tensor] = field(default_factory=dict)

    def masking(self) -> AbstractContextManager[None]:
        """For a pass: what is masked for now is masked inside."""
        return nullcontext() if self.soft_mask is None else self.soft_mask.applied()

    def divergence(self, sign: str) -> TrainingError:
        """The error to raise where training went off to infinity, and by which sign it was noticed."""
        return TrainingError(
            f"training has diverged: {sign} after step {self.counters.step} (learning rate "
            f"{self.optimizer.param_groups[0]['lr']:.3g}); lower training.optimizer.learning_rate or rho"
        )

    def require_finite(self) -> None:
        """Raises the error of `divergence` if a weight is not finite."""
        weights = [p.detach() for p in self.model.parameters()]
        if not bool(torch.stack(torch._foreach_norm(weights)).isfinite().all()):
            raise self.divergence("weights are not finite")

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor under a name with its owner as prefix; no copies."""
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{key}": v for key, v in state.items() if isinstance(v, Tensor)}
        if self.averaged is not None:
            tensors |= {f"averaged/{name}": tensor for name, tensor in self.averaged.state_dict().items()}
        tensors |= {f"direction/{name}": tensor for name, tensor in self.directions.items()}
        return tensors | {f"evidence/{name}": tensor for name, tensor in self.evidence.state().items()}

    def metadata(self) -> dict[str, Any]:
        """Everything that is not a tensor, ready for JSON."""
        optimizer = self.optimizer.state_dict()
        scalars = {
            index: {key: value for key, value in state.items() if not isinstance(value, Tensor)}
            for index, state in optimizer["state"].items()
        }
        return {
            "counters": asdict(self.counters),
            "plan": self.plan.to_json(),
            "masked": None if self.soft_mask is None else self.soft_mask.plan.to_json(),
            "tried": self.tried,
            "optimizer_groups": optimizer["param_groups"],
            "optimizer_scalars": scalars,
        }

    def load(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        """Fills a state whose model has already been cut to the checkpoint's plan.

        Raises:
            CheckpointError: If names or shapes do not fit.
        """
        try:
            self.model.load_state_dict(_owned("model", tensors))
            self.optimizer.load_state_dict(_optimizer_state(tensors, metadata))
            if self.averaged is not None:
                self.averaged.load_state_dict(_owned("averaged", tensors))
            self.directions |= _like(dict(self.model.named_parameters()), _owned("direction", tensors))
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(f"the checkpoint does not fit this run: {error}; start in a new folder") from error
        self.evidence.load(_owned("evidence", tensors))
        self.tried = [Verdict(*verdict) for verdict in metadata.get("tried", [])]
        if masked := metadata.get("masked"):
            self.soft_mask = SoftMask(self.model, self.groups, PruningPlan.from_json(masked))
        self.counters = Counters(**metadata["counters"])


def _owned(owner: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{owner}/"
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


@torch.no_grad()
def _like(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the devices and in the layouts of the parameters: the order of sums follows strides."""
    return {name: torch.empty_like(parameters[name]).copy_(tensor) for name, tensor in tensors.items()}


def _optimizer_state(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {int(i): dict(v) for i, v in metadata["optimizer_scalars"].items()}
    for name, tensor in _owned("optimizer", tensors).items():
        index, key = name.split("/", 1)
        state.setdefault(int(index), {})[key] = tensor
    return {"state": state, "param_groups": metadata["optimizer_groups"]}
