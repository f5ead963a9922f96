"""Passes: the images that each network looks at in a step, and the features that come of it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor

from kd_lightning.models import Features, Masked, Network, Reads

Images = Tensor | Masked | list[Tensor | Masked]
"""N,3,H,W: one pass of a network; or a list: one pass for each element, which may differ in N, H and W.

`Masked` images are a pass of a ViT in which a learnable token of the method replaces those of some patches.
"""
Seen = Features | list[Features]
"""The features of one pass, or of each pass of a list."""


class Inputs(NamedTuple):
    """The images of a step, for each network."""

    student: Images
    teacher: Images
    further: Mapping[str, Images] = MappingProxyType({})
    """The images of further networks, by name; the student's where a name is missing."""


class FurtherNetwork(NamedTuple):
    """A network in addition to student and teacher: an assistant, a peer, an averaged student."""

    network: Network
    reads: Reads
    """The features that `losses` reads of it."""


def as_inputs(given: Images | Inputs) -> Inputs:
    """Return the inputs of all networks, where `given` may be the images of all of them."""
    return given if isinstance(given, Inputs) else Inputs(given, given)


def run(network: Network, images: Images, reads: Reads) -> Seen:
    """Return the features of one pass of a network, or of one pass for each element of a list."""
    if isinstance(images, list):
        return [network.features(each, **reads._asdict()) for each in images]
    return network.features(images, **reads._asdict())


def only(seen: Seen, reads: Reads) -> Seen:
    """Return the features that `reads` asks for, of one pass or of each."""
    return [each.only(reads) for each in seen] if isinstance(seen, list) else seen.only(reads)


def first(seen: Seen) -> Features:
    """Return the features of the first pass."""
    return seen[0] if isinstance(seen, list) else seen
