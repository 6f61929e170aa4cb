"""Conformance suites, for tests of networks and methods here and in packages of their own."""

from gkd_bench.testing.methods import METHOD_CHECKS as METHOD_CHECKS
from gkd_bench.testing.methods import check_method as check_method
from gkd_bench.testing.networks import NETWORK_CHECKS as NETWORK_CHECKS
from gkd_bench.testing.networks import NetworkCheck as NetworkCheck
from gkd_bench.testing.networks import check_network as check_network
