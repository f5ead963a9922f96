"""Speed: the numbers stay the same, names of weights too, and what cannot be compiled runs all the same."""

import copy
import pickle
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch
from helpers.factories import (
    EVERY_METHOD,
    digits,
    method,
    some_by_default,
    trainer,
    weights,
    with_views,
    with_weights,
)
from helpers.messages import message_of
from lightning.pytorch import Callback

from kd_lightning.batch import Batch
from kd_lightning.callbacks import Speed
from kd_lightning.callbacks.speed import CompiledTerms
from kd_lightning.cli import main
from kd_lightning.distillation import StudentModule
from kd_lightning.distillation.unreached import in_each_stage
from kd_lightning.methods import FT, KD, SP, Supervised
from kd_lightning.models import Network

ROOT = Path(__file__).parents[2]


def batch(count: int = 8) -> Batch:
    rows = torch.arange(count)
    pixels = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(pixels, rows % 10, rows, rows * 7919)


@cache
def small_teacher() -> Network:
    """A teacher with few layers to compile, which knows nothing."""
    with tempfile.TemporaryDirectory() as folder:
        return with_weights(Path(folder), "cifar_resnet8", channels=[4, 4, 8, 16])


def twins(kind: type[StudentModule], **settings: object) -> tuple[StudentModule, StudentModule]:
    """Return a method with compiled terms, and one without."""
    torch._dynamo.reset()
    plain = method(kind, copy.deepcopy(small_teacher())).train()
    compiled = copy.deepcopy(plain)
    compiled.weighted_terms = CompiledTerms(compiled, **settings)
    return compiled, plain


@pytest.mark.parametrize("kind", some_by_default(EVERY_METHOD, "KD"))
def test_every_methods_losses_compile_as_one_graph_and_stay_the_same(kind: type[StudentModule], tmp_path: Path) -> None:
    """Each stage is one graph, which its later steps and epochs use again."""
    graphs: list[torch.fx.GraphModule] = []
    compiled, plain = twins(
        kind, backend=lambda graph, inputs: (graphs.append(graph), graph.forward)[1], dynamic=False, fullgraph=True
    )
    for one in (compiled, plain):
        one.trainer = trainer(tmp_path, max_epochs=4)
    given = with_views(batch())
    for number, _ in enumerate(zip(in_each_stage(compiled), in_each_stage(plain), strict=True), start=1):
        for seed in range(3):
            for one in (compiled, plain):
                one.trainer.fit_loop.epoch_progress.current.processed = seed
                for each in one.staged:
                    each.epoch.fill_(seed + 1)
                torch.manual_seed(seed)
                one.recorded.clear()  # as each training step does
                torch.stack([*one.training_terms(given).values()]).sum().backward()
        assert compiled.weighted_terms.compiled
        assert compiled.weighted_terms.function is not None
        assert len(graphs) == number
        torch.testing.assert_close(compiled.recorded, plain.recorded)
        pairs = zip(compiled.named_parameters(), plain.parameters(), strict=True)
        for (name, ours), theirs in pairs:
            assert (ours.grad is None) == (theirs.grad is None), name
            if ours.grad is not None:
                torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5, msg=name)
    torch.testing.assert_close(dict(compiled.named_buffers()), dict(plain.named_buffers()))
    assert [*compiled.state_dict()] == [*plain.state_dict()]


def test_copies_and_pickles_have_losses_of_their_own() -> None:
    compiled, plain = twins(SP, backend="eager", dynamic=False)
    del compiled.optimizer, compiled.lr_scheduler  # functions without a name
    for other in (copy.deepcopy(compiled), pickle.loads(pickle.dumps(compiled))):
        assert other.weighted_terms.__self__ is other
        with torch.no_grad():
            for value in other.student.parameters():
                value.zero_()
        assert not torch.equal(other.training_terms(batch())["ce"], plain.training_terms(batch())["ce"])


