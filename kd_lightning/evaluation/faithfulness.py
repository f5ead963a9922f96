"""Faithfulness: how far the student is like its teacher, right or wrong."""

from kd_lightning.errors import check_positive
from kd_lightning.evaluation.evaluator import EvaluationResult, Evaluator
from kd_lightning.evaluation.network_view import NetworkView
from kd_lightning.metrics import faithfulness as metric
from kd_lightning.metrics import linear_cka, neighbor_overlap, similarity_distance


class Faithfulness(Evaluator):
    """Logs how like its teacher a student is, on the test images.

    Of the logits, where both know the classes: `agreement_teacher_errs`, the share of images with one class for both
    among those that the teacher gets wrong (`agreement`, of all images, is logged anyway); `kl`, of the student's
    softmax from the teacher's; `logit_cosine`, of centred logits. Of the embeddings, whatever their widths: `cka`,
    linear and unbiased (Nguyen et al. 2021); `neighbors_<k>`, the share of each image's k nearest that are the same to
    both; `sp_distance`, SP's own loss between batches of embeddings. The command line adds this probe to every run
    with a teacher.

    Args:
        k: neighbours.
        batch_size: of `sp_distance`, which depends on it.
        every_n_epochs: how often the validation images are evaluated during `fit`.
    """

    needs_labels = False

    def __init__(self, *, k: list[int] | None = None, batch_size: int = 250, every_n_epochs: int = 0) -> None:
        super().__init__(every_n_epochs=every_n_epochs)
        self.ks, self.batch_size = k or [1, 5, 10, 30], batch_size
        for each in (*self.ks, batch_size):
            check_positive(**{"Faithfulness": each})

    def evaluate(self, eyes: NetworkView) -> EvaluationResult:
        if not eyes.teacher:
            return EvaluationResult({})
        student, teacher = eyes.seen(), eyes.teacher.seen()
        found: dict[str, float] = {}
        if eyes.knows_classes and eyes.teacher.knows_classes:
            if eyes.data.labeled:
                errs = metric.agreement(student.logits, teacher.logits, student.labels).where_teacher_errs
                found["agreement_teacher_errs"] = float(errs)
            found["kl"] = float(metric.soft_kl(student.logits, teacher.logits))
            found["logit_cosine"] = float(metric.logit_cosine(student.logits, teacher.logits))
        ours, theirs = student.embedding, teacher.embedding
        found["cka"] = float(linear_cka(ours, theirs))
        overlap = neighbor_overlap(ours, theirs, self.ks)
        found |= {f"neighbors_{k}": float(share) for k, share in overlap.items()}
        found["sp_distance"] = float(similarity_distance(ours, theirs, batch_size=self.batch_size))
        return EvaluationResult(found)
