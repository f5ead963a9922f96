"""EarlyExits: accuracy of each exit, cost of a part of a network, and methods without exits."""

from pathlib import Path

import pytest
import torch
from helpers.factories import digits, method, student, trainer
from torch import nn

from kd_lightning.cli import main
from kd_lightning.distillation import Combined, StudentModule
from kd_lightning.errors import ConfigError
from kd_lightning.evaluation import EarlyExits
from kd_lightning.evaluation.exits import AllExits, methods_with_exits
from kd_lightning.methods import CORSD, MHKD, SP, Supervised
from kd_lightning.models import Network, counting

VIT = {"img_size": 8, "patch_size": 4, "depth": 4, "num_heads": 2, "embed_dim": 16}


def evaluated(built: StudentModule, folder: Path) -> dict[str, float]:
    run = trainer(folder, EarlyExits())
    run.test(built, digits(), verbose=False)
    return {name: float(value) for name, value in run.callback_metrics.items()}


@pytest.mark.parametrize("kind", [MHKD, CORSD])
def test_accuracy_and_cost_of_each_exit(kind: type[StudentModule], tmp_path: Path) -> None:
    built, data = method(kind), digits()
    with torch.no_grad():  # each exit predicts another class
        for number, head in built.exits.items():
            head.classifier.bias[number] += 100
    found = evaluated(built, tmp_path)
    data.setup("test")
    labels = data.datasets["test"].labels
    for number in (3, 2):
        assert found[f"test/exit_{number}"] == pytest.approx((labels == number).double().mean().item())
    assert found["test/exit_1"] == found["test/acc"]
    assert found["cost/exit_1_macs"] == built.student.macs(8)
    assert found["cost/exit_1_parameters"] == built.student.parameter_count()
    model, head = built.student.model, built.heads["3"]
    used = (model.conv1, model.bn1, model.layer1, head)  # the stage 3 is layer1
    assert found["cost/exit_3_parameters"] == sum(p.numel() for part in used for p in part.parameters())
    assert found["cost/exit_3_parameters"] < found["cost/exit_2_parameters"]
    before = 8 * 8 * 9 * (3 * 4 + 2 * 4 * 4)  # the stem and layer1, which has one block of two convolutions
    with torch.no_grad():
        maps = built.student.stage_map(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), 3)
        assert found["cost/exit_3_macs"] == before + counting.macs(head, lambda: head(maps))


def test_the_logits_of_an_exit_are_those_of_the_complete_pass() -> None:
    vit = Network("vit_tiny_patch16_224", num_classes=10, model_kwargs=VIT)
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    for network in (student(), vit):
        built = method(CORSD, student=network).eval()
        exits = AllExits(network, built.exits)
        with torch.no_grad():
            together = exits.features(images).logits.chunk(3, dim=1)
            for logits, number in zip(together, (3, 2, 1), strict=True):
                torch.testing.assert_close(exits.exit(images, number), logits)
    assert exits.cost(3, 8)["parameters"] < exits.cost(2, 8)["parameters"]  # a ViT has the same map in all blocks
    assert exits.cost(3, 8)["macs"] < exits.cost(2, 8)["macs"] < exits.cost(1, 8)["macs"]


def test_counting_changes_nothing() -> None:
    network = student()
    network.model.fc.requires_grad_(False)
    network.model.layer1.eval()
    before = [p.requires_grad for p in network.parameters()], [m.training for m in network.modules()]
    image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    with torch.inference_mode():  # as in Lightning's test
        assert counting.parameters(network, lambda: network(image)) == network.parameter_count()
        assert counting.macs(network, lambda: network.stage_map(image, 4)) == 8 * 8 * 9 * 3 * 4
    assert ([p.requires_grad for p in network.parameters()], [m.training for m in network.modules()]) == before
    assert all(parameter.grad is None for parameter in network.parameters())
    assert counting.macs(network, lambda: nn.Linear(2, 3)(image)) is None


def test_a_run_without_exits_is_refused_before_the_first_step(tmp_path: Path) -> None:
    assert {"CORSD", "MHKD"} <= {*methods_with_exits()}
    assert not {"Supervised", "SP", "Combined"} & {*methods_with_exits()}
    line = r"^EarlyExits: Supervised has no exits, .* remove EarlyExits, or choose a method that has exits: CORSD, MHKD"
    built = Supervised(student=student())
    data = digits()
    data.checks = [EarlyExits().check_data]
    with pytest.raises(ConfigError, match=line):
        trainer(tmp_path, EarlyExits()).fit(built, data)
    assert not method(Combined, parts=[SP]).exits


@pytest.mark.e2e
def test_fit_refuses_it_and_no_folder_remains(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    args = ["fit", "--data=Digits", "--model=Supervised", "--model.student.name=cifar_resnet8", "--run.wandb=off"]
    with pytest.raises(SystemExit) as error:
        main([*args, f"--run.output_dir={tmp_path}", "--trainer.accelerator=cpu", "--trainer.callbacks+=EarlyExits"])
    assert error.value.code == 2
    assert "EarlyExits: Supervised has no exits" in capsys.readouterr().err
    assert not [*tmp_path.rglob("config.yaml")]
