"""Quick dropout drops as often as asked, scales what it keeps, and is gone afterwards."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from fuseforget.models import load_classifier
from fuseforget.train.dropout import quick_dropout

COUNT = 200_003  # no multiple of what is drawn at once


class Model(nn.Module):
    device = torch.device("cpu")

    def __init__(self, p: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Identity(), nn.Dropout(p))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_so_many_are_dropped_and_the_mean_stays(p, dtype):
    torch.manual_seed(0)
    model, x = Model(p), torch.ones(COUNT, dtype=dtype, requires_grad=True)
    with quick_dropout(model):
        y = model(x)
    y.sum().backward()
    share = float((y == 0).double().mean())
    assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / COUNT) + 1e-5
    assert y.dtype == dtype
    assert y.unique().tolist() == [0.0, pytest.approx(1 / (1 - p), rel=1e-2 if dtype == torch.bfloat16 else 2e-4)]
    assert torch.equal(x.grad, y.detach())


def test_neighbours_are_dropped_independently():
    torch.manual_seed(0)
    model = Model(0.5)
    with quick_dropout(model):
        kept = (model(torch.ones(COUNT)) > 0).double() - 0.5
    for lag in (1, 2, 3, 4, 5):
        assert abs(float((kept[lag:] * kept[:-lag]).mean())) < 0.25 * 5 / math.sqrt(COUNT)


def test_the_seed_decides_whatever_the_threads():
    drawn = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            torch.manual_seed(3)
            model = Model(0.3)
            with quick_dropout(model):
                drawn.append([model(torch.ones(COUNT)), model(torch.ones(COUNT))])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert torch.equal(drawn[0][1], drawn[1][1])
    assert not torch.equal(*drawn[0])


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (1.0, True), (0.5, False)])
def test_where_nothing_is_drawn_it_is_torch_s_own(p, training):
    model, x = Model(p).train(training), torch.ones(100)
    with quick_dropout(model):
        assert torch.equal(model(x), torch.dropout(x, p, training))


def test_a_model_has_its_own_modules_back_in_the_mode_that_it_is_in(bert):
    model = load_classifier(bert("m")).model.train()
    own = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Dropout)]
    before = copy.deepcopy(model.state_dict())
    with quick_dropout(model):
        assert not {id(module) for _, module in own} & {id(module) for module in model.modules()}
        model.eval()
    assert [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Dropout)] == own
    assert len(own) > 5
    assert not any(module.training for module in model.modules())
    assert before.keys() == model.state_dict().keys()
