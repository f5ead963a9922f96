"""SimKD: golden values, the deployed network in safetensors and ONNX, targets of other teachers, and refusals."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from helpers import golden
from helpers.factories import digits, method, shared_teacher, student, trainer, with_weights
from torch import Tensor, nn

from kd_lightning import load_run
from kd_lightning.batch import Batch
from kd_lightning.cli import main
from kd_lightning.errors import ConfigError
from kd_lightning.methods import SimKD
from kd_lightning.methods.simkd import mean_squared_error
from kd_lightning.models import Network
from kd_lightning.models.composites.reused_classifier import transfer_layers

VIT = {"img_size": 8, "patch_size": 4, "depth": 2, "num_heads": 2, "embed_dim": 16}


def batch(count: int = 6) -> Batch:
    images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(count)
    return Batch(images, rows % 10, rows, rows)


def transferred(maps: Tensor) -> Tensor:
    layers = transfer_layers(3, 6).double()
    with torch.no_grad():
        for number, layer in enumerate((layer for layer in layers if isinstance(layer, nn.Conv2d)), start=1):
            layer.weight.copy_(golden.weight(number, *layer.weight.shape))
    return layers(nn.functional.avg_pool2d(maps, 2))


def test_golden_values() -> None:
    maps, target = golden.student_maps(2, 3, 8, 8), golden.teacher_maps(2, 6, 4, 4)
    golden.check(lambda x: mean_squared_error(transferred(x), target), (maps,), 0.8082455017, 0.99886461)

    def logits(x: Tensor) -> Tensor:
        return (transferred(x).mean(dim=(2, 3)) @ golden.weight(4, 5, 6).T + golden.bias(4, 5)).sum()

    golden.check(logits, (maps,), 3.177331726, 5.8204517)


def test_the_layers_are_those_of_the_released_code() -> None:
    built = method(SimKD)
    kinds = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 3
    assert [type(layer) for layer in built.transfer] == kinds
    sizes = [(m.in_channels, m.out_channels, m.kernel_size[0], m.bias) for m in built.transfer[::3]]
    assert sizes == [(16, 32, 1, None), (32, 32, 3, None), (32, 64, 1, None)]


def test_the_teachers_classifier_reads_the_mapped_map_and_is_not_trained(tmp_path: Path) -> None:
    built = method(SimKD, ce_weight=0.5, kd_weight=2.0).eval()
    images = batch().images
    maps = built.student.features(images, maps=1).maps[0]
    mapped = built.transfer(maps)
    expected = built.teacher.classify(mapped.mean(dim=(2, 3)))
    torch.testing.assert_close(built(images), expected)
    terms = built.training_terms(batch())
    target = built.teacher.features(images, maps=1).maps[0]
    torch.testing.assert_close(terms["simkd"], (mapped - target).square().mean())
    torch.testing.assert_close(terms["ce"], nn.functional.cross_entropy(expected, batch().labels) / 2)
    assert built.trains_classifier
    before = [value.clone() for value in (*built.teacher_classifier.parameters(), *built.classifier_parameters)]
    run = trainer(tmp_path)
    run.fit(built, digits())
    after = [*built.teacher_classifier.parameters(), *built.classifier_parameters]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert "val/acc" in run.callback_metrics


@pytest.mark.parametrize(("size", "teacher_size", "pooling"), [(16, 8, 2), (None, None, 1), (8, 16, 1)])
def test_the_pooling_of_a_larger_map_is_kept(size: int | None, teacher_size: int | None, pooling: int) -> None:
    teacher = Network("cifar_resnet20.digits", pretrained=True, size=teacher_size)
    built = method(SimKD, teacher, student=student(size=size)).eval()
    assert built.deployed.model_kwargs["pooling"] == pooling
    maps = built.student.features(batch().images, maps=1).maps[0]
    pooled = nn.functional.avg_pool2d(maps, pooling)
    expected = teacher.classify(built.transfer(pooled).mean(dim=(2, 3)))
    torch.testing.assert_close(built(batch().images), expected)
    side = 2 * (size or 8) // 8 // pooling
    assert built.deployed.features(batch().images, maps=2).maps[-1].shape == (6, 64, side, side)


def test_the_embedding_is_the_target_if_it_is_no_average(tmp_path: Path) -> None:
    built = method(SimKD, with_weights(tmp_path, "vit_tiny_patch16_224", **VIT)).eval()
    assert not isinstance(built.transfer[-1], nn.ReLU)  # embeddings of a ViT have negative values
    images = batch().images
    maps = built.student.features(images, maps=1).maps[0].mean(dim=(2, 3), keepdim=True)
    mapped = built.transfer(maps)[:, :, 0, 0]
    target = built.teacher.features(images, embedding=True).embedding
    torch.testing.assert_close(built.training_terms(batch())["simkd"], (mapped - target).square().mean())
    torch.testing.assert_close(built(images), built.teacher.classify(mapped))


@pytest.mark.parametrize("name", ["cifar_wrn_16_1", "cifar_mobilenetv2", "vit_tiny_patch16_224"])
def test_the_map_of_other_students_is_the_input_of_pooling(name: str) -> None:
    kwargs = VIT if name.startswith("vit") else {}
    built = method(SimKD, shared_teacher(), student=Network(name, num_classes=10, model_kwargs=kwargs)).eval()
    seen = built.student.features(batch().images, maps=1, final=True)
    maps = seen.maps[0] if name.startswith("vit") else seen.final
    expected = built.teacher.classify(built.transfer(maps).mean(dim=(2, 3)))
    torch.testing.assert_close(built(batch().images), expected)


@pytest.mark.e2e
def test_safetensors_and_onnx_contain_the_classifier_of_the_teacher(tmp_path: Path) -> None:
    small = "{name: cifar_resnet8, model_kwargs: {channels: [4, 4, 8, 16]}}"
    args = [
        "--model=SimKD",
        f"--model.student={small}",
        "--data=Digits",
        "--data.max_train_samples=100",
        "--data.batch_size=50",
    ]
    args += ["--model.teacher={name: cifar_resnet20.digits, pretrained: true}", "--trainer.accelerator=cpu"]
    args += ["--trainer.max_epochs=1", "--trainer.enable_progress_bar=false", "--run.wandb=off", "--run.id=1"]
    main(["fit", *args, f"--run.output_dir={tmp_path}", "--run.name=first"])
    run = tmp_path / "kd_lightning/first/1"
    loaded = load_run(run)
    built, images = loaded.method.eval(), batch().images
    teacher = Network("cifar_resnet20.digits", pretrained=True).eval()
    maps = built.student.features(images, maps=1).maps[0]
    expected = teacher.classify(built.transfer(maps).mean(dim=(2, 3))).detach()
    again = Network(
        "reused_classifier",
        checkpoint=str(run / "student.safetensors"),
        model_kwargs=json.loads(json.dumps(built.deployed.model_kwargs)),
    ).eval()
    torch.testing.assert_close(again(images), expected)
    main(["export", str(run), f"--path={tmp_path / 'out'}", "--format", "onnx", "--batch_sizes=[1]"])
    (path,) = (tmp_path / "out").glob("*.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    found = session.run(None, {given.name: images.numpy().astype(np.uint8)})[0]
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-4)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"teacher.num_classes: the teacher cifar_resnet20.digits has 10 classes"):
        method(SimKD, student=student(7))
    with pytest.raises(ConfigError, match=r"data.num_classes: SimKD reads logits, but the data have no classes"):
        method(SimKD, student=student(0))
    with pytest.raises(ConfigError, match="factor: 0 is not above 0"):
        method(SimKD, factor=0)
    with pytest.raises(ConfigError, match=r"model.freeze: SimKD does not train the classifier"):
        method(SimKD, student=with_weights(tmp_path, "cifar_resnet8"), freeze="backbone")
    with pytest.raises(ConfigError, match=r"data.batch_size: SimKD needs at least 2 images per batch"):
        method(SimKD).check_data(digits(batch_size=1))
    assert method(SimKD).needs_labels is False
