"""Scores for membership inference, which are higher for images that a network was trained with, and a metric of them.

The AUROC of the scores is `kd_lightning.metrics.ood.auroc`.
"""

import math

import torch
from torch import Tensor

from kd_lightning.errors import ConfigError


def log_odds(logits: Tensor, classes: Tensor) -> Tensor:
    """Return log(p / (1 - p)) for the softmax probability p of one class of each image: N float64.

    The log-odds increase with p, and therefore decrease with the cross-entropy -log p. Thresholds on the three values
    separate the same images. In contrast to p, the log-odds are not rounded if p is close to 1, where many training
    images are. They are computed from the logits as z_class - logsumexp of the other logits.

    Args:
        logits: Logits N,K of at least two classes.
        classes: Class of each image, N int64.

    Raises:
        ConfigError: if the shapes do not match.
    """
    if logits.ndim != 2 or logits.shape[1] < 2 or classes.shape != logits.shape[:1]:
        shapes = f"{tuple(logits.shape)} and {tuple(classes.shape)}"
        raise ConfigError(f"logits: the shapes of logits and classes are {shapes}, but they must be N,K and N, K > 1")
    logits = logits.detach().double()
    own = logits.gather(1, classes[:, None])
    others = logits.scatter(1, classes[:, None], -torch.inf)
    return own[:, 0] - others.logsumexp(dim=1)


def tpr_at_1_fpr(members: Tensor, others: Tensor) -> float:
    """Return the largest share of members above a threshold that at most 1 % of the other images exceed.

    This is the highest true positive rate of the ROC curve at a false positive rate of 0.01 or less (Carlini et al.
    2022, "Membership Inference Attacks From First Principles"). With fewer than 100 other images, none of them may
    exceed the threshold. The result is NaN if a set is empty, or if a score is NaN.

    Args:
        members: Scores N of images that the network was trained with.
        others: Scores M of other images.
    """
    members, others = members.detach().double(), others.detach().double()
    if not len(members) or not len(others) or members.isnan().any() or others.isnan().any():
        return math.nan
    threshold = others.sort(descending=True).values[len(others) // 100]
    return (members > threshold.to(members.device)).double().mean().item()
