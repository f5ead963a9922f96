"""TeacherAccuracy: log the teacher's accuracy once, before the first step."""

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from kd_lightning.distillation import Distiller
from kd_lightning.metrics import top1
from kd_lightning.models import Reads


class TeacherAccuracy(Callback):
    """Logs the teacher's accuracy as `teacher/acc`, and warns if it is less than 5 percentage points above chance.

    The accuracy is measured on the validation images. Without a validation split, it is measured on up to 5,000
    training images without augmentation. It is measured only if the data have labels and the teacher has the classes of
    the data. The argument `check_teacher` of every distiller can turn this callback off.
    """

    def on_train_start(self, trainer: Trainer, pl_module: Distiller) -> None:
        data, teacher = trainer.datamodule, pl_module.teacher
        wanted = pl_module.check_teacher and pl_module.has_task_classifier and data and data.labeled
        if not wanted or trainer.global_step:
            return
        accuracy = top1(teacher.num_classes).to(pl_module.device)
        with torch.random.fork_rng(devices=[]):  # a loader draws a seed, which must not change the student's dropout
            for batch in data.evaluation_loader():
                batch = data.transfer_batch_to_device(batch, pl_module.device, 0)
                with trainer.precision_plugin.forward_context():
                    features = pl_module.teacher_features(batch.images, Reads(logits=True))
                    accuracy.update(features.logits, batch.labels)
        value, chance = accuracy.compute().item(), 1 / teacher.num_classes
        for logger in trainer.loggers:
            logger.log_metrics({"teacher/acc": value}, step=0)
        rank_zero_info(f"teacher {teacher.name}: accuracy {value:.2%} on {data.evaluation_set}")
        if value < chance + 0.05:
            rank_zero_warn(
                f"teacher/acc is {value:.1%}, and chance is {chance:.1%}; check that teacher and data have the same "
                "class order, and that teacher.mean and teacher.std are the values of the teacher's training"
            )