def test_what_cannot_be_compiled_says_so_once_and_runs(
    recwarn: pytest.WarningsRecorder, capfd: pytest.CaptureFixture
) -> None:
    def backend(*args: object) -> None:
        raise RuntimeError("no compiler\nand two further lines")

    compiled, plain = twins(KD, backend=backend)
    for _ in range(2):
        torch.testing.assert_close(compiled.training_terms(batch()), plain.training_terms(batch()))
    said = [str(warning.message) for warning in recwarn if "speed.compile" in str(warning.message)]
    assert len(said) == 1
    assert "continues uncompiled" in said[0]
    assert "no compiler" in said[0]
    assert "\n" not in said[0]
    assert compiled.recorded.keys() == plain.recorded.keys()
    assert not capfd.readouterr().err


def test_the_methods_own_mistakes_are_not_taken_for_the_compilers() -> None:
    compiled, plain = twins(Supervised, backend="eager", dynamic=False)
    wrong = batch()._replace(labels=torch.full((8,), 99))
    said = message_of(lambda: plain.training_terms(wrong))
    with pytest.raises(IndexError) as raised:
        compiled.training_terms(wrong)
    assert " ".join(str(raised.value).split()) == said


class Strides(Callback):
    """Whether maps have their channels last in training."""

    def on_train_batch_end(self, trainer: object, pl_module: StudentModule, *args: object) -> None:
        seen = (network.features(args[1].images, maps=1).maps[0] for network in (pl_module.student, pl_module.teacher))
        self.last = [maps.is_contiguous(memory_format=torch.channels_last) for maps in seen]


def test_channels_last_changes_neither_the_run_nor_its_checkpoints(tmp_path: Path) -> None:
    found, start = {}, method(SP)
    for last in (False, True):
        strides, trained = Strides(), copy.deepcopy(start)
        run = trainer(tmp_path, Speed(channels_last=last), strides, limit_train_batches=2, precision="64-true")
        run.fit(trained, datamodule=digits())
        assert strides.last == [last, last]
        run.save_checkpoint(tmp_path / f"{last}.ckpt")
        found[last] = weights(trained), torch.load(tmp_path / f"{last}.ckpt", weights_only=False)["state_dict"]
    torch.testing.assert_close(found[True][0], found[False][0], rtol=1e-9, atol=1e-9)
    assert [*found[True][1]] == [*found[False][1]]
    assert all(value.is_contiguous() for value in found[True][1].values())


@pytest.mark.parametrize("kind", some_by_default([SP, FT], "SP"))  # FT has two stages
def test_a_compiled_fit_is_the_same_and_leaves_nothing_behind(
    kind: type[StudentModule], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, mode, **kwargs: compiler(f, backend="aot_eager", **kwargs))
    found, start = [], method(kind, copy.deepcopy(small_teacher()))
    for mode in (None, "default"):
        trained = copy.deepcopy(start)
        run = trainer(tmp_path, Speed(compile=mode), max_epochs=2, precision="64-true")
        run.fit(trained, datamodule=digits(val_split=20))
        assert "weighted_terms" not in vars(trained)
        found.append((weights(trained), {name: float(value) for name, value in run.callback_metrics.items()}))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-9, atol=1e-9)
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-6)


@pytest.mark.slow
def test_compiled_through_the_command_line(tmp_path: Path) -> None:
    args = ["fit", f"--config={ROOT / 'configs/digits/sp.yaml'}", "--trainer.max_epochs=2", "--trainer.accelerator=cpu"]
    args += [f"--run.output_dir={tmp_path}", "--run.wandb=off", "--trainer.enable_progress_bar=false"]
    args += ["--trainer.precision=64-true"]  # rounding grows within two epochs; in float32 it shows in some values
    found = [
        {name: float(value) for name, value in main([*args, *speed]).trainer.callback_metrics.items()}
        for speed in ([], ["--speed.compile=default", "--speed.channels_last=true"])
    ]
    assert found[1] == pytest.approx(found[0], rel=1e-3)
    assert len([*tmp_path.rglob("student.safetensors")]) == 2
