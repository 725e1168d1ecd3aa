"""Each agent's generated weights as a plain network, for robots and servers that know nothing of hypernetworks.

TorchScript is deprecated in PyTorch 2.13, so the formats are `torch.export` (`.pt2`) and ONNX.
Letters: `B` samples, `O` observation, `A` action, `H` hidden width.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hypermarl.envs.interface import Discrete
from hypermarl.errors import UserError
from hypermarl.evaluation.metrics import write_json
from hypermarl.marl.distributions import to_box
from hypermarl.marl.squad import Squad
from hypermarl.marl.team import Team
from hypermarl.spec import Weights
from hypermarl.targets import GRUTarget

Output = Literal["action", "logits"]
Writer = Callable[["PlainPolicy", tuple[Tensor, ...], Path], None]
FORMATS = ("pt2", "onnx")
FORMAT = 1
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
}


class PlainPolicy(nn.Module):
    """One agent's own multi-layer perceptron: observation `[B, O]` -> action or logits.

    An `action` is the greedy one: int64 `[B]`, or float32 `[B, A]` inside the environment's box. `logits` `[B, A]` are
    those of a discrete policy; of a continuous one, the location of its distribution before squashing and scaling.
    """

    low: Tensor
    high: Tensor

    def __init__(self, layers: nn.Sequential, squad: Squad, output: Output) -> None:
        super().__init__()
        self.layers = layers
        self.output = output
        self.kind = squad.policy.distribution
        self.register_buffer("low", squad.policy.low.detach().cpu().clone(), persistent=False)
        self.register_buffer("high", squad.policy.high.detach().cpu().clone(), persistent=False)

    def forward(self, observation: Tensor) -> Tensor:
        return self.decide(self.layers(observation))

    def decide(self, outputs: Tensor) -> Tensor:
        if self.output == "logits":
            return outputs
        if self.kind == "categorical":
            return outputs.argmax(-1)
        return to_box(self.kind, outputs, self.low, self.high).clamp(self.low, self.high)


class PlainRecurrentPolicy(PlainPolicy):
    """One agent's own recurrent network: observation `[B, O]`, memory `[B, H]` -> action or logits, memory `[B, H]`.

    The memory is zero at the first step of an episode.
    """

    def __init__(
        self, body: nn.Sequential, cell: nn.GRUCell, layers: nn.Sequential, squad: Squad, output: Output
    ) -> None:
        super().__init__(layers, squad, output)
        self.body = body
        self.cell = cell

    def forward(self, observation: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        after = self.cell(self.body(observation), memory)
        return self.decide(self.layers(after)), after


def plain(team: Team, agent: str, output: Output = "action") -> PlainPolicy:
    """The agent's network with its weights in place; an id it used to read is folded into the first bias."""
    if output not in ("action", "logits"):
        raise UserError(f"An exported policy gives 'action' or 'logits', not {output!r}.")
    squad, weights = team.squad_of(agent), team.weights(agent)
    weights = {name: tensor.float().cpu() for name, tensor in weights.items()}
    target = squad.policy.actor.target
    identity = squad.identity[squad.agents.index(agent)].cpu()
    first = "body.input" if isinstance(target, GRUTarget) else "layers.0"
    weights = _fold(weights, first, identity)
    bend = _ACTIVATIONS[target.activation]  # type: ignore[attr-defined]
    if isinstance(target, GRUTarget):
        body = nn.Sequential(_linear(weights, "body.input"), bend())
        head = _stack(weights, [f"head.{i}" for i in range(target.layers)], bend)
        made: PlainPolicy = PlainRecurrentPolicy(body, _cell(weights, target.hidden), head, squad, output)
    else:
        names = [f"layers.{i}" for i in range(target.layers)]  # type: ignore[attr-defined]
        made = PlainPolicy(_stack(weights, names, bend), squad, output)
    return made.eval().requires_grad_(False)


def export(
    team: Team,
    folder: str | Path,
    *,
    agents: Sequence[str] | None = None,
    formats: Sequence[str] = FORMATS,
    output: Output = "action",
) -> list[Path]:
    """Write `<agent>.pt2`, `<agent>.onnx` and `<agent>.json` for each agent; returns the files written."""
    for name in formats:
        if name not in FORMATS:
            raise UserError(f"There is no export format {name!r}, only {' and '.join(FORMATS)}.")
    if "onnx" in formats:
        _need("onnx", "onnxscript")
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise UserError(f"Cannot write {target}: {fault.strerror or fault}.") from None
    writers: dict[str, Writer] = {"pt2": _write_pt2, "onnx": _Onnx()}
    written: list[Path] = []
    for agent, stem in _file_names(agents or team.agents).items():
        module = plain(team, agent, output)
        found = {}
        for name in formats:
            path = found[name] = target / f"{stem}.{name}"
            try:
                with _quiet():
                    writers[name](module, _example(team, agent), path)
            except OSError as fault:
                raise UserError(f"Cannot write {path}: {fault.strerror or fault}.") from None
        written += [*found.values(), write_json(target / f"{stem}.json", _describe(team, agent, module, found))]
    return written


def _fold(weights: Weights, first: str, identity: Tensor) -> Weights:
    """W [observation; id] + b = W_o observation + (W_id id + b), for an id that never changes."""
    if not len(identity):
        return weights
    matrix = weights[f"{first}.weight"]
    seen, told = matrix[: -len(identity)], matrix[-len(identity) :]
    bias = weights[f"{first}.bias"].double() + identity.double() @ told.double()
    return weights | {f"{first}.weight": seen, f"{first}.bias": bias.float()}


