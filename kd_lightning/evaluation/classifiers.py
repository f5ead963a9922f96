"""Linear classifiers that evaluators train on frozen embeddings."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:  # importing scikit-learn takes a second
    from sklearn.pipeline import Pipeline

STRENGTHS = tuple(np.logspace(-4, 2, 7).tolist())


def logistic_scores(
    bank: Tensor,
    labels: Tensor,
    queries: Tensor,
    *,
    classes: int,
    strengths: Sequence[float] = STRENGTHS,
    max_iter: int = 200,
) -> Tensor:
    """Return log-probabilities N,K of scikit-learn's logistic regression (L-BFGS) on standardised embeddings.

    C is the value in `strengths` with the best accuracy on held-out images. A fifth of the bank is held out, but at
    least as many images as there are classes. The held-out images are stratified by class where possible. The final
    classifier is then trained on the complete bank. A class without images in the bank gets -inf.

    Args:
        bank: Embeddings of the training images, M,D.
        labels: Labels of the training images, M int64.
        queries: Embeddings of the images to classify, N,D.
        classes: Number of classes K.
        strengths: Values of C to choose from. A single value is used without a search.
        max_iter: Maximum number of L-BFGS iterations.
    """
    vectors, targets = bank.cpu().numpy(), labels.cpu().numpy()
    strength = strengths[0] if len(strengths) == 1 else _best_strength(vectors, targets, strengths, max_iter)
    pipeline = _fit(vectors, targets, strength, max_iter)
    scores = torch.full((len(queries), classes), -torch.inf)
    scores[:, pipeline.classes_] = torch.from_numpy(pipeline.predict_log_proba(queries.cpu().numpy())).float()
    return scores


def _best_strength(vectors: np.ndarray, labels: np.ndarray, strengths: Sequence[float], max_iter: int) -> float:
    from sklearn.model_selection import train_test_split

    counts = np.unique(labels, return_counts=True)[1]
    num_held_out = max(len(labels) // 5, len(counts))
    stratify = labels if counts.min() > 1 and len(labels) - num_held_out >= len(counts) else None
    parts = train_test_split(vectors, labels, test_size=num_held_out, stratify=stratify, random_state=0)
    fits = {strength: _fit(parts[0], parts[2], strength, max_iter) for strength in strengths}
    return max(fits, key=lambda strength: fits[strength].score(parts[1], parts[3]))


def _fit(vectors: np.ndarray, labels: np.ndarray, strength: float, max_iter: int) -> "Pipeline":
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=max_iter))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # large C may not converge; it is evaluated as it is
        return pipeline.fit(vectors, labels)


def sgd_scores(
    bank: Tensor,
    labels: Tensor,
    queries: Tensor,
    *,
    classes: int,
    epochs: int = 100,
    lr: float = 30.0,
    batch_size: int = 256,
) -> Tensor:
    """Return logits N,K of a linear layer that is trained by SGD on the bank's device, with CoSS's recipe for ImageNet.

    The weights are drawn from a normal distribution with mean 0 and standard deviation 0.01, and the biases start at 0.
    The momentum is 0.9, and there is no weight decay. The learning rate is divided by 10 after 60 % and 80 % of the
    epochs. An incomplete last batch is dropped. The seed is 0. The released code augments the training images and
    selects the best epoch by validation. This function does not augment the images, and it uses the last epoch.

    Args:
        bank: Embeddings of the training images, M,D.
        labels: Labels of the training images, M int64.
        queries: Embeddings of the images to classify, N,D.
        classes: Number of classes K.
        epochs: Number of passes over the bank.
        lr: Learning rate before the first reduction.
        batch_size: Number of images per step; a number above M counts as M.
    """
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(bank.shape[1], classes).to(bank.device)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * 0.01)
        layer.bias.zero_()
    optimizer = torch.optim.SGD(layer.parameters(), lr=lr, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [int(0.6 * epochs), int(0.8 * epochs)])
    size = min(batch_size, len(bank))
    with torch.enable_grad(), torch.autocast(bank.device.type, enabled=False):
        for _ in range(epochs):
            order = torch.randperm(len(bank), generator=generator)[: len(bank) // size * size]
            for rows in order.to(bank.device).split(size):
                optimizer.zero_grad()
                F.cross_entropy(layer(bank[rows]), labels[rows]).backward()
                optimizer.step()
            schedule.step()
    return layer(queries).detach()
