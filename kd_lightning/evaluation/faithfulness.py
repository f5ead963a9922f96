"""Faithfulness: similarity of student and teacher, independent of whether their predictions are correct."""

from kd_lightning.errors import check_positive
from kd_lightning.evaluation.evaluator import EvaluationResult, Evaluator
from kd_lightning.evaluation.network_view import NetworkView
from kd_lightning.metrics import faithfulness as metric
from kd_lightning.metrics import linear_cka, neighbor_overlap, similarity_distance


class Faithfulness(Evaluator):
    """Logs how similar a student is to its teacher on the test images.

    Three values compare the logits. They are logged if the classifiers of both networks were trained on the classes of
    the data. `agreement_teacher_errs` is the share of equal predictions among the images on which the teacher is wrong.
    This value needs labels. `TeacherAgreement` logs the agreement on all images. `kl` is the mean of
    KL(teacher || student) of the softmax outputs. `logit_cosine` is the mean cosine of the centred logits.

    Three values compare the embeddings, which may have different widths. `cka` is linear, unbiased CKA (Nguyen et al.
    2021). `neighbors_<k>` is the share of an image's k nearest neighbours that are the same in both embeddings.
    `sp_distance` is the mean of SP's loss over batches of embeddings. The command line adds this evaluator to every run
    with a teacher.

    Args:
        k: Numbers of neighbours for `neighbors_<k>`. Default: 1, 5, 10 and 30.
        batch_size: Batch size of `sp_distance`. The value of `sp_distance` depends on the batch size.
        every_n_epochs: Number of epochs between two evaluations of the validation images during `fit`; 0 disables them.
    """

    needs_labels = False

    def __init__(self, *, k: list[int] | None = None, batch_size: int = 250, every_n_epochs: int = 0) -> None:
        super().__init__(every_n_epochs=every_n_epochs)
        self.ks, self.batch_size = k or [1, 5, 10, 30], batch_size
        for number in self.ks:
            check_positive(**{"Faithfulness.k": number})
        check_positive(**{"Faithfulness.batch_size": batch_size})

    def evaluate(self, view: NetworkView) -> EvaluationResult:
        if not view.teacher:
            return EvaluationResult({})
        student, teacher = view.predictions(), view.teacher.predictions()
        values: dict[str, float] = {}
        if view.knows_classes and view.teacher.knows_classes:
            if view.data.labeled:
                agreement = metric.agreement(student.logits, teacher.logits, student.labels).where_teacher_errs
                values["agreement_teacher_errs"] = float(agreement)
            values["kl"] = float(metric.soft_kl(student.logits, teacher.logits))
            values["logit_cosine"] = float(metric.logit_cosine(student.logits, teacher.logits))
        student_embedding, teacher_embedding = student.embedding, teacher.embedding
        values["cka"] = float(linear_cka(student_embedding, teacher_embedding))
        overlap = neighbor_overlap(student_embedding, teacher_embedding, self.ks)
        values |= {f"neighbors_{k}": float(share) for k, share in overlap.items()}
        values["sp_distance"] = float(
            similarity_distance(student_embedding, teacher_embedding, batch_size=self.batch_size)
        )
        return EvaluationResult(values)
