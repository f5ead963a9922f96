"""Values and gradient norms of each method, computed with the released code that each case names.

The inputs are closed-form (`helpers.golden`, `helpers.released`), so that only numbers were taken over. STKD has no
released code.
"""

import pytest
import torch
from helpers.factories import method
from helpers.golden import student, teacher
from helpers.released import signal
from torch import Tensor, nn

from kd_lightning.functional import kd_loss, normalize, regression_loss, sne_loss
from kd_lightning.methods import SEED, FitNet, SimReg
from kd_lightning.methods.at import at_loss
from kd_lightning.methods.coss import RELEASED_SCALE, coss_loss
from kd_lightning.methods.dist import correlation_loss
from kd_lightning.methods.fitnet import hint_loss
from kd_lightning.methods.pkt import pkt_loss
from kd_lightning.methods.rkd import rkd_angle_loss, rkd_distance_loss
from kd_lightning.methods.seed import seed_loss
from kd_lightning.methods.sp import sp_loss
from kd_lightning.methods.tintem import cosine_loss

ROWS, TEACHER_ROWS = student(6, 5), teacher(6, 8)
LOGITS, TEACHER_LOGITS = 3 * student(6, 5), 3 * teacher(6, 5)
MAPS, TEACHER_MAPS = student(6, 60).view(6, 3, 5, 4)[:, :, :4], teacher(6, 64).view(6, 4, 4, 4)


def dist_loss(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    return sum(2 * correlation_loss(logits, teacher_logits, temperature=4, dim=dim) for dim in (0, 1))


def agrees(loss: Tensor, inputs: Tensor, value: float, gradient: float) -> None:
    (found,) = torch.autograd.grad(loss, inputs)
    assert loss.item() == pytest.approx(value, rel=1e-5)  # PKT's code adds 1e-7 to lengths
    assert found.norm().item() == pytest.approx(gradient, rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "inputs", "targets", "value", "gradient"),
    [
        pytest.param(sp_loss, MAPS, TEACHER_MAPS, 0.177076718513, 0.00927961662802, id="SP: HobbitLong/RepDistiller"),
        pytest.param(
            at_loss, MAPS, TEACHER_MAPS, 0.0154938392165, 0.00842268407106, id="AT: szagoruyko/attention-transfer"
        ),
        pytest.param(
            at_loss,
            MAPS,
            teacher(6, 256).view(6, 4, 8, 8),
            0.00736721590163,
            0.00462936789973,
            id="AT with maps of two sizes: HobbitLong/RepDistiller",
        ),
        pytest.param(
            lambda *pair: kd_loss(*pair, temperature=4),
            LOGITS,
            TEACHER_LOGITS,
            1.56169758874,
            0.322668112849,
            id="KD: HobbitLong/RepDistiller",
        ),
        pytest.param(
            rkd_distance_loss, ROWS, TEACHER_ROWS, 0.0298855404755, 0.0481393593039, id="RKD-D: lenscloth/RKD"
        ),
        pytest.param(rkd_angle_loss, ROWS, TEACHER_ROWS, 0.0304495710132, 0.0630722830571, id="RKD-A: lenscloth/RKD"),
        pytest.param(
            pkt_loss, ROWS, TEACHER_ROWS, 0.0205272062097, 0.0407002592796, id="PKT: passalis/probabilistic_kt"
        ),
        pytest.param(
            dist_loss, LOGITS, TEACHER_LOGITS, 26.3975401755, 12.8435241099, id="DIST: hunto/image_classification_sota"
        ),
        pytest.param(
            lambda *pair: coss_loss(*pair, scale=RELEASED_SCALE),
            student(6, 5),
            teacher(6, 5),
            -28.947789562,
            66.0121844743,
            id="CoSS: paganpasta/coss-pytorch",
        ),
    ],
)
def test_losses(loss: object, inputs: Tensor, targets: Tensor, value: float, gradient: float) -> None:
    inputs = inputs.clone().requires_grad_()
    agrees(loss(inputs, targets), inputs, value, gradient)


def filled(head: nn.Module) -> nn.Module:
    """Give a head closed-form parameters, in their order: weights signal, scales 1 + 0.2 signal, biases 0.2 signal."""
    head = head.double().train()
    for place, (name, value) in enumerate(head.named_parameters()):
        scale, offset = (1.0, 0.0) if value.ndim > 1 else (0.2, float(name.endswith("weight")))
        value.data = signal(*value.shape, start=101 * place, scale=scale, offset=offset)
    return head


def test_fitnet_with_its_regressor() -> None:
    """HobbitLong/RepDistiller's ConvReg and HintLoss, with a bias of 0, which BatchNorm removes."""
    maps = student(6, 64).view(6, 4, 4, 4).requires_grad_()
    mapped = filled(method(FitNet, layer=3).regressor)(maps)
    agrees(hint_loss(mapped, teacher(6, 256).view(6, 16, 4, 4)), maps, 0.873040645183, 0.0345645801443)


def test_simreg_with_its_head() -> None:
    """UCDvision/simreg with its head of four layers."""
    rows = student(6, 16).requires_grad_()
    head = filled(method(SimReg).head)
    agrees(regression_loss(head(rows), teacher(6, 64)), rows, 1.96028407922, 0.468015049011)


def test_seed_with_its_head_and_queue() -> None:
    """jacobswan1/SEED with its option student_mlp, temperatures 0.2 and 0.05, and a queue of 12."""
    rows, built = student(6, 16).requires_grad_(), method(SEED, queue_size=12).double()
    built.queue.copy_(normalize(teacher(12, 64).flip(1)))
    loss = seed_loss(
        filled(built.head)(rows),
        teacher(6, 64),
        queue=built.queue.clone(),
        student_temperature=0.2,
        teacher_temperature=0.05,
    )
    agrees(loss, rows, 2.46051576255, 0.784908133466)
    built.enqueue(normalize(teacher(6, 64)))
    assert built.queue.sum().item() == pytest.approx(37.56456357219855, rel=1e-9)
    assert built.queue[5:7, 0].tolist() == pytest.approx([-0.1096277421766059, -0.06987640007740453], rel=1e-9)


@pytest.mark.parametrize(
    ("style", "local", "overall", "head_gradient"),
    [("joint", 8.5609141544, 32.2804231714, 63.9592084561), ("half", 9.45759934209, 32.4806097832, 56.9453974082)],
)
def test_tintem(style: str, local: float, overall: float, head_gradient: float) -> None:
    """emannix/cospress-cosine-similarity-preserving-compression (proteus_vmfsne7_reversed), all weights 1."""
    tokens, teacher_tokens = student(24, 5).view(4, 6, 5).requires_grad_(), teacher(24, 8).view(4, 6, 8)
    weight = signal(5, 8).requires_grad_()
    bias = signal(5, start=101, scale=0.2)
    mapped = nn.functional.linear(nn.functional.layer_norm(teacher_tokens, (8,)), weight, bias)
    target = mapped.detach()
    terms = [
        sne_loss(mapped, teacher_tokens, style=style),
        sne_loss(mapped[:, 0], teacher_tokens[:, 0], style=style),
        cosine_loss(tokens, target),
        cosine_loss(tokens[:, 0], target[:, 0]),
    ]
    found = [term.item() for term in terms]
    assert found == pytest.approx([local, overall, 0.62357445859, 0.591376483558], rel=1e-7)
    gradient, student_gradient = torch.autograd.grad(sum(terms), (weight, tokens))
    assert gradient.norm().item() == pytest.approx(head_gradient, rel=1e-6)
    assert student_gradient.norm().item() == pytest.approx(0.249946011249, rel=1e-6)
