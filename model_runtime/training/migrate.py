"""The way to a unified model in steps, each of which leaves what serves as it is.

One network with the union of features and one head for all surfaces (`TrainConfig.has_one_head`); then a head per
surface (`with_a_head_each`, which scores as before until it is trained on); then exports per surface; and later a
surface that was not there (`add_surface`), on a trunk that does not move.

Shapes: R rows of the flat table, E embedding width.
"""

import copy
from collections.abc import Mapping
from dataclasses import asdict, replace

import numpy as np
import torch
from torch import Tensor

from control_plane.domain.errors import InvalidField, UnknownName
from control_plane.domain.model_version import Surface
from model_runtime.networks.engagement import EngagementNetwork
from model_runtime.networks.features import FeatureSpec, RowBatch
from model_runtime.training.data import Examples, split_by_time
from model_runtime.training.evaluate import expert_table, held_out_table, score_held_out
from model_runtime.training.fit import AddedPart, Progress, fit
from model_runtime.training.joint import JointCheckpoint, weights_of
from model_runtime.training.train import TrainConfig, calibrate, run_name, start_at_base_rates
from model_runtime.training.windows import InMemory, training_rates

UNCHANGED = 1e-6  # of a probability: what a surface that was there may move by when another is added


def with_a_head_each(network: EngagementNetwork) -> EngagementNetwork:
    """The same scores from a head per surface, so that training on may tell the surfaces apart."""
    heads = {surface: network.head_of(surface).config for surface in network.spec.surfaces}
    grown = EngagementNetwork(network.spec, network.trunk.config, heads)
    grown.trunk = copy.deepcopy(network.trunk)
    for surface in network.spec.surfaces:
        grown.head_of(surface).load_state_dict(network.head_of(surface).state_dict())
    return grown.train(network.training)


def add_surface(
    joint: JointCheckpoint,
    examples: Examples,
    surface: Surface,
    config: TrainConfig,
    *,
    progress: Progress | None = None,
) -> JointCheckpoint:
    """Train a head for a surface that the checkpoint lacks, and the embeddings of its view types; nothing else moves.

    The other surfaces keep their scores, their calibrators and their golden rows. Their exports get a new trunk
    digest all the same, since the flat table has grown by the new view types.

    Args:
        examples: rows of the new surface, and of others if need be, which are not trained on.
        config: of its trunk nothing is read, that is the checkpoint's.

    Raises:
        UnknownName: the examples know no such surface.
        InvalidField: it is there already, or the other features are not those of the checkpoint.
    """
    spec = grown_spec(joint.spec, examples.spec, surface)
    examples = replace(examples, spec=spec)
    data = InMemory(examples=examples, parts={surface: split_by_time(examples, surface, config.held_out)})
    rates = training_rates(data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = _grown(joint.network, spec, surface, config)
        start_at_base_rates(network, rates)
        added = AddedPart(surface=surface, first_row=len(joint.network.trunk.embedding.table))
        fit(network.to(config.device), data, config.fit, progress=progress, part=added)
    network = network.eval().to("cpu")
    _check_unchanged(joint, network)
    held_out = score_held_out(network, data)
    measured = {surface: calibrate(spec, surface, held_out[surface].calibration, config)}
    return JointCheckpoint(
        network=network,
        calibrators={**joint.calibrators, surface: calibrate(spec, surface, held_out[surface].all, config)},
        golden={**joint.golden, surface: held_out[surface].golden},
        training_run=f"{run_name(network, config)}-with-{surface}",
        metrics=_merged(
            joint.metrics,
            held_out=held_out_table(spec, measured, held_out),
            experts=expert_table(held_out),
            added={surface: asdict(config)},
        ),
        null_rates={**joint.null_rates, surface: rates[surface].null_F},
        fitted_on=weights_of(network) if joint.fitted_on else {},
    )


def grown_spec(before: FeatureSpec, told: FeatureSpec, surface: Surface) -> FeatureSpec:
    """The spec with one surface more, whose view types are counted after all others."""
    if surface in before.view_types:
        raise InvalidField("surface", f"{surface} is in the checkpoint already")
    if surface not in told.view_types:
        raise UnknownName("surface", surface, known=told.surfaces)
    own = {name: each for name, each in told.surface_features.items() if name == surface}
    spec = replace(
        before,
        view_types={**before.view_types, surface: told.view_types[surface]},
        surface_features={**before.surface_features, **own},
        surface_order=(*before.context_order, surface),
    )
    if replace(spec, surface_order=()) != replace(told, surface_order=()):
        raise InvalidField("features", f"must be those of the checkpoint and what {surface} alone has")
    return spec


def _grown(before: EngagementNetwork, spec: FeatureSpec, surface: Surface, config: TrainConfig) -> EngagementNetwork:
    heads = {name: before.head_of(name).config for name in before.spec.surfaces}
    network = EngagementNetwork(spec, before.trunk.config, {**heads, surface: config.heads.get(surface, config.head)})
    weights = before.trunk.state_dict()
    weights["embedding.table"] = _grown_table(before, network)
    network.trunk.load_state_dict(weights)
    for name in before.spec.surfaces:
        network.head_of(name).load_state_dict(before.head_of(name).state_dict())
    return network


def _grown_table(before: EngagementNetwork, network: EngagementNetwork) -> Tensor:
    """The rows that were there, and for each new view type the mean of those that are known."""
    table_RE = before.trunk.embedding.table.detach()
    known_RE = table_RE[before.trunk.embedding.starts[before.trunk.context_feature] + 1 :]
    new = len(network.trunk.embedding.table) - len(table_RE)
    return torch.cat((table_RE, known_RE.mean(0, keepdim=True).expand(new, -1)))


def _check_unchanged(joint: JointCheckpoint, network: EngagementNetwork) -> None:
    """A bug, if it is not so: whatever was trained, the surfaces that were there answer as before."""
    for surface, golden in joint.golden.items():
        before, after = (_probabilities(each, surface, golden) for each in (joint.network, network))
        moved = float(np.abs(before - after).max())
        assert moved <= UNCHANGED, f"{surface} moved by {moved} when a surface was added"


def _probabilities(network: EngagementNetwork, surface: Surface, batch: RowBatch) -> "np.typing.NDArray[np.float32]":
    with torch.inference_mode():
        return network(surface, batch).sigmoid().numpy()  # type: ignore[no-any-return]  # torch leaves it untyped


def _merged(metrics: Mapping[str, object], **added: Mapping[str, object]) -> dict[str, object]:
    merged = dict(metrics)
    for name, each in added.items():
        known = metrics.get(name)
        merged[name] = {**(known if isinstance(known, dict) else {}), **each}
    return merged
