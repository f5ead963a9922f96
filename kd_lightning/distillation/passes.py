"""Passes: the input images of each network in a step, and the resulting features."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor

from kd_lightning.models import Features, Masked, Network, Reads

Images = Tensor | Masked | list[Tensor | Masked]
"""Images N,3,H,W of one pass of a network, or a list with the images of several passes.

The passes may differ in N, H and W.

`Masked` images are for ViTs. In their pass, a learnable token of the method replaces the tokens of some patches.
"""
Seen = Features | list[Features]
"""Features of one pass, or a list with the features of each pass."""


class Inputs(NamedTuple):
    """Input images of each network in a step."""

    student: Images
    teacher: Images
    further: Mapping[str, Images] = MappingProxyType({})
    """Images for the further networks, by name. A network whose name is missing gets the student's images."""


class FurtherNetwork(NamedTuple):
    """A network in addition to student and teacher: an assistant, a peer, an averaged student."""

    network: Network
    reads: Reads
    """Features of the network that `losses` reads."""


def as_inputs(images: Images | Inputs) -> Inputs:
    """Return the inputs of all networks. Images that are not `Inputs` are for both student and teacher."""
    return images if isinstance(images, Inputs) else Inputs(images, images)


def run(network: Network, images: Images, reads: Reads) -> Seen:
    """Return the features of one pass of a network. For a list of images, return a list with one result per pass."""
    if isinstance(images, list):
        return [network.features(element, **reads._asdict()) for element in images]
    return network.features(images, **reads._asdict())


def only(features: Seen, reads: Reads) -> Seen:
    """Return the features that `reads` requests, without the others, for one pass or for a list of passes."""
    return [element.only(reads) for element in features] if isinstance(features, list) else features.only(reads)


def first(features: Seen) -> Features:
    """Return the features of the first pass."""
    return features[0] if isinstance(features, list) else features
