"""The deployed network of a method that deploys more than its student, from the step to the exported files."""

import copy
import json
from pathlib import Path

import pytest
import timm
import torch
from helpers.factories import digits, method, student, trainer
from safetensors.torch import load_file
from torch import Tensor

from kd_lightning import load_run
from kd_lightning.callbacks import EMA, Speed
from kd_lightning.cli import main
from kd_lightning.distillation import Combined, Distiller, StudentModule
from kd_lightning.distillation.unchanged import unchanged
from kd_lightning.errors import ConfigError
from kd_lightning.evaluation import Cost
from kd_lightning.methods import KD, OKDMDE, EmbedDistill, ResidualKD, SimKD
from kd_lightning.models import Network, checkpoints
from kd_lightning.runs import student_alone
from kd_lightning.runs.checkpoint_io import check_checkpoint

KINDS = {
    "residual_sum": (ResidualKD, {}),
    "branch_ensemble": (OKDMDE, {"keep": "ensemble"}),
    "reused_classifier": (SimKD, {}),
    "mapped_embedding": (EmbedDistill, {"ce_weight": 1.0}),
}
each = pytest.mark.parametrize("name", KINDS)


def images(count: int = 6) -> Tensor:
    return torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def outputs(network: Network, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The logits and the embedding of images, without gradient."""
    with torch.no_grad():
        seen = network.features(images() if given is None else given, logits=True, embedding=True)
    return seen.logits, seen.embedding


def same(one: Network, other: Network) -> bool:
    """Whether two networks have the same logits and the same embeddings."""
    return all(map(torch.equal, outputs(one), outputs(other)))


def build(name: str) -> StudentModule:
    torch.manual_seed(0)
    kind, arguments = KINDS[name]
    return method(kind, student=student(mean=(0.1, 0.2, 0.3)), **arguments).eval()


@each
def test_the_composite_consists_of_the_modules_of_the_method(name: str) -> None:
    built = build(name)
    own, whole = built.deployed.model.state_dict(keep_vars=True), built.state_dict(keep_vars=True)
    assert {*own} <= {*whole}
    assert all(value is whole[key] for key, value in own.items())
    assert all(module is not built.deployed for module in built.modules())
    assert not any(key.startswith("_deployed") for key in whole)
    assert built.deployed.name == name
    assert built.deployed.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    embeddings = outputs(built.deployed)[1], outputs(built.student)[1]
    assert embeddings[0].shape != embeddings[1].shape or not torch.equal(*embeddings)


@each
def test_copies_conversions_and_trials_keep_it_together(name: str) -> None:
    built = build(name)
    before = built(images())
    copied = copy.deepcopy(built)
    with torch.no_grad():
        for value in copied.parameters():
            value.zero_()
    assert copied(images()).abs().max() == 0
    assert torch.equal(built(images()), before)
    with unchanged(built):
        built.double()
        assert built.deployed.mean.dtype == torch.float64
        torch.testing.assert_close(built(images()), before.double(), rtol=1e-4, atol=1e-4)
    built.float()
    assert built.deployed.mean is built.student.mean
    assert torch.equal(built(images()), before)


@each
def test_the_name_and_the_arguments_build_it_again(name: str, tmp_path: Path) -> None:
    built = build(name)
    path = tmp_path / "student.safetensors"
    kwargs = json.loads(json.dumps(built.deployed.model_kwargs))
    described = {**built.deployed.facts(), "model_kwargs": kwargs}
    checkpoints.write(path, built.deployed_state(built.state_dict()), described)
    again = Network(name, checkpoint=str(path), model_kwargs=kwargs).eval()
    assert same(again, built.deployed)
    assert (again.num_classes, again.embedding_width) == (10, built.deployed.embedding_width)
    alone = timm.create_model(name, num_classes=10, **kwargs).eval()
    alone.load_state_dict(load_file(path))
    assert torch.equal(alone(again.normalize(images())), built(images()))
    with pytest.raises(ConfigError, match=rf"is a {name}, of which cifar_resnet8 is a part; to load all"):
        Network("cifar_resnet8", checkpoint=str(path), model_kwargs=kwargs["student"]["model_kwargs"])


@each
def test_a_checkpoint_of_the_run_fits_it_and_its_student(name: str, tmp_path: Path) -> None:
    built, run = build(name), trainer(tmp_path, EMA(decay=0.5))
    run.fit(built, digits())
    path = tmp_path / "last.ckpt"
    run.save_checkpoint(path)
    config = {"model": {"init_args": {"student": {"name": "cifar_resnet8", **_kwargs(built.student)}}}}
    found = student_alone.of_run(config, tmp_path / "config.yaml", path)
    assert found.arguments["name"] == name
    built.eval()
    assert same(Network(**found.arguments).eval(), built.deployed)
    first = Network("cifar_resnet8", checkpoint=str(path), **_kwargs(built.student)).eval()
    assert same(first, built.student)
    written = student_alone.of_run(config, tmp_path / "config.yaml", tmp_path / "student_ema.safetensors").arguments
    assert (written["name"], written["model_kwargs"]) == (name, built.deployed.model_kwargs)
    average = Network(**written).eval()
    assert not same(average, built.deployed)
    with pytest.raises(
        ConfigError, match=rf"only a network, a {name}, .* with {name} as model.student.name and {{'stu"
    ):
        check_checkpoint(str(tmp_path / "student_ema.safetensors"), fits=True)


def _kwargs(network: Network) -> dict[str, object]:
    return {"model_kwargs": network.model_kwargs}


@each
def test_the_student_of_a_seed_does_not_depend_on_what_is_deployed(name: str) -> None:
    torch.manual_seed(0)
    expected = student(mean=(0.1, 0.2, 0.3)).model.state_dict()
    torch.testing.assert_close(dict(build(name).student.model.state_dict()), dict(expected), rtol=0, atol=0)


def test_another_number_of_classes_is_set_in_all_classifiers() -> None:
    model = build("branch_ensemble").deployed.model
    model.reset_classifier(3)
    assert [head.out_features for head in (model.fusion.classifier, model.student.model.fc)] == [3, 3]
    assert all(isinstance(branch.fc, torch.nn.Identity) for branch in model.branches)
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 3)
    summed = build("residual_sum").deployed.model
    summed.reset_classifier(0)
    assert summed(torch.zeros(2, 3, 8, 8)).shape == (2, 16)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"name": "hf_hub:owner/model"}, "student.name: hf_hub:owner/model is described in other files"),
        ({"name": "cifar_resnet8", "checkpoint": "x.pth"}, "student: give name and model_kwargs of a network"),
        ("cifar_resnet8", "student: give name and model_kwargs of a network"),
        ({"name": "cifar_resnet9"}, "timm has no model 'cifar_resnet9'"),
    ],
)
def test_a_file_cannot_name_other_files(arguments: object, problem: str) -> None:
    """The arguments of a composite come from the metadata of a file, which may be of anybody."""
    with pytest.raises(ConfigError, match=problem):
        Network("residual_sum", model_kwargs={"student": arguments, "assistant": {"name": "cifar_resnet8"}})


def test_a_part_of_a_combination_deploys_only_the_student() -> None:
    with pytest.raises(ConfigError, match="ResidualKD cannot be a part, because it deploys more than the student"):
        method(Combined, parts=[ResidualKD])
    assert method(KD).deployed.name == "cifar_resnet8"


def test_channels_last_is_the_format_of_all_networks(tmp_path: Path) -> None:
    built, run = build("residual_sum"), trainer(tmp_path)
    Speed(channels_last=True).setup(run, built, "fit")
    for network in (built.student, built.assistant, built.teacher):
        assert network.model.conv1.weight.is_contiguous(memory_format=torch.channels_last)


def test_cost_is_that_of_the_sum(tmp_path: Path) -> None:
    built = build("residual_sum")
    cost, run = Cost(batch_sizes=[]), trainer(tmp_path)
    run.callbacks.append(cost)
    (metrics,) = run.test(built, digits(), verbose=False)
    body = sum(value.numel() for value in built.assistant.parameters())
    assert metrics["cost/parameters"] == built.student.parameter_count() + body
    assert metrics["cost/macs"] > 1.9 * built.student.macs(8)


@pytest.mark.e2e
@each
def test_a_run_from_fit_to_export(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kind, arguments = KINDS[name]
    small = "{name: cifar_resnet8, model_kwargs: {channels: [4, 4, 8, 16]}}"
    args = [
        f"--model={kind.__name__}",
        f"--model.student={small}",
        "--data=Digits",
        "--data.max_train_samples=100",
        "--data.batch_size=50",
    ]
    args += [f"--model.{key}={value}" for key, value in arguments.items()]
    if issubclass(kind, Distiller):
        args.append("--model.teacher={name: cifar_resnet20.digits, pretrained: true}")
    args += ["--trainer.accelerator=cpu", "--trainer.max_epochs=2", "--trainer.enable_progress_bar=false"]
    run = tmp_path / "runs/kd_lightning/first/1"
    args += ["--run.wandb=off", f"--run.output_dir={tmp_path / 'runs'}", "--run.id=1", "--run.name=first"]
    main(["fit", *args])
    loaded = load_run(run)
    expected = loaded.method(images())
    found = student_alone.of_file(run / "student.safetensors").arguments
    assert torch.equal(Network(**found).eval()(images()), expected)
    results = json.loads((run / "results.json").read_text())["metrics"]
    assert results["cost/parameters"] == loaded.method.deployed.parameter_count()
    tested = main(["test", str(run)]).trainer.callback_metrics
    assert tested["test/acc"] == pytest.approx(results["test/acc"])
    main(["predict", str(run), "--predictions.path=predicted.safetensors"])
    main(["predict", str(run), "--predictions.path=embedded.safetensors", "--predictions.embeddings=true"])
    rows = {**load_file("predicted.safetensors"), **load_file("embedded.safetensors")}
    data = load_run(run).data
    data.setup("test")
    batch = data.datasets["test"].take(torch.arange(360))
    assert torch.equal(rows["indices"], batch.indices)
    logits, embedding = outputs(loaded.student, batch.images)
    torch.testing.assert_close(rows["logits"], logits)
    torch.testing.assert_close(rows["embedding"], embedding)
    main(["export", str(run), "--path=out", "--format", "safetensors", "timm", "--embedding", "--batch_sizes=[1]"])
    exported = Network(name, checkpoint="out/student.safetensors", **_kwargs(loaded.method.deployed)).eval()
    assert same(exported, loaded.student)
