"""Two Ray nodes on this machine, until standard input ends: ``python cluster.py`` prints their address.

A line of input removes the second node as a host that is switched off.
"""

from __future__ import annotations

import sys

MEMORY_BYTES = 100_000_000


def main() -> None:
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": MEMORY_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        second = cluster.add_node(**node)
        print(cluster.address, flush=True)
        for _ in sys.stdin:
            cluster.remove_node(second, allow_graceful=False)
            print("removed", flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
