"""Fetch the challenge's data: what there is, how it comes over the network, how it is unpacked."""
