"""Top-1 accuracy, or agreement: the share of images to which a network gives a certain class."""

from torchmetrics.classification import MulticlassAccuracy


def top1(classes: int) -> MulticlassAccuracy:
    """Of logits N,K or classes N with classes N, over all images alike; torchmetrics wants two classes or more."""
    return MulticlassAccuracy(max(classes, 2), average="micro")
