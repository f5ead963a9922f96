"""Input of class maps: the map whose average the classifier of a network reads."""

from torch import Tensor

from kd_lightning.models import Features, Network


def pooled_map(network: Network, features: Features) -> Tensor:
    """Return the map N,D,H,W of a network that its pooling averages, so that its classifier can read each position.

    It is the last map. In a network with a convolution between its last stage and pooling (EfficientNet,
    `cifar_mobilenetv2`), it is the output of this convolution.

    Args:
        network: Network with the classifier.
        features: Features of the network, with `maps` and `final`.

    Raises:
        ConfigError: if the network has no class maps (see `Network.classify`).
    """
    last, final = features.maps[-1], features.final
    if last.shape[1] != network.embedding_width and final.ndim == 4 and final.shape[1] == network.embedding_width:
        last = final
    network.classify(last[:1, :, :1, :1])  # raises the error
    return last
