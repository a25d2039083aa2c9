"""Slices, blocks and twins."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.bed import addressing
from orchestrator.errors import InvalidInput

sizes = st.lists(st.integers(1, 20_000), max_size=4)


def test_an_ipv6_address_carries_its_ipv4_twin() -> None:
    assert addressing.twin(IPv4Address("198.18.16.5")) == IPv6Address("2001:2::c612:1005")
    assert str(addressing.twin_network(IPv4Network("198.18.16.0/20"))) == "2001:2::c612:1000/116"


@given(nodes=st.integers(1, 64), blocks=sizes)
def test_every_block_is_aligned_apart_and_inside_the_slice(nodes: int, blocks: list[int]) -> None:
    names = [f"n{i}" for i in range(nodes)]
    wanted = {f"b{i}": size for i, size in enumerate(blocks)}
    try:
        prefix = addressing.slice_prefix(nodes, blocks)
    except InvalidInput:
        assert sum(blocks) + nodes > 40_000
        return
    network = next(addressing.candidates(prefix, []))
    layout = addressing.lay_out(network, names, wanted)
    spans = list(layout.blocks.values())
    assert all(layout.blocks[name].num_addresses >= size for name, size in wanted.items())
    assert all(span.subnet_of(network) for span in spans)
    assert not any(a.overlaps(b) for i, a in enumerate(spans) for b in spans[i + 1 :])
    assert len(set(layout.nodes.values())) == nodes
    assert not any(address in span for address in layout.nodes.values() for span in spans)
    assert network.network_address not in layout.nodes.values()
    assert network.network_address + 1 not in layout.nodes.values()


def test_2560_domains_leave_room_for_sixteen_beds() -> None:
    prefix = addressing.slice_prefix(4, [2560])
    assert prefix == 19
    assert len(list(addressing.candidates(prefix, []))) == 16


def test_a_candidate_overlaps_with_nothing_that_is_taken() -> None:
    taken = [IPv4Network("198.18.0.0/19"), IPv4Network("198.18.64.0/24")]
    first = next(addressing.candidates(19, taken))
    assert first == IPv4Network("198.18.32.0/19")
    assert IPv4Network("198.18.64.0/19") not in addressing.candidates(19, taken)


def test_the_range_holds_65536_domains_and_not_one_more_block() -> None:
    assert addressing.slice_prefix(4, [65_536]) == 15
    with pytest.raises(InvalidInput, match="131,072"):
        addressing.slice_prefix(4, [65_536, 65_536])


@pytest.mark.parametrize("text", ["10.0.0.0/8", "198.18.0.1/19", "bed", "198.16.0.0/12"])
def test_a_subnet_outside_the_benchmark_range_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        addressing.parse_slice(text)


def test_a_chosen_subnet_that_is_too_small_says_which_size_would_do() -> None:
    with pytest.raises(InvalidInput, match="at least /19"):
        addressing.lay_out(IPv4Network("198.18.0.0/24"), ["a", "b"], {"mail": 2560})
