"""Everything a run needs to go on: weights, optimizer, plan, averages, evidence and counters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from adasap.criteria import Evidence
from adasap.errors import CheckpointError, TrainingError
from adasap.groups import ChannelGroup
from adasap.groups.bare import unwrap
from adasap.pruning import Preparation, PruningPlan
from adasap.sharpness import Strength


@dataclass
class Counters:
    """What a run has done so far."""

    step: int = 0
    events: int = 0
    skipped: int = 0
    passes: float = 0
    training_seconds: float = 0.0


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
        preparation: What is done to the channels that are to go.
        tried: What a searching selection has found at the coming event: numbers for each candidate.
        directions: Parameter name -> gradient of the last step, for variants of the step that remember it.
        strengths: Phase -> what its `loss_budget` of the start has measured.
        companions: Copies of the model that somebody else keeps, such as averages; cut alike.
    """

    model: nn.Module
    groups: Sequence[ChannelGroup]
    optimizer: torch.optim.Optimizer
    plan: PruningPlan
    evidence: Evidence
    averaged: AveragedModel | None = None
    counters: Counters = field(default_factory=Counters)
    preparation: Preparation = field(default_factory=Preparation)
    tried: list[tuple[float, ...]] = field(default_factory=list)
    directions: dict[str, Tensor] = field(default_factory=dict)
    strengths: dict[str, Strength] = field(default_factory=dict)
    companions: Sequence[nn.Module] = ()

    @property
    def copies(self) -> list[nn.Module]:
        """Whatever holds the same weights and is cut with the model, without wrappers."""
        return [unwrap(copy) for copy in (self.averaged, *self.companions) if copy is not None]

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
            "preparation": self.preparation.state(),
            "tried": self.tried,
            "optimizer_groups": optimizer["param_groups"],
            "optimizer_scalars": scalars,
            **({"strengths": {phase: s.state() for phase, s in self.strengths.items()}} if self.strengths else {}),
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
            self.evidence.load(_owned("evidence", tensors))
            nan = math.nan  # JSON knows no such number: it was kept as null
            self.tried = [tuple(nan if x is None else x for x in tried) for tried in metadata["tried"]]
            self.preparation.load(metadata["preparation"], self.model, self.groups)
            self.counters = Counters(**metadata["counters"])
            for phase, strength in self.strengths.items():
                strength.load(metadata["strengths"][phase])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"the checkpoint does not fit this run: {error}; start in a new folder") from error


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
