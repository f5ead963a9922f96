"""Top-1 accuracy or agreement: the share of images for which the predicted class is the target class."""

from torchmetrics.classification import MulticlassAccuracy


def top1(classes: int) -> MulticlassAccuracy:
    """Return a metric of logits N,K or classes N, and target classes N. The result is the mean over all images."""
    return MulticlassAccuracy(max(classes, 2), average="micro")
