"""The ports of the crash run's replicas stay free while nobody listens on them."""

from pathlib import Path

from benchmarks.crash_run.processes import free_ports


def test_no_outgoing_connection_is_given_the_port_of_a_replica_that_is_dead() -> None:
    first, _ = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())

    ports = free_ports(20)

    assert len(set(ports)) == 20
    assert max(ports) < first
