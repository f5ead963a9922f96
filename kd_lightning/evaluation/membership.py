"""MembershipInference: whether the training images can be told from other images by the outputs of a network."""

import torch
from torch import Tensor

from kd_lightning.errors import check_between
from kd_lightning.evaluation.evaluator import EvaluationResult, Evaluator
from kd_lightning.evaluation.network_view import NetworkView, Predictions
from kd_lightning.metrics.membership import log_odds, tpr_at_1_fpr
from kd_lightning.metrics.ood import auroc


class MembershipInference(Evaluator):
    """Logs the AUROC of two attacks as `test/membership_<attack>_auroc`, and their TPR as `..._tpr_at_1_fpr`.

    An attacker guesses which images a network was trained with. Members are the training images, without augmentation.
    The other images are the test images (the validation images during `fit`). Equal numbers of both are drawn, as many
    as the smaller set has. Guessing has an AUROC of 50 %. The TPR at 1 % FPR is the share of the members that the
    attacker finds while at most 1 % of the other images are mistaken for members.

    Both attacks compare one number per image with a threshold, and need no shadow models. `loss` is the cross-entropy
    with the label, which is lower for members (Yeom et al. 2018). `confidence` is the largest class probability, which
    is higher for members and needs no label (Salem et al. 2019, third adversary). There are stronger attacks, so low
    values do not prove that a network is private.

    The teacher has the same members: the training images of the run, whether it was trained with them or not.

    Args:
        seed: Seed of the draw of images.
        teacher: Whether the teacher is also evaluated, if its classifier was trained on the classes of the data.
        every_n_epochs: Number of epochs between two evaluations of the validation images during `fit`; 0 disables them.
    """

    def __init__(self, *, seed: int = 0, teacher: bool = False, every_n_epochs: int = 0) -> None:
        super().__init__(teacher=teacher, every_n_epochs=every_n_epochs)
        check_between(0, 2**32 - 1, **{"MembershipInference.seed": seed})
        self.seed = seed

    def evaluate(self, view: NetworkView) -> EvaluationResult:
        if not view.knows_classes:
            return EvaluationResult({})
        groups = view.predictions("train"), view.predictions()
        count = min(len(group.labels) for group in groups)
        members, others = (attacks(drawn(group, count, self.seed)) for group in groups)
        values = {}
        for name, scores in members.items():
            values[f"membership_{name}_auroc"] = auroc(scores, others[name])
            values[f"membership_{name}_tpr_at_1_fpr"] = tpr_at_1_fpr(scores, others[name])
        return EvaluationResult(values)


def attacks(predictions: Predictions) -> dict[str, Tensor]:
    """Return the scores N of N images by attack. A higher score means that the image is more likely a member."""
    classes = {"loss": predictions.labels, "confidence": predictions.logits.argmax(dim=1)}
    return {name: log_odds(predictions.logits, chosen) for name, chosen in classes.items()}


def drawn(predictions: Predictions, count: int, seed: int) -> Predictions:
    """Return the outputs of `count` random images. The images are a function of their number and the seed."""
    order = torch.randperm(len(predictions.labels), generator=torch.Generator().manual_seed(seed))
    rows = order[:count].to(predictions.labels.device)
    return Predictions(*(part[rows] for part in predictions))
