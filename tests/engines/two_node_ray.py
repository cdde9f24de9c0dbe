"""A Ray cluster of two nodes on this machine.

with two_node_ray() as (environment, lose_node):
    subprocess.run(["steelyard", "run", "quick", "--on", "ray"], env=environment)
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STORE = 80 * 2**20
"""Bytes of a node's object store; a plan's cells exchange a few."""


@contextmanager
def two_node_ray() -> Iterator[tuple[dict[str, str], Callable[[], None]]]:
    """Start two nodes with one CPU each; yield the environment of clients, and what kills one."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    node = {"num_cpus": 1, "object_store_memory": STORE}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        second = cluster.add_node(**node)
        environment = {**os.environ, "RAY_ADDRESS": cluster.address}
        yield environment, lambda: cluster.remove_node(second, allow_graceful=False)
    finally:
        ray.shutdown()
        cluster.shutdown()
