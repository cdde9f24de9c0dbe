"""Autograd graph of a metered call: where its backward pass starts, and what that computes."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from steelyard.harness.budget.flops import CallCost, tensors

if TYPE_CHECKING:
    from torch import nn
    from torch.autograd.graph import Node


class Call(NamedTuple):
    """Call of a watched module."""

    module: "nn.Module"
    cost: CallCost
    inputs: "list[Node]"

    def executed_backward(self) -> float:
        """Return the cost of the backward pass in progress, by the gradients that it computes."""
        if self.cost.to_weights == self.cost.backward == self.cost.to_inputs:
            return self.cost.backward  # most calls: looking up gradients takes time
        weights = any(_computed(edges(parameter)) for parameter in self.module.parameters())
        inputs = _computed(self.inputs)
        if weights == inputs:  # neither: it ends at an activation inside
            return self.cost.backward
        return self.cost.to_weights if weights else self.cost.to_inputs


def on_backward(at: "list[Node]", executed: Callable[[], None]) -> None:
    """Call ``executed`` once per backward pass that goes through any of these nodes."""
    #
    #   inputs --> [ layers before | part: last block ] --> output --> loss
    #                              ^                          ^
    #              entrance: charges the rest     output: charges the part
    #
    # A backward pass that only needs gradients inside the part never reaches the entrance, and is
    # not charged for the rest. The charge is made when torch executes a node, and torch gives each
    # backward pass an id: several nodes of one pass charge once, and a second pass over the same
    # graph charges again.
    #
    # Any of the nodes, because the loss may depend on a hidden state and not on the last one.
    # Nodes and not tensors, because a gradient of a tensor does not go through its node.
    import torch

    latest = -1

    def reached(gradients: Any) -> None:
        nonlocal latest
        current = torch._C._current_graph_task_id()
        if current != latest:
            latest = current
            executed()

    for node in at:
        node.register_prehook(reached)


def _computed(nodes: "list[Node]") -> bool:
    """Say whether the backward pass in progress computes the gradient at any of these nodes."""
    import torch

    try:
        return any(map(torch._C._will_engine_execute_node, nodes))
    except RuntimeError:  # torch's answer for a leaf whose gradient is to be returned
        return True


def edges(value: Any) -> "list[Node]":
    """Return the graph nodes at which gradients of these tensors arrive, leaves included."""
    from torch.autograd.graph import get_gradient_edge

    return [get_gradient_edge(tensor).node for tensor in tensors(value) if tensor.requires_grad]


def nodes(value: Any) -> "list[Node]":
    """Return the graph nodes through which a backward pass leaves these tensors."""
    return [tensor.grad_fn for tensor in tensors(value) if tensor.grad_fn is not None]
