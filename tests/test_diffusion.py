"""Schedules, forward process and samplers against the official tables and against exact solutions."""

import math

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from vidm.config import Diffusion
from vidm.diffusion.gaussian import q_sample, target
from vidm.diffusion.losses import charbonnier, penalty
from vidm.diffusion.samplers import Sampler
from vidm.diffusion.schedule import Schedule


@pytest.fixture(scope="module")
def golden(shared):
    return load_file(shared / "golden" / "official_small.safetensors")


def test_linear_tables(golden):
    schedule = Schedule(Diffusion())
    assert_close(schedule.betas, golden["table/betas"], rtol=1e-12, atol=0)
    assert_close(schedule.alpha_bar, golden["table/alphas_cumprod"], rtol=1e-12, atol=0)


def test_q_sample(golden):
    x_t = q_sample(Schedule(Diffusion()), golden["q/x0"], golden["q/t"], golden["q/noise"])
    assert_close(x_t, golden["q/x_t"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("eta", [0, 1])
def test_one_ddim_step_is_the_official_one(golden, eta):
    scheduler = Sampler(Diffusion(), "ddim", steps=1000, eta=eta, clip=True).scheduler
    for i, t in enumerate(golden["q/t"]):
        step = scheduler.step(
            golden["q/model_out"][i : i + 1, :3],
            t,
            golden["q/x_t"][i : i + 1],
            eta=float(eta),
            use_clipped_model_output=True,
            variance_noise=golden["q/ddim_noise"][i : i + 1],
        )
        if eta and t == 0:
            continue  # the official code adds no noise at t = 0; the variance is 0 there
        assert_close(step.prev_sample[0], golden[f"q/ddim_full_eta{eta}"][i], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name, first, last", [("ddpm", 990, 0), ("ddim", 999, 9)])
def test_spacing(name, first, last):
    steps = Sampler(Diffusion(), name, steps=100, eta=0.0, clip=True).scheduler.timesteps
    assert (len(steps), steps[0], steps[-1]) == (100, first, last)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_ddim_solves_a_gaussian_exactly(prediction):
    """Data N(mu, s^2): the exact network is linear, and the probability flow maps quantile to quantile."""
    mu, s = 0.1, 0.5
    facts = Diffusion(prediction=prediction)
    abar = Schedule(facts).alpha_bar

    def predict(x_t, t):
        a = abar[t].item()
        variance = a * s * s + 1 - a
        x_0 = mu + math.sqrt(a) * s * s / variance * (x_t - math.sqrt(a) * mu)
        eps = (x_t - math.sqrt(a) * x_0) / math.sqrt(1 - a)
        return eps if prediction == "eps" else math.sqrt(a) * eps - math.sqrt(1 - a) * x_0

    noise = torch.linspace(-1.5, 1.5, 9).view(9, 1, 1, 1, 1)
    errors = {}
    for steps in (20, 200):
        x_0 = Sampler(facts, "ddim", steps=steps, eta=0.0, clip=False)(predict, noise)
        errors[steps] = (x_0 - (mu + s * noise[:, 0])).abs().max().item()
    assert errors[200] < 0.02
    assert errors[200] < errors[20] / 5  # first order


def test_v_and_eps_name_the_same_point():
    schedule = Schedule(Diffusion(prediction="v"))
    g = torch.Generator().manual_seed(0)
    x_0, eps = torch.randn(2, 4, 3, 8, 8, generator=g, dtype=torch.float64)
    t = torch.tensor([0, 10, 500, 999])
    x_t, v = q_sample(schedule, x_0, t, eps), target(schedule, x_0, t, eps)
    signal, noise = schedule.signal_and_noise(t)
    assert_close(signal * x_t - noise * v, x_0, rtol=0, atol=1e-6)
    assert_close(noise * x_t + signal * v, eps, rtol=0, atol=1e-6)


def test_charbonnier():
    y = torch.tensor([3.0, 0.0, -1.0], requires_grad=True)
    loss = charbonnier(y, torch.zeros(3), 1e-8)
    loss.backward()
    assert_close(loss, torch.tensor(4 / 3))
    assert_close(y.grad, torch.tensor([1.0, 0.0, -1.0]) / 3)  # finite at an error of 0
    assert_close(charbonnier(y, torch.zeros(3), 4.0), torch.tensor((5 + 4 + math.sqrt(17)) / 3))
    bf16 = torch.full((2, 2), 1.0, dtype=torch.bfloat16)
    assert penalty(Diffusion(loss="mse"), bf16, bf16 * 3).dtype == torch.float32