@torch.no_grad()
def _linear(weights: Weights, name: str) -> nn.Linear:
    matrix = weights[f"{name}.weight"]
    layer = nn.Linear(*matrix.shape)
    layer.weight.copy_(matrix.T)  # [in, out] inside, [out, in] outside
    layer.bias.copy_(weights[f"{name}.bias"])
    return layer


def _stack(weights: Weights, names: Sequence[str], bend: type[nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for name in names:
        layers += [_linear(weights, name), bend()]
    return nn.Sequential(*layers[:-1])


@torch.no_grad()
def _cell(weights: Weights, hidden: int) -> nn.GRUCell:
    cell = nn.GRUCell(hidden, hidden)
    cell.weight_ih.copy_(weights["body.gates_input.weight"].T)
    cell.bias_ih.copy_(weights["body.gates_input.bias"])
    cell.weight_hh.copy_(weights["body.gates_hidden.weight"].T)
    cell.bias_hh.copy_(weights["body.gates_hidden.bias"])
    return cell


def _example(team: Team, agent: str) -> tuple[Tensor, ...]:
    """Inputs to trace with, B=2 (a batch of one would be taken for a constant)."""
    squad = team.squad_of(agent)
    observation = torch.zeros(2, squad.group.observation)
    return (observation, squad.blank(2).cpu()) if squad.policy.recurrent else (observation,)


def _names(module: PlainPolicy) -> tuple[list[str], list[str]]:
    if isinstance(module, PlainRecurrentPolicy):
        return ["observation", "memory"], [module.output, "memory_after"]
    return ["observation"], [module.output]


def _batched(inputs: tuple[Tensor, ...]) -> tuple[dict[int, Any], ...]:
    batch = torch.export.Dim("batch")
    return tuple({0: batch} for _ in inputs)


def _write_pt2(module: PlainPolicy, inputs: tuple[Tensor, ...], path: Path) -> None:
    program = torch.export.export(module, inputs, dynamic_shapes=_batched(inputs))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    torch.export.save(program, path)


class _Onnx:
    """Writes ONNX; networks of one shape are traced once and then get each agent's weights (a trace takes a second)."""

    def __init__(self) -> None:
        self._traced: dict[str, Any] = {}

    def __call__(self, module: PlainPolicy, inputs: tuple[Tensor, ...], path: Path) -> None:
        from onnx import numpy_helper

        state = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
        key = repr((module, module.output, module.kind, module.low.tolist(), module.high.tolist()))
        if key not in self._traced:
            self._traced[key] = self._trace(module, inputs)
        model = self._traced[key]
        places = {place.name: place for place in model.graph.initializer}
        for name, array in state.items():
            places[name].CopyFrom(numpy_helper.from_array(array, name))
        path.write_bytes(model.SerializeToString())

    def _trace(self, module: PlainPolicy, inputs: tuple[Tensor, ...]) -> Any:
        names, outputs = _names(module)
        program = torch.onnx.export(
            module,
            inputs,
            dynamo=True,
            dynamic_shapes=_batched(inputs),
            input_names=names,
            output_names=outputs,
            verbose=False,
        )
        assert program is not None
        model = program.model_proto
        for part in (model, model.graph, *model.graph.node, *model.graph.value_info):
            part.ClearField("metadata_props")  # paths of this machine
        return model


def _describe(team: Team, agent: str, module: PlainPolicy, files: Mapping[str, Path]) -> dict[str, Any]:
    squad = team.squad_of(agent)
    action = squad.group.action
    meaning: dict[str, Any]
    if isinstance(action, Discrete):
        meaning = {"kind": "discrete", "n": action.n, "masked": squad.group.masked}
    else:
        meaning = {
            "kind": "continuous",
            "low": list(action.low),
            "high": list(action.high),
            "distribution": squad.policy.distribution,
            "log_std": team.weights(agent)["log_std"].tolist(),
        }
    names, outputs = _names(module)
    found: dict[str, Any] = {
        "format": FORMAT,
        "agent": agent,
        "group": squad.group.name,
        "environment": f"{team.config.env.kind}/{team.config.env.name}",
        "inputs": names,
        "outputs": outputs,
        "observation": squad.group.observation,
        "action": meaning,
        "parameters": sum(p.numel() for p in module.parameters()),
        "files": {name: {"name": path.name, "sha256": _sha(path)} for name, path in files.items()},
    }
    if isinstance(module, PlainRecurrentPolicy):
        found["memory"] = module.cell.hidden_size
    if team.checkpoint is not None:
        policy = team.checkpoint.path / "policy.safetensors"
        found["checkpoint"] = {"frame": team.checkpoint.frame, "sha256": _sha(policy)}
    return found


def _sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _file_names(agents: Sequence[str]) -> dict[str, str]:
    """A name for each agent's files: agents may be called anything, files may not."""
    found: dict[str, str] = {}
    for agent in agents:
        stem = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in agent)
        while stem in found.values():
            stem += "_"
        found[agent] = stem
    return found


def _need(*packages: str) -> None:
    for package in packages:
        if find_spec(package) is None:
            raise UserError(f"ONNX export needs {package}: pip install 'hypermarl[export]'.")


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters warn about their own insides, and about packages that play no part here."""
    loud = logging.getLogger("torch.onnx")
    level = loud.level
    loud.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        loud.setLevel(level)
